"""Yogi, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import SIGN_AND_DECAY, Reference, Specimen
from optizoo.testing.textbook import sign


def yogi(theta, g, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, bias_correction, step):
    """Zaheer et al. (2018), Algorithm 2, with Adam's corrections and the decay of Loshchilov & Hutter (2019)."""
    beta1, beta2 = betas
    m = beta1 * exp_avg + (1 - beta1) * g
    v = exp_avg_sq - (1 - beta2) * sign(exp_avg_sq - g**2) * g**2
    m_hat = m / (1 - beta1**step) if bias_correction else m
    v_hat = v / (1 - beta2**step) if bias_correction else v
    return theta - lr * weight_decay * theta - lr * m_hat / (v_hat**0.5 + eps), m, v


YOGI = Specimen(
    name="yogi",
    textbook=(yogi,),
    more_tables=({"bias_correction": (False,)}, {"initial_accumulator": (0, 0.1)}),
    mutants=(
        Mutant("yogi-is-adam", "yogi", "exp_avg_sq.addcmul(growth, square, value=1 - beta2)",
               "exp_avg_sq.lerp(square, 1 - beta2)"),
        Mutant("yogi-only-grows", "yogi", "(square - exp_avg_sq).sign()", "(square - exp_avg_sq).sign().clamp_min(0)"),
        Mutant("yogi-compares-with-the-gradient", "yogi", "(square - exp_avg_sq)", "(grad - exp_avg_sq)"),
        Mutant("yogi-v-starts-at-0", "yogi", "", "", mistaken_options={"initial_accumulator": 0}),
        # As optax and pytorch-optimizer have it.
        Mutant("yogi-m-starts-at-1e-6", "yogi", "exp_avg.lerp(grad", "(exp_avg + 1e-6 * (step == 1)).lerp(grad"),
        Mutant("yogi-eps-inside-root", "yogi", "exp_avg_sq.sqrt() / bias_correction2**0.5 + eps",
               "(exp_avg_sq / bias_correction2 + eps).sqrt()"),
        Mutant("yogi-eps-before-correction", "yogi", "exp_avg_sq.sqrt() / bias_correction2**0.5 + eps",
               "(exp_avg_sq.sqrt() + eps) / bias_correction2**0.5"),
        Mutant("yogi-corrects-what-it-should-not", "yogi", "if bias_correction else 1.0  # 1 - β₂ᵗ", "  # 1 - β₂ᵗ",
               {"bias_correction": False}),
        Mutant("yogi-l2", "yogi", "param = param.add(param, alpha=-lr * weight_decay)",
               "grad = grad.add(param, alpha=weight_decay)", {**DECAY, **TINY_LR}),
    ),
    references=(
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.Yogi", {"foreach": False},
                  tables=({**SIGN_AND_DECAY, "initial_accumulator": (0.0,)},)),
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.Yogi", {"foreach": False},
                  tables=(SIGN_AND_DECAY,), fault="starts m at 1e-6 too"),
    ),
)  # fmt: skip
