"""A step that can be repeated: all that the last one has found out, kept until something has changed.

Everything that a user may exchange between two steps is read again at every step, in C (``step.c``): the param groups,
their lists and options; the state, its stores, tensors and counters; the gradients; addresses, types, shapes and
strides. So a plan either repeats exactly what the long way would do, or says that it does not know.

Options that are floats are no part of what must stay: they are read anew, and the formulas of the rule evaluated in C
(:mod:`optizoo.backends.formulas`). Where an option is a tensor, or a formula has no equal in C, Python evaluates it.
The counters and the numbers that run beside them are known: they must hold what the last step has left, and get their
new value, in the type that they have, when nothing can refuse the step any more.
"""

import ctypes
import itertools
import operator
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.backends import foreach, fused
from optizoo.backends.formulas import Code, InexpressibleError, Number, compiled, condition, instruction
from optizoo.backends.reader import reader
from optizoo.backends.trace import Wiring
from optizoo.core.rule import step_dtype

_FREE, _PINNED, _TENSOR, _COUNTER, _RUNNING, _NUMBER, _TUPLE = range(7)  # kinds of an item in step.c
_HELD = 21  # the place of `held` in watch_t

Arguments = Callable[["Task"], Sequence[Any] | None]


class Task(NamedTuple):
    """One bucket of a step that is to be repeated.

    Attributes:
        group: The param group.
        names: What the wiring takes, in order: options, ``step``, what hangs on the parameters alone, and the running
            numbers.
        values: What the options were.
        constants: What hangs on the parameters, and is as it was while their layouts are.
        running: The names of the running numbers.
        wiring: The traced rule.
        choice: What decided on the rule: names of options of the group and the conditions on them, as
            :func:`optizoo.backends.trace.watched` has them; ``None`` where it cannot be told.
        in_lists: Whether it is executed over lists, or else by a kernel.
        states: For every state column, after ``param`` and ``grad``, its name.
        absent: Names of states that must not come to be.
        stores: The state of every parameter; empty dicts where there is none.
        counts: Whether every store has a counter.
        numbers: The number of updates made, which every counter holds, and the running numbers.
        choice_made: The rule and its states.
    """

    group: dict[str, Any]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    constants: tuple[Any, ...]
    running: tuple[str, ...]
    wiring: Wiring
    choice: tuple[tuple[str, ...], tuple[str, ...]] | None
    in_lists: bool
    states: list[str]
    absent: frozenset[str]
    stores: list[dict[str, Any]]
    counts: bool
    numbers: ctypes.Array[Number]
    choice_made: tuple[Any, Any]

    @property
    def moves(self) -> bool:
        """Whether its scalars are others at every step."""
        return "step" in self.names or bool(self.running)

    def taken(self, values: Iterable[Any]) -> list[Any]:
        """Return all that the wiring takes, with these values of the options."""
        made, *running = (number.known for number in self.numbers)
        return [*values, *([made + 1] if "step" in self.names else ()), *self.constants, *running]

    @property
    def kept(self) -> dict[str, Number]:
        """The numbers that every store has a tensor of, by its name there."""
        named = dict(zip(("step", *self.running), self.numbers, strict=True))
        return {name: number for name, number in named.items() if name != "step" or self.counts}


