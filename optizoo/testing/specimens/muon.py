"""Muon and NorMuon. What they round to bfloat16 has no other form: a last digit that falls otherwise would show."""

import math

import torch

from optizoo.testing.mutants import DECAY, Mutant
from optizoo.testing.specimen import ON_OFF, Specimen
from optizoo.testing.textbook import largest


def direction(g, buffer, momentum, nesterov, coefficients, eps, steps):
    """Jordan et al. (2024): the momentum, and what Newton-Schulz makes of it."""
    m = buffer.lerp(g, 1 - momentum)
    u = (g.lerp(m, momentum) if nesterov else m).reshape(len(g), -1).to(torch.bfloat16)
    a, b, c = coefficients
    x = (u.T if len(u) > u[0].numel() else u) / largest(u.norm(), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return m, (x.T if len(u) > u[0].numel() else x).to(g.dtype).reshape(g.shape)


def rate(lr, kind, shape):
    """PyTorch's documentation: by Jordan, Moonshot (2025) and Bernstein."""
    a, b = shape[0], math.prod(shape[1:])
    return lr * {"match_rms_adamw": 0.2 * max(a, b) ** 0.5, "spectral_unclamped": (a / b) ** 0.5}.get(
        kind, max(1, a / b) ** 0.5
    )


def muon(
    theta, g, momentum_buffer,
    *, lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn, shape,
):  # fmt: skip
    """Jordan et al. (2024), as PyTorch's documentation prints it, with the average of its code."""
    m, o = direction(g, momentum_buffer, momentum, nesterov, ns_coefficients, eps, ns_steps)
    return theta - lr * weight_decay * theta - rate(lr, adjust_lr_fn, shape) * o, m


def normuon(
    theta, g, momentum_buffer, row_var=None,
    *, lr, weight_decay, momentum, beta2, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn, shape,
):  # fmt: skip
    """Li et al. (2025), Algorithm 1, with the norm of its authors' code."""
    m, o = direction(g, momentum_buffer, momentum, nesterov, ns_coefficients, eps, ns_steps)
    o = o.reshape(len(g), -1)
    v = (1 - beta2) * (o * o).mean(dim=1, keepdim=True)
    v = v if row_var is None else beta2 * row_var + v
    scaled = o / (v**0.5 + eps)
    scaled = (scaled * o.norm() / (scaled.norm() + eps)).reshape(g.shape)
    return theta - lr * weight_decay * theta - rate(lr, adjust_lr_fn, shape) * scaled, m, v


_MATCHED = {"adjust_lr_fn": "match_rms_adamw"}
_RATIOS = {"adjust_lr_fn": (None, "original", "match_rms_adamw", "spectral_unclamped"), "nesterov": ON_OFF}
_MORE = ({"ns_steps": (1, 3), "momentum": (0.5,)}, {"ns_coefficients": ((2.0, -1.5, 0.5),), "eps": (1e-3,)})

MUON = Specimen(
    name="muon",
    textbook=(muon,),
    twin="Muon",
    tables=(_RATIOS,),
    more_tables=_MORE,
    floats=False,
    shapes=((40, 25), (9, 110), (1, 1)),
    mutants=(
        Mutant("muon-nesterov-ignored", "muon", "if nesterov", "if False"),
        Mutant("muon-a-step-less", "muon", "ns_steps, eps", "ns_steps - 1, eps"),
        Mutant("muon-momentum-from-the-wrong-end", "muon", "lerp(grad, 1 - momentum)", "lerp(grad, momentum)"),
        Mutant("muon-ratio-turned", "muon", "adjust_lr_fn, rows, columns)", "adjust_lr_fn, columns, rows)",
               {"adjust_lr_fn": "spectral_unclamped"}),
        Mutant("muon-coefficients-unused", "muon", "ns_coefficients, ns_steps", "(1.5, -0.5, 0.0), ns_steps"),
        Mutant("muon-decay-without-lr", "muon", "param * (1 - lr * weight_decay)", "param * (1 - 1e-5 * weight_decay)",
               DECAY),
    ),
)  # fmt: skip

NORMUON = Specimen(
    name="normuon",
    textbook=(normuon,),
    tables=(_RATIOS,),
    more_tables=(*_MORE, {"beta2": (0.5,)}),
    floats=False,
    shapes=((40, 25), (9, 11, 10), (1, 1)),
    mutants=(
        Mutant("normuon-columns", "normuon", "mean(dim=-1, keepdim=True)", "mean(dim=-2, keepdim=True)"),
        Mutant("normuon-no-root", "normuon", "row_var.sqrt() + eps", "row_var + eps"),
        Mutant("normuon-starts-at-first-mean", "normuon", "means * (1 - beta2) if", "means if"),
        Mutant("normuon-norm-not-restored", "normuon", "update = update * (norm / (update.norm() + eps))", ""),
        Mutant("normuon-beta2-turned", "normuon", "row_var.lerp(means, 1 - beta2)", "row_var.lerp(means, beta2)"),
        Mutant("normuon-ratio-of-the-kernel", "normuon", "math.prod(shape[1:])", "shape[1]", _MATCHED),
        Mutant("normuon-no-decay", "normuon", "if weight_decay:", "if False:", DECAY),
    ),
)  # fmt: skip
