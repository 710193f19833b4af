"""Lion, which torch does not have."""

from optizoo.testing.mutants import DECAY, Mutant
from optizoo.testing.specimen import SIGN_AND_DECAY, Reference, Specimen
from optizoo.testing.textbook import sign


def lion(theta, g, exp_avg, *, lr, betas, weight_decay):
    """Chen et al. (2023), Algorithm 2."""
    beta1, beta2 = betas
    c = beta1 * exp_avg + (1 - beta1) * g
    return theta - lr * (sign(c) + weight_decay * theta), beta2 * exp_avg + (1 - beta2) * g


LION = Specimen(
    name="lion",
    textbook=(lion,),
    mutants=(
        Mutant("lion-sign-of-new-momentum", "lion", "direction = exp_avg.lerp(grad, 1 - beta1).sign()",
               "direction = exp_avg.lerp(grad, 1 - beta2).sign()"),
        Mutant("lion-momentum-uses-beta1", "lion", "alpha=-lr), exp_avg.lerp(grad, 1 - beta2)",
               "alpha=-lr), exp_avg.lerp(grad, 1 - beta1)"),
        Mutant("lion-no-sign", "lion", ".lerp(grad, 1 - beta1).sign()", ".lerp(grad, 1 - beta1)"),
        Mutant("lion-l2", "lion", "param = param * (1 - lr * weight_decay)",
               "exp_avg = exp_avg.add(param, alpha=weight_decay)", DECAY),
    ),
    references=(
        Reference("timm", "1.0.31", "timm.optim.Lion", {"foreach": False}, tables=(SIGN_AND_DECAY,)),
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.Lion", {"foreach": False}, tables=(SIGN_AND_DECAY,)),
        Reference("torch-optimi", "0.3.3", "optimi.Lion", {"foreach": False, "triton": False},
                  tables=({"weight_decay": (0, 0.05)},)),
    ),
)  # fmt: skip
