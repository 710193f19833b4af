"""QHAdam, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import SIGN_AND_DECAY, Reference, Specimen


def qhadam(theta, g, exp_avg, exp_avg_sq, *, lr, betas, nus, eps, weight_decay, step):
    """Ma & Yarats (2019), with L2."""
    (beta1, beta2), (nu1, nu2) = betas, nus
    g = g + weight_decay * theta
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return theta - lr * ((1 - nu1) * g + nu1 * m_hat) / (((1 - nu2) * g**2 + nu2 * v_hat) ** 0.5 + eps), m, v


# With L2 alone at work and ν₁ nearer 0, weights jump around 0 and double their rounding in every step.
_BOTH = (0.9, 0.5)
_NUMER = "(grad * (1 - nu1)).add(exp_avg"
_SQUARE = "(exp_avg_sq * (nu2 / (1 - beta2**step))).addcmul(grad, grad, value=1 - nu2)"

QHADAM = Specimen(
    name="qhadam",
    textbook=(qhadam,),
    tables=({"nus": ((0.7, 1.0), _BOTH)},),
    more_tables=({"nus": ((1, 1), (0, 1), (0, 0))},),
    mutants=(
        Mutant("qhadam-is-adam", "qhadam", "= betas, nus", "= betas, (1.0, 1.0)"),
        Mutant("qhadam-nus-swapped", "qhadam", "(nu1, nu2) = betas, nus", "(nu2, nu1) = betas, nus"),
        Mutant("qhadam-nu1-is-the-gradients-share", "qhadam", "(nu1, nu2) = betas, nus",
               "(nu1, nu2) = betas, (1 - nus[0], nus[1])"),
        Mutant("qhadam-nu2-ignored", "qhadam", "value=1 - nu2", "value=0.0", {"nus": _BOTH}),
        Mutant("qhadam-corrects-the-gradient-too", "qhadam", _NUMER,
               "(grad * ((1 - nu1) / (1 - beta1**step))).add(exp_avg"),
        Mutant("qhadam-corrects-the-square-too", "qhadam", _SQUARE,
               "(exp_avg_sq * nu2).addcmul(grad, grad, value=1 - nu2) / (1 - beta2**step)", {"nus": _BOTH}),
        Mutant("qhadam-mixes-roots", "qhadam", "square.sqrt() + eps",
               "exp_avg_sq.sqrt() * nu2 / (1 - beta2**step) ** 0.5 + grad.abs() * (1 - nu2) + eps", {"nus": _BOTH}),
        Mutant("qhadam-eps-inside-root", "qhadam", "square.sqrt() + eps", "(square + eps).sqrt()"),
        Mutant("qhadam-decoupled-decay", "qhadam", "grad = grad.add(param, alpha=weight_decay)",
               "param = param * (1 - lr * weight_decay)", {**DECAY, **TINY_LR}),
    ),
    references=(
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.QHAdam", {"foreach": False, "betas": (0.995, 0.999)},
                  tables=({**SIGN_AND_DECAY, "nus": ((0.7, 1.0), _BOTH)},), fault="weighs its averages in float32"),
    ),
)  # fmt: skip
