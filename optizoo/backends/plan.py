"""A step that can be repeated: all that the last one has found out, kept until something has changed.

Everything that can move is read again at every step, in C (``gather.c``): the gradients, the addresses, types, shapes
and strides of all tensors, the entries of the state, the counters. So a plan either repeats exactly what the long way
would do, or says that it does not know.
"""

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.backends import build, foreach, fused
from optizoo.backends.trace import Wiring

_OTHER, _COUNTER = -1, -2


class _Item(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("column", ctypes.c_int64),
        ("layout", ctypes.c_void_p),
        ("counter", ctypes.c_void_p),
    )


class _Entry(ctypes.Structure):
    _fields_ = (
        ("param", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("param_layout", ctypes.c_void_p),
        ("grad_layout", ctypes.c_void_p),
        ("items", ctypes.c_int64),
        ("store", ctypes.c_void_p),
        ("item", ctypes.c_void_p),
        ("step", ctypes.c_void_p),
    )


class _Watch(ctypes.Structure):
    _fields_ = (
        ("read", ctypes.c_void_p),
        ("grad_name", ctypes.c_void_p),
        ("none", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("states", ctypes.c_int64),
        ("stored", ctypes.c_void_p),
        ("groups", ctypes.c_int64),
        ("lists", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("entry", ctypes.c_void_p),
    )


class Task(NamedTuple):
    """One launch of a plan.

    Attributes:
        group: The param group.
        names: The options of the group that decide what is done, without ``lr``, each with its default.
        values: What they were.
        wiring: The traced rule.
        arguments: What the wiring takes, in order; ``lr`` and ``step`` are put in at every step.
        lr_at: Place of ``lr`` among them, or -1.
        step_at: Place of ``step`` among them, or -1.
        launch: The kernel and its tensors.
        params: The parameters of the launch.
        states: For every state column of the launch, after ``param`` and ``grad``, its name.
        stores: The state of every parameter; empty dicts where there is none.
        counter: The number of updates made; what every counter holds.
    """

    group: dict[str, Any]
    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    values: tuple[Any, ...]
    wiring: Wiring
    arguments: list[Any]
    lr_at: int
    step_at: int
    launch: fused.Launch | foreach.Launch
    params: list[Tensor]
    states: list[str]
    stores: list[dict[str, Any]]
    counter: ctypes.c_double


class Plan:
    """The launches of a step, and what they stand on.

    Args:
        groups: ``optimizer.param_groups``.
        state: ``optimizer.state``.
        tasks: What to launch; every parameter with a gradient stands in one of them.

    Raises:
        ValueError: A tensor cannot be watched, or two parameters share a counter.
    """

    def __init__(self, groups: list[dict[str, Any]], state: dict[Tensor, dict[str, Any]], tasks: Sequence[Task]):
        self._groups = groups
        self._group_count = len(groups)
        self._state = state
        self._tasks = tuple(tasks)
        self._lists = [group["params"] for group in groups]
        # torch counts what it writes itself.
        self._unseen = [param for task in tasks if isinstance(task.launch, fused.Launch) for param in task.params]
        self._all_fused = all(isinstance(task.launch, fused.Launch) for task in tasks)
        self._kept: list[Any] = []  # what C holds pointers to
        self._layouts: dict[bytes, Any] = {}
        self._library = _library()
        self._gather = self._library.optizoo_gather
        self._watch = self._watched()
        counters = sum("step" in store for task in tasks for store in task.stores)
        self._arguments = ctypes.byref(self._watch), (ctypes.c_void_p * max(counters, 1))()

    def run(self, groups: list[dict[str, Any]], state: dict[Tensor, dict[str, Any]]) -> bool:
        """Make the step and return ``True``; or ``False`` with nothing touched, if the plan does not hold any more."""
        if groups is not self._groups or state is not self._state or len(groups) != self._group_count:
            return False
        for group, params in zip(groups, self._lists, strict=True):
            if group["params"] is not params:
                return False
        numbers = []
        for task in self._tasks:
            get = task.group.get
            if tuple(map(get, task.names, task.defaults)) != task.values:
                return False
            arguments = task.arguments
            if task.lr_at >= 0:
                arguments[task.lr_at] = task.group["lr"]
            if task.step_at >= 0:
                arguments[task.step_at] = task.counter.value + 1
            if not task.wiring.holds(*arguments):
                return False
            numbers.append(task.wiring.scalars(*arguments))
        if not self._gather(*self._arguments):
            return False
        if self._all_fused:
            for task, scalars in zip(self._tasks, numbers, strict=True):
                task.counter.value += 1
                task.launch.run(scalars)
        else:
            self._run_lists(numbers)
        torch._C._increment_version(self._unseen)  # pyright: ignore[reportPrivateImportUsage]
        return True

    @torch.no_grad()
    def _run_lists(self, numbers: Sequence[tuple[Any, ...]]) -> None:
        """Launch where torch's own functions are at work, which may refuse a number: such a step is not counted."""
        left = list(self._tasks)
        try:
            for scalars in numbers:
                left[0].launch.run(scalars)
                left.pop(0).counter.value += 1
        except BaseException:
            for task in left:
                for store in task.stores:
                    if "step" in store:
                        store["step"] -= 1
            raise

    # What C watches --------------------------------------------------------------------------------------------------

    def _watched(self) -> _Watch:
        places = {}
        for task in self._tasks:
            for index, (param, store) in enumerate(zip(task.params, task.stores, strict=True)):
                places[id(param)] = task, index, store
        params = [param for group in self._lists for param in group]
        entries = (_Entry * max(len(params), 1))()
        counters = set()
        for entry, param in zip(entries, params, strict=False):
            entry.param = id(param)
            place = places.get(id(param))
            if place is None:
                continue
            task, index, store = place
            entry.pointers = ctypes.addressof(task.launch.pointers) + index * ctypes.sizeof(ctypes.c_void_p)
            entry.stride = task.launch.tensors
            entry.param_layout = self._layout(param)
            entry.grad_layout = self._layout(param.grad)
            entry.step = ctypes.addressof(task.counter)
            if store:
                items = self._items(store, {name: column for column, name in enumerate(task.states, start=2)})
                entry.store, entry.items, entry.item = id(store), len(store), ctypes.addressof(items)
                if (counter := store.get("step")) is not None:
                    counters.add(counter.data_ptr())
        if len(counters) != sum("step" in store for task in self._tasks for store in task.stores):
            raise ValueError("two parameters share a counter")
        lists = (ctypes.c_void_p * len(self._lists))(*map(id, self._lists))
        sizes = (ctypes.c_int64 * len(self._lists))(*map(len, self._lists))
        stored = self._items(self._state, None)
        self._kept += [places, entries, lists, sizes, stored]
        return _Watch(
            read=_reader(),
            grad_name=id(_GRAD),
            none=id(None),
            state=id(self._state),
            states=len(self._state),
            stored=ctypes.addressof(stored),
            groups=len(self._lists),
            lists=ctypes.addressof(lists),
            sizes=ctypes.addressof(sizes),
            entry=ctypes.addressof(entries),
        )

    def _items(self, mapping: Mapping[Any, Any], columns: Mapping[str, int] | None) -> Any:
        """Write down the entries of a dict; those in ``columns`` and ``step`` hold tensors that are read."""
        items = (_Item * max(len(mapping), 1))()
        for item, (key, value) in zip(items, mapping.items(), strict=False):
            item.key, item.value, item.column = id(key), id(value), _OTHER
            if columns is None or not isinstance(key, str):  # a key "step" beside the parameters is its owner's
                continue
            if key in columns:
                item.column, item.layout = columns[key], self._layout(value)
            elif key == "step":
                if (
                    not isinstance(value, Tensor)
                    or value.dtype != torch.float32
                    or value.dim()
                    or value.device.type != "cpu"
                ):
                    raise ValueError("step is no float32 number on the CPU")
                item.column, item.counter = _COUNTER, value.data_ptr()
                self._kept.append(value.untyped_storage())
        self._kept += [items, list(mapping.items())]
        return items

    def _layout(self, tensor: Tensor) -> int:
        """Return the address of the layout of a tensor; equal ones share it, which keeps them in the CPU's cache."""
        layout = (ctypes.c_int64 * (4 + 2 * tensor.dim()))()
        if self._library.optizoo_describe(ctypes.c_void_p(_reader()), ctypes.py_object(tensor), layout):
            raise ValueError("a tensor cannot be read")
        return ctypes.addressof(self._layouts.setdefault(bytes(layout), layout))


_GRAD = "grad"


@cache
def _library() -> ctypes.CDLL:
    return build.library(files("optizoo.backends").joinpath("gather.c").read_text(encoding="utf-8"), holds_gil=True)


@cache
def _reader() -> int:
    """Return the address of the function of torch that reads a tensor, from DLPack's exchange API.

    Raises:
        ValueError: This torch has none, or of another major version.
    """
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        raise ValueError("torch has no DLPack exchange API")
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = get(capsule, b"dlpack_exchange_api")
    major = ctypes.c_uint32.from_address(table).value
    # A header (version, older table), then allocator, two conversions, and dltensor_from_py_object_no_sync.
    reader = (ctypes.c_void_p * 6).from_address(table)[5]
    if major != 1 or not reader:
        raise ValueError(f"the DLPack exchange API of torch has version {major}, not 1, or cannot read tensors")
    return reader
