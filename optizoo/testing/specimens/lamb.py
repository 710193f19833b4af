"""LAMB, which torch does not have."""

from optizoo.testing.mutants import DECAY, ZERO, Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import norm, where


def lamb(theta, g, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, step):
    """You et al. (2020), Algorithm 2."""
    beta1, beta2 = betas
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    u = m_hat / (v_hat**0.5 + eps) + weight_decay * theta
    both = norm(theta) * norm(u) != 0
    ratio = where(both, norm(theta), 1.0) / where(both, norm(u), 1.0)
    return theta - lr * ratio * u, m, v


LAMB = Specimen(
    name="lamb",
    textbook=(lamb,),
    more_tables=(
        {"weight_decay": (0.05,), "weight_decay_mode": ("coupled", "decoupled")},
        {"weight_decay": (0.05,), "l1": (0.1,)},
    ),
    mutants=(
        Mutant("lamb-no-ratio", "lamb", "param.add(update * trust", "param.add(update"),
        Mutant("lamb-ratio-upside-down", "lamb", "(size / length)", "(length / size)"),
        Mutant("lamb-norm-clamped", "lamb", "param.norm(), ", "param.norm().clamp_max(10.0), "),
        Mutant("lamb-norm-of-the-gradient", "lamb", "update.norm()", "grad.norm()"),
        Mutant("lamb-sum-of-magnitudes", "lamb", "param.norm(), update.norm()",
               "param.abs().sum(), update.abs().sum()"),
        Mutant("lamb-zero-weights-stay", "lamb", ".where(size > 0, 1.0)", "", ZERO),
        Mutant("lamb-no-correction-1", "lamb", "exp_avg / (1 - beta1**step) / denom", "exp_avg / denom", {"eps": 1e-3}),
        Mutant("lamb-no-correction-2", "lamb", "(1 - beta2**step) ** 0.5 + eps", "1.0 + eps"),
        Mutant("lamb-decay-outside-the-ratio", "lamb", "return param.add(update",
               "update = update.add(param, alpha=-weight_decay); param = param * (1 - lr * weight_decay)\n"
               "    return param.add(update", DECAY),
        Mutant("lamb-decay-behind-the-norm", "lamb", "length = param.norm(), update.norm()",
               "length = param.norm(), update.add(param, alpha=-weight_decay).norm()", DECAY),
        Mutant("lamb-eps-1e-7", "lamb", "+ eps", "+ 1e-7"),
    ),
)  # fmt: skip
