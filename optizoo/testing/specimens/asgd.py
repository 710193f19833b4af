"""ASGD."""

from optizoo.core.rule import kept
from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import Specimen


def asgd(theta, g, ax, eta=0.0, mu=1.0, *, lr, lambd, alpha, t0, weight_decay, step):
    """Polyak & Juditsky (1992) with Bottou's rates; η and μ in float32, as PyTorch keeps them."""
    g = g + weight_decay * theta
    theta = theta - eta * (g + lambd * theta)
    ax = ax + mu * (theta - ax)
    return theta, ax, kept(lr / (1 + lambd * lr * step) ** alpha), kept(1 / max(1, step - t0))


_AVERAGES = {"t0": 2.0}

ASGD = Specimen(
    name="asgd",
    textbook=(asgd,),
    twin="ASGD",
    tables=({"t0": (1e6, 3.0), "lambd": (1e-4, 0.1)},),
    mutants=(
        Mutant("asgd-no-own-decay", "asgd", "param * (1 - lambd * eta)", "param * 1", TINY_LR | {"lambd": 0.1}),
        Mutant("asgd-rate-of-constructor", "asgd", "alpha=-eta)", "alpha=-lr)", {"lambd": 0.1}),
        Mutant("asgd-rate-without-power", "asgd", "step) ** alpha", "step)", {"lambd": 0.1}),
        Mutant("asgd-rate-a-step-late", "asgd", "lambd * lr * step)", "lambd * lr * (step - 1))", {"lambd": 0.1}),
        Mutant("asgd-rate-falls-without-lr", "asgd", "(1 + lambd * lr * step)", "(1 + lambd * step)", {"lambd": 0.1}),
        Mutant("asgd-decay-outside-gradient", "asgd", "grad = grad.add(param, alpha=weight_decay)",
               "param = param * (1 - lr * weight_decay)", {**DECAY, **_AVERAGES}),
    ),
)  # fmt: skip
