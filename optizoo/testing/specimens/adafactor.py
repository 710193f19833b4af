"""Adafactor."""

import math

import torch

from optizoo.testing.mutants import DECAY, Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import largest, norm


def adafactor(
    theta, g, row_var=None, col_var=None, variance=None,
    *, lr, beta2_decay, eps, d, weight_decay, shape, machine_eps, step,
):  # fmt: skip
    """Shazeer & Stern (2018), Algorithms 4 and 5, with means for sums and PyTorch's places of ε₁."""
    eps1, eps2 = machine_eps if eps[0] is None else eps[0], eps[1]
    n, beta2 = math.prod(shape), 1 - step**beta2_decay
    alpha = largest(norm(theta) / n**0.5, eps2) * min(lr, step**-0.5)
    theta = theta - lr * weight_decay * theta
    if len(shape) > 1:
        rows, columns = (g * g).mean(dim=-1, keepdim=True), (g * g).mean(dim=-2, keepdim=True)
        row_var = rows if row_var is None else beta2 * row_var + (1 - beta2) * rows
        col_var = columns if col_var is None else beta2 * col_var + (1 - beta2) * columns
        v = row_var * col_var / largest(row_var.mean(dim=-2, keepdim=True), eps1)
    else:
        v = variance = g * g if variance is None else beta2 * variance + (1 - beta2) * g * g
    u = g / largest(v, eps1**2) ** 0.5
    return theta - alpha * u / largest(norm(u) / n**0.5 / d, 1.0), row_var, col_var, variance


_LARGE, _TINY_EPS = {"lr": 1.0}, {"eps": (1e-30, 1e-3)}

ADAFACTOR = Specimen(
    name="adafactor",
    float16=False,  # squares of gradients are not; torch ends in NaN as well
    textbook=(adafactor,),
    twin="Adafactor",
    tables=({"eps": ((None, 1e-3), (1e-30, 10.0)), "d": (1.0, 2.0), "beta2_decay": (-0.8, -0.3)},),
    # With a rate in float32, torch rounds the size of a step to it.
    more_tables=({"lr": (torch.tensor(0.01, dtype=torch.float64), 1.0)},),
    mutants=(
        Mutant("adafactor-rate-not-relative", "adafactor", "at_least(param.norm().double() / root_of_size, eps2) * ",
               "eps2 * "),
        Mutant("adafactor-rate-never-falls", "adafactor", "at_most(1 / step**0.5, lr)", "lr", _LARGE),
        Mutant("adafactor-no-clipping", "adafactor", "alpha=-rate / clip)", "alpha=-rate)"),
        Mutant("adafactor-clips-below-threshold", "adafactor", "(root_of_size * d), 1.0)", "(root_of_size * d), 0.0)",
               {"d": 2.0}),
        Mutant("adafactor-constant-beta2", "adafactor", "step**beta2_decay", "1e-3 if step > 1 else 1.0"),
        Mutant("adafactor-rows-for-columns", "adafactor", "columns * columns / shape[-2]",
               "columns * columns / shape[-1]"),
        Mutant("adafactor-not-normalised", "adafactor", "row_var.mean(dim=-2, keepdim=True).clamp_min(eps1)", "1.0"),
        Mutant("adafactor-eps-not-squared", "adafactor", "clamp_min(eps1 * eps1)", "clamp_min(eps1)"),
        Mutant("adafactor-decay-before-rate", "adafactor", "param * (1 - lr * weight_decay)", "param", DECAY),
    ),
)  # fmt: skip
