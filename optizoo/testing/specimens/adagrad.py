"""Adagrad."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import Specimen


def adagrad(theta, g, sum, *, lr, lr_decay, eps, weight_decay, step):  # noqa: A002 - torch's name of the state
    """Duchi, Hazan & Singer (2011), the diagonal form, as PyTorch's documentation prints it."""
    g = g + weight_decay * theta
    s = sum + g**2
    return theta - lr / (1 + (step - 1) * lr_decay) * g / (s**0.5 + eps), s


ADAGRAD = Specimen(
    name="adagrad",
    textbook=(adagrad,),
    twin="Adagrad",
    tables=({"lr_decay": (0, 0.01)},),
    more_tables=({"initial_accumulator_value": (0.1,)},),
    mutants=(
        Mutant("adagrad-eps-inside-root", "adagrad", "sum.sqrt() + eps", "(sum + eps).sqrt()"),
        Mutant("adagrad-decay-from-step-1", "adagrad", "1 + (step - 1) * lr_decay", "1 + step * lr_decay",
               {"lr_decay": 0.01}),
        Mutant("adagrad-averages", "adagrad", "sum.addcmul(grad, grad)",
               "(sum * 0.99).addcmul(grad, grad, value=0.01)"),
        Mutant("adagrad-decoupled-decay", "adagrad", "grad = grad.add(param, alpha=weight_decay)",
               "param = param * (1 - lr * weight_decay)", {**DECAY, **TINY_LR}),
    ),
)  # fmt: skip
