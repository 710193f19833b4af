"""Cautious AdamW, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import largest, mean, sign, where


def cautiousadamw(theta, g, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, step):
    """Liang et al. (2024), Algorithm 1; its authors bound the mean."""
    beta1, beta2 = betas
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    alpha, u = lr / (1 - beta1**step), m / ((v / (1 - beta2**step)) ** 0.5 + eps)
    phi = where(sign(u) * sign(g) == 1, 0 * u + 1, 0 * u)
    share = mean(phi)
    return (1 - lr * weight_decay) * theta - alpha * phi / largest(share, 0 * share + 0.001) * u, m, v


CAUTIOUSADAMW = Specimen(
    name="cautiousadamw",
    textbook=(cautiousadamw,),
    more_tables=({"weight_decay": (0.05,), "weight_decay_mode": ("coupled", "independent")},),
    mutants=(
        Mutant("cautious-never", "cautiousadamw", "exp_avg * (agrees / agrees.mean().clamp_min(1e-3))", "exp_avg"),
        Mutant("cautious-not-rescaled", "cautiousadamw", "agrees / agrees.mean().clamp_min(1e-3)", "agrees"),
        Mutant("cautious-reckless", "cautiousadamw", "sign() * grad.sign()", "sign() * -grad.sign()"),
        Mutant("cautious-asks-the-weight", "cautiousadamw", "(exp_avg.sign() * grad", "(param.sign() * grad"),
        Mutant("cautious-moves-without-gradient", "cautiousadamw", "(exp_avg.sign() * grad.sign()).clamp_min(0.0)",
               "(exp_avg.sign() * grad.sign() + 1).clamp_max(1.0)"),
        Mutant("cautious-bound-0.6", "cautiousadamw", "clamp_min(1e-3)", "clamp_min(0.6)"),
        Mutant("cautious-masked-moment", "cautiousadamw", "return param, exp_avg,", "return param, update,"),
        Mutant("cautious-masked-decay", "cautiousadamw", "param = param * (1 - lr * weight_decay)",
               "param = param.addcmul(param, agrees, value=-lr * weight_decay)", {**DECAY, **TINY_LR}),
        Mutant("cautious-no-correction-2", "cautiousadamw", "(1 - beta2**step) ** 0.5 + eps", "1.0 + eps"),
        Mutant("cautious-eps-1e-7", "cautiousadamw", "+ eps", "+ 1e-7", TINY_LR),
    ),
)  # fmt: skip
