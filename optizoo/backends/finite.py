"""Whether gradients are finite: one pass that reads them and writes nothing."""

import ctypes
import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import build, emit_c, fused, proof


def nonfinite(grads: Sequence[Tensor]) -> list[int]:
    """Return the places of the gradients that hold a NaN or an infinity; waits for the device where they are.

    On the CPU the lot is read at once, by as many threads as torch has, where a kernel can be had. Of a distributed
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
        if readable and grad.dtype in fused.TYPES and grad.is_contiguous() and _kernel(grad.dtype) is not None:
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
    return _launched(_kernel(dtype), grads, *fused.shares(sum(grad.numel() for grad in grads)))


def _launched(function: Any, grads: Sequence[Tensor], shares: ctypes.c_int64, parallel: Any) -> bytes:
    ends = (ctypes.c_int64 * len(grads))(*itertools.accumulate(grad.numel() for grad in grads))
    flags = (ctypes.c_uint8 * len(grads))()
    addresses = [*(grad.data_ptr() for grad in grads), ctypes.addressof(flags)]
    pointers = (ctypes.c_void_p * len(addresses))(*addresses)
    function(ctypes.c_int64(len(grads)), ends, pointers, None, None, shares, parallel)
    return bytes(flags)


@cache
def _kernel(dtype: torch.dtype) -> Any:
    """Return the function that looks at many gradients at once, or ``None`` where it cannot be had."""

    def objection(library: ctypes.CDLL, _: bool) -> str | None:
        return _objection(library.optizoo_update, dtype)

    text = emit_c.nonfinite_source(fused.TYPES[dtype])
    try:
        function = build.library(text, build.Proof(proof.claim("finite"), objection)).optizoo_update
    except build.BuildError:
        return None
    function.restype = None
    return function


def _objection(function: Any, dtype: torch.dtype) -> str | None:
    """Return what a kernel overlooks or makes up, or ``None``; each place is tried that is easily missed."""
    function.restype = None
    limits = torch.finfo(dtype)
    fine = torch.tensor([0.0, -0.0, limits.max, limits.min, limits.smallest_normal / 2, 1.0], dtype=dtype, device="cpu")
    grads = [fine.repeat(length // len(fine) + 1)[:length].clone() for length in proof.LENGTHS]
    for count in (1, 2, 7):
        shares = ctypes.c_int64(count), fused.in_turn()
        if any(_launched(function, grads, *shares)):
            return "its kernel takes finite gradients for others"
        for index, grad in enumerate(grads):
            for place in {0, len(grad) // 2, len(grad) - 1} if len(grad) else ():
                for value in (math.nan, math.inf, -math.inf):
                    kept = grad[place].clone()
                    grad[place] = value
                    if [*_launched(function, grads, *shares)] != [each == index for each in range(len(grads))]:
                        return f"its kernel overlooks {value} among the gradients"
                    grad[place] = kept
    return None
