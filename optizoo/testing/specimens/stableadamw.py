"""StableAdamW, which torch does not have."""

from optizoo.testing.mutants import DECAY, Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import largest, mean


def stableadamw(theta, g, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, step):
    """Wortsman et al. (2023), Algorithm 2; it keeps the corrected moments."""
    beta1, beta2 = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in betas)
    v = beta1 * exp_avg + (1 - beta1) * g
    u = beta2 * exp_avg_sq + (1 - beta2) * g**2
    rms = mean(g**2 / largest(u, 0 * u + eps**2)) ** 0.5
    eta = lr / largest(rms, 0 * rms + 1)
    return theta - eta * weight_decay * theta - eta * v / (u**0.5 + eps), v, u


STABLEADAMW = Specimen(
    name="stableadamw",
    textbook=(stableadamw,),
    more_tables=(
        {"weight_decay": (0.05,), "weight_decay_mode": ("coupled", "decoupled")},
        {"weight_decay": (0.05,), "l1": (0.1,)},
    ),
    mutants=(
        Mutant("stableadamw-never-clipped", "stableadamw", "surprise.clamp_min", "surprise.clamp_max"),
        Mutant("stableadamw-always-scaled", "stableadamw", "surprise.clamp_min(1.0)", "surprise"),
        Mutant("stableadamw-mean-square", "stableadamw", ".mean().sqrt()", ".mean()"),
        Mutant("stableadamw-largest", "stableadamw", ".mean().sqrt()", ".amax().sqrt()"),
        Mutant("stableadamw-moment-not-corrected", "stableadamw", "second_moment.clamp_min", "exp_avg_sq.clamp_min"),
        Mutant("stableadamw-eps-not-squared", "stableadamw", "eps * eps", "eps", {"eps": 1e-3}),
        Mutant("stableadamw-momentum-not-gradient", "stableadamw", "(grad * grad", "(exp_avg * exp_avg"),
        Mutant("stableadamw-decay-not-clipped", "stableadamw", "param.addcmul(param, size, value=-weight_decay)",
               "param * (1 - lr * weight_decay)", DECAY),
        Mutant("stableadamw-no-correction-1", "stableadamw", "-1 / (1 - beta1**step)", "-1"),
        Mutant("stableadamw-no-correction-2", "stableadamw", "exp_avg_sq / (1 - beta2**step)", "exp_avg_sq"),
        Mutant("stableadamw-eps-inside-root", "stableadamw", "second_moment.sqrt() + eps",
               "(second_moment + eps).sqrt()"),
    ),
)  # fmt: skip
