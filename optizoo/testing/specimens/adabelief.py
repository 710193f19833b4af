"""AdaBelief, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import SIGN_AND_DECAY, Reference, Specimen

_BIG = {"eps": 1e-4}


def adabelief(theta, g, exp_avg, exp_avg_var, *, lr, betas, eps, weight_decay, step):
    """Zhuang et al. (2020), Algorithm 2, with the decay of Loshchilov & Hutter (2019)."""
    beta1, beta2 = betas
    m = beta1 * exp_avg + (1 - beta1) * g
    s = beta2 * exp_avg_var + (1 - beta2) * (g - m) ** 2 + eps
    m_hat, s_hat = m / (1 - beta1**step), s / (1 - beta2**step)
    return theta - lr * weight_decay * theta - lr * m_hat / (s_hat**0.5 + eps), m, s


ADABELIEF = Specimen(
    name="adabelief",
    textbook=(adabelief,),
    more_tables=({"eps": (1e-4,)},),
    mutants=(
        Mutant("adabelief-is-adam", "adabelief", "addcmul(surprise, surprise,", "addcmul(grad, grad,"),
        # g - m = β₁ (g - m₋₁)
        Mutant("adabelief-surprise-of-the-old-average", "adabelief", "surprise = grad - exp_avg",
               "surprise = (grad - exp_avg) / beta1"),
        Mutant("adabelief-eps-outside-alone", "adabelief", "value=1 - beta2) + eps", "value=1 - beta2)"),
        Mutant("adabelief-eps-inside-alone", "adabelief", "** 0.5 + eps", "** 0.5", _BIG),
        Mutant("adabelief-eps-not-kept", "adabelief", "exp_avg_var * beta2",
               "(exp_avg_var - eps).clamp_min(0) * beta2", _BIG),
        Mutant("adabelief-no-correction-1", "adabelief", "exp_avg / (1 - beta1**step)", "exp_avg"),
        Mutant("adabelief-no-correction-2", "adabelief", " / (1 - beta2**step) ** 0.5", ""),
        Mutant("adabelief-corrects-with-beta1", "adabelief", "(1 - beta2**step)", "(1 - beta1**step)"),
        Mutant("adabelief-l2", "adabelief", "param = param.add(param, alpha=-lr * weight_decay)",
               "grad = grad.add(param, alpha=weight_decay)", {**DECAY, **TINY_LR}),
    ),
    references=(
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.AdaBelief", {"foreach": False},
                  tables=({**SIGN_AND_DECAY, "eps": (1e-16, 1e-4)},)),
        Reference("timm", "1.0.31", "timm.optim.AdaBelief", {"foreach": False, "rectify": False},
                  tables=({"weight_decay": (0, 0.05), "eps": (1e-16, 1e-4)},)),
        Reference("timm", "1.0.31", "timm.optim.AdaBelief", {"foreach": False}, fault="rectifies as RAdam by default"),
    ),
)  # fmt: skip