class Plan:
    """The launches of a step, and what they stand on.

    Args:
        groups: ``optimizer.param_groups``.
        state: ``optimizer.state``.
        options: The names of all options that the optimizer knows.
        tasks: What to launch; every parameter with a gradient stands in one of them.
        calls: For every task its tensors, of which the gradients are not kept.

    Raises:
        BuildError: The C text cannot be built.
        ValueError: Something cannot be watched: a container is no plain dict or list, a tensor cannot be read, a
            parameter stands twice, or two share a counter.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        state: dict[Tensor, dict[str, Any]],
        options: frozenset[str],
        tasks: Sequence[Task],
        calls: Sequence[fused.Call],
    ):
        self._reader = reader()
        self._groups, self._state, self._options = groups, state, options
        self._lists = [[*group["params"]] for group in groups]
        self._kept: list[Any] = [[*groups], [*state.items()], [[*group.items()] for group in groups]]
        self._known: dict[bytes, int] = {}  # layouts: equal ones share an address, and so the CPU's cache
        _require_plain(groups, state, tasks)
        self._launches = _launched(tasks, calls)
        running = {id(task.group): len(task.running) for task in tasks}
        self._dtype = step_dtype() if any(running.values()) else None
        self._numbers = {id(group): _Numbers(group, options, running.get(id(group), 0)) for group in groups}
        self._codes = {id(task): self._code(task) for task in tasks}
        self._by_python = self._evaluated()
        tensors = {id(task): call.inputs for task, call in zip(tasks, calls, strict=True)}
        self._watch = self._watched(_placed(self._launches, tensors))
        written = [param for task in tasks if not task.in_lists for param in tensors[id(task)][0]]
        self._uncounted = [param for param in written if not self._counts(param)]
        self._gather = self._reader.library.optizoo_gather
        self._release = self._reader.library.optizoo_release
        self._step = self._reader.library.optizoo_step
        self._parallel = fused.parallel()
        self._in_lists = any(task.in_lists for task in tasks)
        places = {id(param): place for place, param in enumerate(itertools.chain(*self._lists))}
        self._grads = (ctypes.py_object * max(len(places), 1)).from_buffer(self._held)
        self._listed = {
            id(launch): [places[id(param)] for param in launch.params]
            for launch, _ in self._launches
            if isinstance(launch, foreach.Launch)
        }

    def run(self, groups: list[dict[str, Any]], state: dict[Tensor, dict[str, Any]], arguments: Arguments) -> bool:
        """Make the step and return ``True``; or ``False`` with nothing touched, if the plan does not hold any more.

        Args:
            groups: ``optimizer.param_groups``.
            state: ``optimizer.state``.
            arguments: For a task, what its rule takes now, in order, without ``step``; ``None`` if it has another rule.
        """
        if groups is not self._groups or state is not self._state:
            return False
        if self._dtype is not None and self._dtype is not step_dtype():  # in which numbers are made and multiplied
            return False
        for task, put, found in self._by_python:
            if not found.still():
                found.keep(arguments(task))
            elif not task.moves:
                continue
            if found.values is None:
                return False
            values = task.taken(found.values)
            if not task.wiring.holds(*values):
                return False
            put(task.wiring.scalars(*values))
            for number, new in zip(task.numbers[1:], task.wiring.numbers(*values), strict=True):
                if isinstance(new, complex):
                    return False
                number.coming = new.item() if isinstance(new, Tensor) else new
        if self._in_lists:
            if not self._gather(self._watch):
                return False
            self._run_lists()
        elif not self._step(self._watch, ctypes.c_int64(fused.threads()), self._parallel):
            return False
        if self._uncounted:
            torch._C._increment_version(self._uncounted)  # pyright: ignore[reportPrivateImportUsage]
        return True

    @torch.no_grad()
    def _run_lists(self) -> None:
        """Launch where torch's own functions are at work, which may refuse a number: such a step is not counted."""
        left = [*self._launches]
        try:
            while left:
                launch, _ = left[0]
                if isinstance(launch, foreach.Launch):
                    launch.run(self._held_grads(launch))
                else:
                    launch.run()
                left.pop(0)
        except BaseException:
            for task in itertools.chain(*(tasks for _, tasks in left)):
                for number in task.numbers:
                    number.known = number.before
                for store, (name, number) in itertools.product(task.stores, task.kept.items()):
                    store[name].fill_(number.known)
            raise
        finally:
            self._release(self._watch)

    def _held_grads(self, launch: foreach.Launch) -> list[Tensor]:
        """Return the gradients that C holds for a launch; those of the parameters may be others by now."""
        return [self._grads[place] for place in self._listed[id(launch)]]

    # What C watches --------------------------------------------------------------------------------------------------

    def _evaluated(self) -> list[tuple[Task, Callable[[Sequence[Any]], None], "Found"]]:
        """Return the tasks whose scalars Python evaluates, where they go, and what they were evaluated of."""
        found = []
        for launch, tasks in self._launches:
            for row, task in enumerate(tasks):
                if isinstance(launch, foreach.Launch):
                    found.append((task, launch.put, Found(task.group, self._options)))
                elif self._codes[id(task)] is None:
                    found.append((task, partial(launch.put, row), Found(task.group, self._options)))
        return found

    def _code(self, task: Task) -> Code | None:
        """Return the words that check what the rule of a task hangs on and evaluate its scalars, or ``None``.

        Then Python must do that: there is no word for something, or the options can change unseen, or there are lists.
        """
        numbers = self._numbers[id(task.group)]
        if task.in_lists or task.choice is None or numbers.mutable:
            return None
        names, conditions = task.choice
        choosing = numbers.operands(names, [task.group[name] for name in names])
        operands = numbers.operands(task.names, task.taken(task.values))
        for place, index in enumerate(range(len(task.names) - len(task.running), len(task.names)), start=1):
            operands[f"option{index}"] = str(place)
        single = step_dtype() is torch.float32
        try:
            code = [word for text in conditions for word in condition(text, choosing)]
            code += [word for text in task.wiring.conditions for word in condition(text, operands, single=single)]
            for index, text in enumerate(task.wiring.formulas):
                code += [*compiled(text, operands, single=single), ("STORE", index)]
            for index, text in enumerate(task.wiring.running, start=1):
                code += [*compiled(text, operands, single=single), ("KEEP", index)]
        except InexpressibleError:
            return None
        return code

    def _watched(self, places: Mapping[int, "_Place"]) -> Any:
        groups, entries, rows, launches = [], [], [], []
        cells: list[int] = []
        for group in self._groups:
            own = self._numbers[id(group)]
            items = self._words(own.items(self._words))
            params = group["params"]
            groups += [id(group), id(params), len(group), len(params), items, ctypes.addressof(own.memory)]
            for param in params:
                entries += self._entry(param, places.get(id(param)), cells)
        for launch, tasks in self._launches:
            for row, task in enumerate(tasks):
                code = self._codes[id(task)] or []
                at = self._words(itertools.chain(*(instruction(word, operand) for word, operand in code)))
                scalars = 0
                if isinstance(launch, fused.Launch):
                    scalars = ctypes.addressof(launch.scalars) + 8 * row * launch.kernel.width
                memory = ctypes.addressof(self._numbers[id(task.group)].memory)
                rows += [memory, scalars, len(code), at if code else 0]
                rows += [len(task.numbers), ctypes.addressof(task.numbers[0])]
            if isinstance(launch, fused.Launch):
                function = ctypes.cast(launch.kernel.function, ctypes.c_void_p).value
                tables = (launch.ends, launch.pointers, launch.scalars, launch.rows)
                launches += [function, launch.tensors, *map(ctypes.addressof, tables)]
        planned = {id(store) for _, tasks in self._launches for task in tasks for store in task.stores}
        stored = [(key, value, _PINNED if id(value) in planned else _FREE, 0, 0) for key, value in self._state.items()]
        count = sum(len(group["params"]) for group in self._groups)
        self._held = (ctypes.c_void_p * max(count, 1))()
        words = [
            *(self._reader.read, id(_GRAD), id(None), id(_REQUIRES_GRAD), id(False)),
            *(id(self._groups), len(self._groups), self._words(groups)),
            *(id(self._state), len(self._state), self._words(_as_words(stored)), self._words(entries)),
            *(len(rows) // 6, self._words(rows), len(launches) // 6, self._words(launches)),
            *(fused.GRAIN, self._reader.bump, ctypes.addressof(self._held), len(cells) // 2, self._words(cells), 0),
        ]
        assert len(words) == _HELD + 1
        self._words(words)
        return ctypes.byref(self._kept[-1])

    def _counts(self, param: Tensor) -> bool:
        """Return whether C counts the version of a parameter that a kernel writes; those of inference have none."""
        return bool(self._reader.bump) and not param.is_inference()

    def _entry(self, param: Tensor, place: "_Place | None", cells: list[int]) -> list[int]:
        """Return the words of a parameter, and append those of its counter and running numbers."""
        if place is None:
            return [id(param), *[0] * 8]
        task, store = place.task, place.store
        items, kept = [], task.kept
        for key, value in store.items():
            if key in kept:
                kind = _RUNNING if key in task.running else _COUNTER
                items.append((key, value, kind, len(cells) // 2, self._layout(value)))
                cells += [value.data_ptr(), ctypes.addressof(kept[key])]
            elif key in task.states:
                items.append((key, value, _TENSOR, 2 + task.states.index(key), self._layout(value)))
            else:
                items.append((key, value, _PINNED if key in task.absent else _FREE, 0, 0))
        counted = not task.in_lists and self._counts(param)
        self._kept.append([*store.items()])
        return [
            *(id(param), place.pointers, place.stride, self._layout(param), self._layout(place.grad)),
            *(param._cdata if counted else 0, len(items), id(store) if store else 0),
            self._words(_as_words(items)) if items else 0,
        ]

    def _words(self, words: Iterable[int]) -> int:
        """Keep words for C and return their address."""
        words = [*words]
        array = (ctypes.c_int64 * max(len(words), 1))(*words)
        self._kept.append(array)
        return ctypes.addressof(array)

    def _layout(self, tensor: Tensor) -> int:
        layout = self._reader.layout(tensor)
        if layout not in self._known:
            self._known[layout] = self._words(struct.unpack(f"{len(layout) // 8}q", layout))
        return self._known[layout]


class Found:
    """What a step has found in the options of a param group, and whether the next would find the same.

    Args:
        group: The group.
        options: The names of all options that the optimizer knows.

    Attributes:
        values: What was kept.
    """

    def __init__(self, group: Mapping[str, Any], options: frozenset[str]):
        self._group, self._options = group, options
        self.values: Sequence[Any] | None = None
        self._keys: list[str] | None = None
        self._items: list[Any] = []

    def keep(self, values: Sequence[Any] | None) -> None:
        """Keep values that were found in the group as it is now."""
        group = self._group
        # What may change and stay the same object, a tensor or a list, cannot be seen to be as it was.
        lasting = type(group) is dict and all(_is_constant(group[name]) for name in group.keys() & self._options)
        self.values, self._keys, self._items = values, [*group] if lasting else None, [*group.values()]

    def still(self) -> bool:
        """Return whether the group is as it was; ``False`` where that cannot be told."""
        return self._keys == [*self._group] and all(map(operator.is_, self._items, self._group.values()))

    def moved(self, names: Collection[str]) -> bool:
        """Return whether nothing but options of these names is another than it was, each a float as before."""
        return self._keys == [*self._group] and all(
            old is new or (name in names and type(old) is type(new) is float)
            for old, (name, new) in zip(self._items, self._group.items(), strict=True)
        )


def _is_constant(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return value is None or type(value) in (float, int, bool, str)


class _Numbers:
    """The options of a param group as C sees them: which are read at every step, and which must stay.

    Attributes:
        mutable: Whether an option may change its value without becoming another object.
        memory: The numbers, for C to write; the first is the step, and behind it are those that run beside it.
    """

    def __init__(self, group: Mapping[str, Any], options: frozenset[str], running: int):
        self._group, self._options = group, options
        self._places: dict[Any, int] = {"step": 0, **{place: place for place in range(1, 1 + running)}}
        for name in group.keys() & options:
            value = group[name]
            for place, cell in enumerate(value) if type(value) is tuple else [(None, value)]:
                if _is_moving(cell):
                    self._places[name, place] = len(self._places)
        self.memory = (ctypes.c_double * len(self._places))()
        cells = itertools.chain(*(v if type(v) is tuple else (v,) for k, v in group.items() if k in options))
        self.mutable = any(
            not isinstance(cell, (int, float, str, type(None), torch.dtype)) and not _is_moving(cell) for cell in cells
        )

    def operands(self, names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
        """Return for ``option0`` and its like where C finds them, or the number that they are."""
        found: dict[str, Any] = {}
        for index, (name, value) in enumerate(itertools.zip_longest(names, values)):
            if name == "step":
                found[f"option{index}"] = "0"
            elif isinstance(value, tuple):
                for place, cell in enumerate(value):
                    found[f"option{index}[{place}]"] = self._operand(name, place, cell)
            else:
                found[f"option{index}"] = self._operand(name, None, value)
        return {name: operand for name, operand in found.items() if operand is not None}

    def _operand(self, name: str, place: int | None, value: Any) -> Any:
        if (name, place) in self._places:
            return str(self._places[name, place])
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def items(self, keep: Callable[[Iterable[int]], int]) -> Iterable[int]:
        """Return the words of the items of the group; ``keep`` gives words for C an address."""
        items = []
        for key, value in self._group.items():
            if key not in self._options:
                items.append((key, value, _PINNED if key == "params" else _FREE, 0, 0))
            elif type(value) is tuple:
                cells = [self._item(key, place, cell) for place, cell in enumerate(value)]
                items.append((key, value, _TUPLE, len(cells), keep(_as_words(cells))))
            else:
                items.append(self._item(key, None, value))
        return _as_words(items)

    def _item(self, key: str, place: int | None, value: Any) -> tuple[Any, Any, int, int, int]:
        if (key, place) in self._places:
            return key, value, _NUMBER, self._places[key, place], id(type(value))
        return key, value, _PINNED, 0, 0


_GRAD, _REQUIRES_GRAD = "grad", "requires_grad"


def _is_moving(value: Any) -> bool:
    """Return whether C reads a number anew: a float, or what another library has for one."""
    if isinstance(value, Integral) or not isinstance(value, Real):
        return False
    return type(value) is float or type(value).__module__ == "numpy"


def _as_words(items: Iterable[tuple[Any, Any, int, int, int]]) -> Iterable[int]:
    for key, value, *more in items:
        yield from (id(key), id(value), *more)


class _Place(NamedTuple):
    """Where C finds and writes what belongs to a parameter.

    Attributes:
        task: Its task.
        store: Its state.
        grad: Its gradient, not kept.
        pointers: Where the address of the parameter goes.
        stride: How many pointers are from there to that of the next column.
    """

    task: Task
    store: dict[str, Any]
    grad: Tensor
    pointers: int
    stride: int


_Launches = list[tuple[fused.Launch | foreach.Launch, list[Task]]]


def _launched(tasks: Sequence[Task], calls: Sequence[fused.Call]) -> _Launches:
    """Return the launches: tasks that share a kernel share one."""
    together: dict[Any, list[tuple[Task, fused.Call]]] = {}
    for task, call in zip(tasks, calls, strict=True):
        together.setdefault(id(task) if task.in_lists else call.kind, []).append((task, call))
    launches: _Launches = []
    for pairs in together.values():
        first = pairs[0][1]
        own = [task for task, _ in pairs]
        if own[0].in_lists:
            launches.append((foreach.Launch(first.program, first.inputs), own))
            continue
        columns, rows = fused.joined([call for _, call in pairs])
        kernel = fused.kernel_for(*first.signature)
        launches.append((fused.Launch(kernel, columns, rows), own))
    return launches


def _placed(launches: _Launches, tensors: Mapping[int, Sequence[Sequence[Tensor]]]) -> dict[int, _Place]:
    """Return the places of all parameters; ``tensors`` has the inputs of every task."""
    places = {}
    for launch, tasks in launches:
        pointers = itertools.count(ctypes.addressof(launch.pointers), ctypes.sizeof(ctypes.c_void_p))
        for task in tasks:
            for param, grad, store in zip(*tensors[id(task)][:2], task.stores, strict=True):
                places[id(param)] = _Place(task, store, grad, next(pointers), launch.tensors)
    return places


def _require_plain(groups: Any, state: Any, tasks: Sequence[Task]) -> None:
    """Raise ``ValueError`` where C cannot see what a container does, or the step is no set of separate updates."""
    lists = [group["params"] for group in groups]
    stores = [store for task in tasks for store in task.stores if store]
    plain = type(groups) is list and type(state) in (dict, defaultdict)
    plain &= all(type(group) is dict for group in groups) and all(type(params) is list for params in lists)
    if not plain or any(type(store) is not dict for store in stores):
        raise ValueError("a container is no plain dict or list")
    params = [id(param) for params in lists for param in params]
    if len(set(params)) != len(params):
        raise ValueError("a parameter stands twice")
    cells = [(store[name], number) for task in tasks for store in task.stores for name, number in task.kept.items()]
    for cell, number in cells:
        if cell.dim() or not cell.is_cpu or cell.dtype is not (torch.float64 if number.wide else torch.float32):
            raise ValueError("a counter or a running number is no number on the CPU, or of another type than others")
    if len({cell.data_ptr() for cell, _ in cells}) != len(cells):
        raise ValueError("two parameters share a counter")
