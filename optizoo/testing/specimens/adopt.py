"""ADOPT, which torch does not have."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import ON_OFF, SIGN_AND_DECAY, Reference, Specimen
from optizoo.testing.textbook import largest


def adopt(
    theta, g, exp_avg, exp_avg_sq,
    *, lr, betas, eps, weight_decay, decoupled_weight_decay, clip_exponent, step,
):  # fmt: skip
    """Taniguchi et al. (2024), Algorithms 1 and 2, with v₀ = g₀² in an update of its own; decays as torch-adopt's."""
    beta1, beta2 = betas
    g = g if decoupled_weight_decay else g + weight_decay * theta
    if step == 1:
        return theta, exp_avg, g**2
    direction = g / largest(exp_avg_sq**0.5, eps + 0 * exp_avg_sq)
    if clip_exponent is not None:
        bound = 0 * g + (step - 1) ** clip_exponent
        direction = -largest(-bound, -largest(direction, -bound))
    m = beta1 * exp_avg + (1 - beta1) * direction
    decay = lr * weight_decay * theta if decoupled_weight_decay else 0
    return theta - decay - lr * m, m, beta2 * exp_avg_sq + (1 - beta2) * g**2


PYTORCH_OPTIMIZER = ("pytorch-optimizer", "4.1.0", "pytorch_optimizer.ADOPT")
DECOUPLED = {"decoupled_weight_decay": True, **DECAY}
AN_UPDATE_LATER = {"foreach": False, "clip_lambda": lambda t: (t - 1) ** 0.25}
TABLE = {"clip_exponent": (0.25, None), "decoupled_weight_decay": ON_OFF}

ADOPT = Specimen(
    name="adopt",
    textbook=(adopt,),
    tables=(TABLE,),
    more_tables=({"betas": ((0.0, 0.5),), "eps": (0.0, 1e-3)}, {"weight_decay": (0.05,), "l1": (0.1,)}),
    mutants=(
        Mutant("adopt-new-moment", "adopt", "exp_avg_sq.sqrt()", "exp_avg_sq.lerp(grad * grad, 1 - beta2).sqrt()"),
        Mutant("adopt-first-moment-averaged", "adopt", "value=1 - beta2 * later", "value=1 - beta2"),
        Mutant("adopt-first-update-moves", "adopt", "(1 - beta1) * later", "1 - beta1", {"clip_exponent": None}),
        Mutant("adopt-adds-eps", "adopt", ".clamp_min(eps + (1 - later))", " + (eps + (1 - later))", TINY_LR),
        Mutant("adopt-clips-by-step", "adopt", "(step - 1) ** clip_exponent", "step**clip_exponent"),
        Mutant("adopt-clips-one-side", "adopt", ".clamp_min(-bound)", ""),
        Mutant("adopt-not-clipped", "adopt", "if clip_exponent is not None:", "if False:"),
        Mutant("adopt-betas-swapped", "adopt", "beta1, beta2 = betas", "beta2, beta1 = betas"),
        Mutant("adopt-corrects-bias", "adopt", "alpha=-lr)", "alpha=-lr / (1 - beta1**step))"),
        Mutant("adopt-decays-first", "adopt", "weight_decay * later", "weight_decay", {**DECOUPLED, **TINY_LR}),
        Mutant("adopt-decay-coupled", "adopt", "weight_decay and decoupled_weight_decay", "False", DECOUPLED),
    ),
    references=(
        Reference("torch-adopt", "0.1.0", "adopt.ADOPT", {"foreach": False}, tables=({**TABLE, **SIGN_AND_DECAY},),
                  names={"clip_exponent": lambda p: {"clip_lambda": p and (lambda t: t**p)},
                          "decoupled_weight_decay": "decouple"}),
        Reference("timm", "1.0.31", "timm.optim.Adopt", {"foreach": False},
                  {"clip_exponent": "clip_exp", "decoupled_weight_decay": "decoupled"}, ({**TABLE, **SIGN_AND_DECAY},)),
        Reference(*PYTORCH_OPTIMIZER, {"foreach": False}, fault="clips to t^p"),
        Reference(*PYTORCH_OPTIMIZER, AN_UPDATE_LATER, tables=(SIGN_AND_DECAY,)),
        Reference(*PYTORCH_OPTIMIZER, AN_UPDATE_LATER, {"decoupled_weight_decay": "weight_decouple"},
                  ({"decoupled_weight_decay": (True,), "weight_decay": (0.05,)},), "decays in the first update"),
    ),
)  # fmt: skip
