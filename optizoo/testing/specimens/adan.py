"""Adan, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import ON_OFF, Reference, Specimen


def adan(
    theta, g, exp_avg, exp_avg_diff, exp_avg_sq, previous_grad,
    *, lr, betas, eps, weight_decay, no_prox, step,
):  # fmt: skip
    """Xie et al. (2022), Algorithm 1, where β is 1 - β, with the bias corrections of the authors' code."""
    beta1, beta2, beta3 = betas
    d = g - previous_grad if step > 1 else 0 * g
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_diff + (1 - beta2) * d
    n = beta3 * exp_avg_sq + (1 - beta3) * (g + beta2 * d) ** 2
    u = m / (1 - beta1**step) + beta2 * v / (1 - beta2**step)
    update = lr * u / ((n / (1 - beta3**step)) ** 0.5 + eps)
    if no_prox:
        return (1 - lr * weight_decay) * theta - update, m, v, n, g
    return (theta - update) / (1 + lr * weight_decay), m, v, n, g


ADAN = Specimen(
    name="adan",
    textbook=(adan,),
    tables=({"no_prox": ON_OFF},),
    more_tables=(
        {"betas": ((0.0, 0.0, 0.5), (0.9, 0.99, 0.999)), "lr": (0.01,)},
        {"weight_decay": (0.05,), "weight_decay_mode": ("coupled", "independent")},
    ),
    mutants=(
        Mutant("adan-first-difference-is-g", "adan", "(1 - beta2) * later)  # v", "1 - beta2)  # v"),
        Mutant("adan-first-square-looks-ahead", "adan", "alpha=beta2 * later", "alpha=beta2"),
        Mutant("adan-difference-turned", "adan", "difference = grad - previous_grad",
               "difference = previous_grad - grad"),
        Mutant("adan-keeps-no-gradient", "adan", "exp_avg_sq, grad", "exp_avg_sq, ahead"),
        Mutant("adan-square-of-gradient", "adan", "addcmul(ahead, ahead", "addcmul(grad, grad"),
        Mutant("adan-difference-not-weighted", "adan", "alpha=beta2 / (1", "alpha=1 / (1"),
        Mutant("adan-difference-not-corrected", "adan", "alpha=beta2 / (1 - beta2**step)", "alpha=beta2"),
        Mutant("adan-momentum-not-corrected", "adan", "(exp_avg / (1 - beta1**step))", "exp_avg"),
        Mutant("adan-eps-inside-root", "adan", "exp_avg_sq.sqrt() / (1 - beta3**step) ** 0.5 + eps",
               "(exp_avg_sq / (1 - beta3**step) + eps).sqrt()"),
        Mutant("adan-betas-1-minus", "adan", "= betas", "= (1 - beta for beta in betas)"),
        Mutant("adan-decay-before", "adan", "if weight_decay and no_prox:", "if weight_decay:", DECAY),
        Mutant("adan-decay-not-proximal", "adan", "param / (1 + lr * weight_decay)",
               "param * (1 - lr * weight_decay)", {**DECAY, "lr": 0.01}),
        Mutant("adan-decay-without-lr", "adan", "1 + lr * w", "1 + 1e-3 * w", {**DECAY, **TINY_LR}),
    ),
    references=(
        Reference("timm", "1.0.31", "timm.optim.Adan", {"foreach": False},
                  tables=({"weight_decay": (0, 0.05), "no_prox": ON_OFF},)),
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.Adan", {"foreach": False, "max_grad_norm": 0.0},
                  {"no_prox": "weight_decouple"}, ({"weight_decay": (0, 0.05), "no_prox": ON_OFF},)),
        Reference("torch-optimi", "0.3.3", "optimi.Adan", {"foreach": False, "triton": False, "eps": 1e-8},
                  tables=({"weight_decay": (0, 0.05)},)),
        Reference("torch-optimi", "0.3.3", "optimi.Adan", {"foreach": False, "triton": False, "eps": 1e-8},
                  {"no_prox": "adam_wd"}, ({"weight_decay": (0.05,), "no_prox": (True,)},), "ignores adam_wd"),
    ),
)  # fmt: skip
