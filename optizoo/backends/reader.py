"""How C reads a tensor: through torch's stable C functions, or through the exchange API of DLPack.

torch gives out C functions that take the address of an ``at::Tensor``; where in a Python tensor that lies, it does not
say. It is searched for, once in a process, and then the whole reader is held against Python on tensors of many kinds.
What fails leaves DLPack, whose reader takes three times as long.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.backends import build, formulas

# What `torch_t` of step.c has behind its offset, in order.
_FUNCTIONS = ("layout", "data_ptr", "dim", "sizes", "strides", "dtype", "device_type")
# They tell of tensors whose memory is not what they are: views that negate it, and zeros that have none.
_STRANGERS = ("_ZN2at6native6is_negERKNS_6TensorE", "_ZN2at6native14_is_zerotensorERKNS_6TensorE")
_BUMP = "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"
_LARGEST = 32
"""Dimensions that are read at most."""


class Reader(NamedTuple):
    """How tensors are read in this process.

    Attributes:
        library: ``step.c``.
        read: Address of the function that reads a tensor.
        bump: Address of the function that counts the version of an ``at::Tensor``; 0 where there is none.
        offset: Of the ``at::Tensor`` in a Python tensor; 0 where it is not known.
    """

    library: ctypes.CDLL
    read: int
    bump: int
    offset: int

    def layout(self, tensor: Tensor) -> bytes:
        """Return what must stay as it is: class, device, type, shape and strides.

        Raises:
            ValueError: The tensor cannot be read.
        """
        words = (ctypes.c_int64 * (4 + 2 * _LARGEST))()
        described = self.library.optizoo_describe
        if tensor.dim() > _LARGEST or described(ctypes.c_void_p(self.read), ctypes.py_object(tensor), words):
            raise ValueError("a tensor cannot be read")
        return bytes(words)[: 8 * (4 + 2 * tensor.dim())]


@cache
def reader() -> Reader:
    """Return how tensors are read.

    Raises:
        BuildError: ``step.c`` cannot be built.
        ValueError: This torch lets nobody read its tensors, or this Python keeps classes elsewhere.
    """
    for each in (1.5, (), torch.zeros(1, device="cpu"), torch.nn.Parameter(torch.zeros(1, device="cpu"))):
        if ctypes.c_size_t.from_address(id(each) + ctypes.sizeof(ctypes.c_ssize_t)).value != id(type(each)):
            raise ValueError("this Python does not keep the class of an object behind its count of references")
    text = files("optizoo.backends").joinpath("step.c").read_text(encoding="utf-8")
    evaluates = build.Proof(f"Python {sys.version}", lambda library, _: formulas.objection(library))
    library = build.library(text, evaluates, holds_gil=True)
    return _through_torch(library) or Reader(library, _exchange(), 0, 0)


def _through_torch(library: ctypes.CDLL) -> Reader | None:
    try:
        symbols = ctypes.CDLL(torch._C.__file__)
        names = [*(f"aoti_torch_get_{name}" for name in _FUNCTIONS), *_STRANGERS]
        functions = [_address(symbols, name) for name in names]
        read = _address(library, "optizoo_read")
    except (AttributeError, OSError):
        return None
    with torch.inference_mode(False), torch.enable_grad():
        return _proven(library, symbols, read, functions)


def _proven(library: ctypes.CDLL, symbols: ctypes.CDLL, read: int, functions: Sequence[int]) -> Reader | None:
    """Return the reader with the offset under which it reads right, if there is one."""
    for offset in _offsets():
        library.optizoo_bind((ctypes.c_int64 * 10)(offset, *functions))
        found = Reader(library, read, 0, offset)
        if _reads_right(found):
            bump = _address(symbols, _BUMP) if hasattr(symbols, _BUMP) else 0
            return found._replace(bump=bump if bump and _bumps_right(bump, offset) else 0)
    return None


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _samples() -> Iterator[Tensor]:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        base = torch.zeros(6, 4, dtype=dtype, device="cpu")
        yield from (base, base.t(), base[1:, ::2], base[0, 0], base[:0], base.expand(2, 6, 4), torch.nn.Parameter(base))
    leaf = torch.zeros(3, device="cpu", requires_grad=True)
    (leaf * 2).sum().backward()
    assert leaf.grad is not None
    yield from (leaf, leaf.grad, leaf.detach(), torch.zeros((1,) * 7, device="cpu"))


def _offsets() -> list[int]:
    """Return where in all samples the address of torch's tensor stands."""
    samples = list(_samples())
    words = set(range(16, torch.Tensor.__basicsize__, 8))
    for tensor in samples:
        words = {word for word in words if ctypes.c_size_t.from_address(id(tensor) + word).value == tensor._cdata}
    return sorted(words)


class _Read(ctypes.Structure):  # DLTensor of DLPack 1
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _reads_right(found: Reader) -> bool:
    """Return whether what is read is what Python says, and types are told apart."""
    codes: dict[int, torch.dtype] = {}
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Read))(found.read)
    for tensor in _samples():
        out = _Read()
        if function(tensor, out) or (out.data or 0) != tensor.data_ptr() or out.ndim != tensor.dim():
            return False
        shape, strides = out.shape[: out.ndim], out.strides[: out.ndim]
        if (*shape,) != tensor.shape or (*strides,) != tensor.stride():
            return False
        if codes.setdefault(out.code, tensor.dtype) != tensor.dtype:
            return False
    return len(codes) == 4 and _refuses_strangers(found.read)


def _refuses_strangers(read: int) -> bool:
    """Return whether tensors whose memory is not what they are cannot be read."""
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Read))(read)
    private: Any = torch
    for tensor in (private._neg_view(torch.ones(2, device="cpu")), private._efficientzerotensor(2, device="cpu")):
        try:
            if function(tensor, _Read()) == 0:
                return False
        except (RuntimeError, ValueError, TypeError, BufferError):
            continue
    return True


def _bumps_right(bump: int, offset: int) -> bool:
    """Return whether the function counts a tensor's version by one, and that of nothing else."""
    count = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(bump)
    for tensor in (torch.zeros(2, device="cpu"), torch.nn.Parameter(torch.zeros(2, device="cpu"))):
        other, before = torch.zeros(2, device="cpu"), tensor._version
        count(id(tensor) + offset)
        if tensor._version != before + 1 or other._version:
            return False
    return True


def _exchange() -> int:
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
    read = (ctypes.c_void_p * 6).from_address(table)[5]
    if major != 1 or not read:
        raise ValueError(f"the DLPack exchange API of torch has version {major}, not 1, or cannot read tensors")
    if not _refuses_strangers(read):
        raise ValueError("the DLPack exchange API of torch reads negated views as if they were not")
    return read
