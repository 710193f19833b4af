"""Prodigy, which torch does not have."""

from optizoo.testing.mutants import DECAY, Mutant
from optizoo.testing.specimen import ON_OFF, Reference, Specimen
from optizoo.testing.textbook import summed


def prodigy(
    theta, g, exp_avg, exp_avg_sq, s, p0=None, d=1e-6, d_max=1e-6, d_numerator=0.0, updates=0.0,
    *, lr, betas, beta3, eps, weight_decay, decouple, use_bias_correction, safeguard_warmup, d0, d_coef, growth_rate,
):  # fmt: skip
    """Mishchenko & Defazio (2024), Algorithm 4, with the numbers of all tensors; at rate 0 nothing."""
    start = theta if p0 is None else p0
    if lr == 0:
        return theta, exp_avg, exp_avg_sq, s, start, d, d_max, d_numerator, updates
    (beta1, beta2), beta3 = betas, betas[1] ** 0.5 if beta3 is None else beta3
    k = updates + 1
    lr = lr * (1 - beta2**k) ** 0.5 / (1 - beta1**k) if use_bias_correction else lr
    g = g + (0 if decouple else weight_decay) * theta
    m = beta1 * exp_avg + (1 - beta1) * d * g
    v = beta2 * exp_avg_sq + (1 - beta2) * d**2 * g**2
    numerator = beta3 * d_numerator + (yield summed(lr * d**2 / d0 * g * (start - theta)))
    s = beta3 * s + (1 if safeguard_warmup else lr) * d**2 / d0 * g
    norm = yield summed(abs(s))
    found = d_coef * numerator / norm if norm else d
    largest, grown = max(d_max, found), max(d, found) if d == d0 else d
    new = largest if growth_rate is None else min(largest, growth_rate * grown)
    theta = theta - lr * d * ((weight_decay if decouple else 0) * theta + m / (v**0.5 + new * eps))
    return theta, m, v, s, start, new, largest, numerator, k


MISTAKES = {
    "never-grows": ("max(d_max, estimate)", "d_max", {}),
    "numerator-of-all-times": ("d_numerator * beta3", "d_numerator", {}),
    "distance-without-rate": ("(d / d0 * d * rate)", "(d / d0 * d)", {"lr": 0.5}),
    "each-tensor-alone": ("distance = yield (", "distance = (", {}),
    "signed-length": ("s.abs().sum()", "s.sum()", {}),
    "eps-times-old-d": ("new_d * eps", "d * eps", {"eps": 1e-3}),
    "decay-without-d": ("alpha=-weight_decay * d * rate", "alpha=-weight_decay * rate", DECAY),
    "coefficient-ignored": ("d_coef * d_numerator", "d_numerator", {"d_coef": 2.0}),
}

PRODIGY = Specimen(
    name="prodigy",
    textbook=(prodigy,), float16=False,  # d² g² is far below its smallest number
    tables=({"decouple": ON_OFF},),
    more_tables=(
        {"use_bias_correction": ON_OFF, "safeguard_warmup": ON_OFF, "d0": (1e-3,)},
        {"beta3": (0.5,), "d_coef": (2.0,), "growth_rate": (None, 1.02)},
    ),
    mutants=tuple(Mutant(f"prodigy-{name}", "prodigy", *mistake) for name, mistake in MISTAKES.items()),
    references=(
        Reference("prodigyopt", "1.1.2", "prodigyopt.Prodigy", tables=(
            {"decouple": ON_OFF, "weight_decay": (0, 0.01), "use_bias_correction": ON_OFF, "safeguard_warmup": ON_OFF},
            {"d0": (1e-6, 1e-3), "d_coef": (1.0, 0.5), "growth_rate": (1.02,), "beta3": (None, 0.9)},
        )),
        Reference("prodigyopt", "1.1.2", "prodigyopt.Prodigy", tables=({"betas": ((0.0, 0.999),)},),
                  fault="multiplies by the next d at β₁ = 0"),
    ),
)  # fmt: skip
