"""Signum, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import SIGN_AND_DECAY, Reference, Specimen
from optizoo.testing.textbook import sign


def signum(theta, g, momentum_buffer, *, lr, momentum, weight_decay):
    """Bernstein et al. (2018), Algorithm 2, with the decay of Loshchilov & Hutter (2019)."""
    m = momentum * momentum_buffer + (1 - momentum) * g
    return theta - lr * (sign(m) + weight_decay * theta), m


SIGNUM = Specimen(
    name="signum",
    textbook=(signum,),
    tables=({"momentum": (0.9, 0)},),
    mutants=(
        Mutant("signum-no-sign", "signum", "momentum_buffer.sign()", "momentum_buffer"),
        Mutant("signum-of-the-gradient", "signum", "momentum_buffer.sign()", "grad.sign()"),
        Mutant("signum-of-signs", "signum", "momentum_buffer.lerp(grad,", "momentum_buffer.lerp(grad.sign(),"),
        Mutant("signum-momentum-of-the-newest", "signum", "lerp(grad, 1 - momentum)", "lerp(grad, momentum)"),
        Mutant("signum-looks-ahead", "signum", "momentum_buffer.sign()",
               "momentum_buffer.lerp(grad, 1 - momentum).sign()"),
        Mutant("signum-l2", "signum", "param = param.add(param, alpha=-lr * weight_decay)",
               "grad = grad.add(param, alpha=weight_decay)", DECAY),
        Mutant("signum-decay-without-lr", "signum", "-lr * weight_decay", "-1e-3 * weight_decay",
               {**DECAY, **TINY_LR}),
    ),
    references=(
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.SignSGD", {"foreach": False},
                  tables=({**SIGN_AND_DECAY, "momentum": (0.9, 0.0)},)),
    ),
)  # fmt: skip
