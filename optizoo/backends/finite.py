"""Whether gradients are finite: one pass that reads them and writes nothing."""

import ctypes
import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import build, emit_c, fused


def nonfinite(grads: Sequence[Tensor]) -> list[int]:
    """Return the places of the gradients that hold a NaN or an infinity; waits for the device where they are.

    On the CPU the lot is read at once, by as many threads as torch has, where there is a compiler. Of a distributed
    gradient (DTensor) every process reads its part, and all of a mesh return the same, after one reduction.
    """
    by_kernel: dict[torch.dtype, list[int]] = {}
    by_mesh: dict[Any, list[int]] = {}
    bad = []
    for index, grad in enumerate(grads):
        if type(grad) is not Tensor and hasattr(grad, "device_mesh"):
            by_mesh.setdefault(grad.device_mesh, []).append(index)  # pyright: ignore[reportAttributeAccessIssue]
            continue
        readable = type(grad) is Tensor and grad.device.type == "cpu" and grad.layout is torch.strided
        if readable and grad.dtype in fused.TYPES and grad.is_contiguous() and fused.unavailable() is None:
            by_kernel.setdefault(grad.dtype, []).append(index)
        elif not bool(_values(grad).isfinite().all()):
            bad.append(index)
    for dtype, indices in by_kernel.items():
        bad += [
            index for index, found in zip(indices, _found([grads[i] for i in indices], dtype), strict=True) if found
        ]
    for mesh, indices in by_mesh.items():
        found = _agreed([grads[i] for i in indices], mesh)
        bad += [index for index, finite in zip(indices, found, strict=True) if not finite]
    return sorted(bad)


def _agreed(grads: Sequence[Any], mesh: Any) -> list[bool]:
    """Return of every DTensor whether it is finite in all processes of the mesh; each of them must ask at once."""
    from torch.distributed.tensor import DTensor, Partial

    # isfinite() first adds up what is partial, and is not a collective otherwise.
    flags = torch.stack([grad.isfinite().to_local().all() for grad in grads]).int()
    return DTensor.from_local(flags, mesh, [Partial("min")] * mesh.ndim, run_check=False).full_tensor().bool().tolist()


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.layout is torch.sparse_coo else grad


def _found(grads: Sequence[Tensor], dtype: torch.dtype) -> bytes:
    lengths = [grad.numel() for grad in grads]
    ends = (ctypes.c_int64 * len(grads))(*itertools.accumulate(lengths))
    flags = (ctypes.c_uint8 * len(grads))()
    addresses = [*(grad.data_ptr() for grad in grads), ctypes.addressof(flags)]
    pointers = (ctypes.c_void_p * len(addresses))(*addresses)
    shares, parallel = fused.shares(sum(lengths))
    _kernel(fused.TYPES[dtype])(ctypes.c_int64(len(grads)), ends, pointers, None, shares, parallel)
    return bytes(flags)


@cache
def _kernel(dtype: str) -> Any:
    function = build.library(emit_c.nonfinite_source(dtype)).optizoo_update
    function.restype = None
    return function
