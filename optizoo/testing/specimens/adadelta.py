"""Adadelta."""

from optizoo.testing.mutants import Mutant
from optizoo.testing.specimen import Specimen


def adadelta(theta, g, square_avg, acc_delta, *, lr, rho, eps, weight_decay):
    """Zeiler (2012), Algorithm 1."""
    g = g + weight_decay * theta
    v = rho * square_avg + (1 - rho) * g**2
    delta = (acc_delta + eps) ** 0.5 / (v + eps) ** 0.5 * g
    return theta - lr * delta, v, rho * acc_delta + (1 - rho) * delta**2


ADADELTA = Specimen(
    name="adadelta",
    textbook=(adadelta,),
    twin="Adadelta",
    mutants=(
        Mutant("adadelta-eps-outside-root", "adadelta", "(square_avg + eps).sqrt()", "(square_avg.sqrt() + eps)"),
        Mutant("adadelta-new-delta-first", "adadelta", "return param.add(delta, alpha=-lr)",
               "return param.add((acc_delta + eps).sqrt() / (square_avg + eps).sqrt() * grad, alpha=-lr)"),
        Mutant("adadelta-lr-in-the-average", "adadelta", "acc_delta = (acc_delta * rho)",
               "delta = delta * lr; acc_delta = (acc_delta * rho)", {"lr": 0.5}),
    ),
)  # fmt: skip
