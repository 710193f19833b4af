"""LARS, which torch does not have."""

from optizoo.testing.mutants import DECAY, ZERO, Mutant
from optizoo.testing.specimen import ON_OFF, Specimen
from optizoo.testing.textbook import norm, where


def lars(theta, g, momentum_buffer, *, lr, momentum, weight_decay, nesterov, trust_coefficient, eps):
    """You et al. (2017), Algorithm 1, with the rate outside the velocity."""
    local_rate = trust_coefficient * norm(theta) / (norm(g) + weight_decay * norm(theta) + eps)
    local_rate = where(norm(theta) * norm(g) != 0, local_rate, 1.0)
    u = local_rate * (g + weight_decay * theta)
    b = momentum * momentum_buffer + u
    return theta - lr * (u + momentum * b if nesterov else b), b


LARS = Specimen(
    name="lars",
    textbook=(lars,),
    tables=({"nesterov": ON_OFF},),
    more_tables=(
        {"momentum": (0,), "trust_coefficient": (0.02,)},
        {"weight_decay": (0.05,), "weight_decay_mode": ("coupled", "decoupled")},
        {"weight_decay": (0.05,), "l1": (0.001,)},
    ),
    mutants=(
        Mutant("lars-no-ratio", "lars", "update = grad * trust", "update = grad"),
        Mutant("lars-coefficient-1", "lars", "size * trust_coefficient", "size"),
        Mutant("lars-norm-of-the-decayed-gradient", "lars", "length = param.norm(), grad.norm()",
               "length = param.norm(), grad.add(param, alpha=weight_decay).norm()", DECAY),
        Mutant("lars-decay-not-in-the-ratio", "lars", "(length + size * weight_decay + eps)", "(length + eps)", DECAY),
        Mutant("lars-decay-outside-the-ratio", "lars", "update = grad * trust",
               "update = (grad - param * weight_decay) * trust + param * weight_decay", DECAY),
        Mutant("lars-ratio-on-the-velocity", "lars",
               "update = grad * trust\n    momentum_buffer = momentum_buffer * momentum + update",
               "momentum_buffer = momentum_buffer * momentum + grad; update = momentum_buffer * trust",
               {"nesterov": True}),
        Mutant("lars-zero-weights-stay", "lars", ".where(size > 0, 1.0)", "", ZERO),
        Mutant("lars-dampened", "lars", "momentum_buffer * momentum + update",
               "momentum_buffer * momentum + update * (1 - momentum)"),
        Mutant("lars-nesterov-ignored", "lars", "if nesterov else momentum_buffer", "if 0 else momentum_buffer",
               {"nesterov": True}),
        Mutant("lars-no-eps", "lars", " + eps", "", {"eps": 0.1}),
    ),
)  # fmt: skip
