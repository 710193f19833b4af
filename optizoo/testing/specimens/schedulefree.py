"""Schedule-Free SGD and AdamW, which torch does not have."""

from collections.abc import Mapping
from typing import Any

from optizoo.testing.mutants import DECAY, Mutant
from optizoo.testing.pairwise import Table
from optizoo.testing.specimen import Reference, Specimen


def schedulefree_sgd(
    y, g, z=None, average=None, weight_sum=0.0, lr_max=0.0,
    *, lr, momentum, weight_decay, warmup_steps, r, weight_lr_power, step,
):  # fmt: skip
    """Defazio et al. (2024), Algorithm 1: z, x and y one after the other."""
    z = y if z is None else z
    lr = lr * min(1, step / warmup_steps) if warmup_steps else lr
    x = (y - (1 - momentum) * z) / momentum if momentum else z if average is None else average
    lr_max = max(lr_max, lr)
    w = step**r * lr_max**weight_lr_power
    weight_sum = weight_sum + w
    c = w / weight_sum if weight_sum else 0
    z = z - lr * (g + weight_decay * y)
    x = (1 - c) * x + c * z
    return (1 - momentum) * z + momentum * x, z, None if momentum else x, weight_sum, lr_max


def schedulefree_adamw(
    y, g, exp_avg_sq, z=None, average=None, weight_sum=0.0, lr_max=0.0,
    *, lr, betas, eps, weight_decay, warmup_steps, r, weight_lr_power, step,
):  # fmt: skip
    """The same along the gradient that RMSprop divides, with Adam's correction."""
    beta1, beta2 = betas
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    y, *state = schedulefree_sgd(
        y, g / ((v / (1 - beta2**step)) ** 0.5 + eps), z, average, weight_sum, lr_max,
        lr=lr, momentum=beta1, weight_decay=weight_decay, warmup_steps=warmup_steps, r=r,
        weight_lr_power=weight_lr_power, step=step,
    )  # fmt: skip
    return y, v, *state


TABLES: tuple[Table, ...] = ({"warmup_steps": (0, 10), "r": (0.0, 1.5), "weight_lr_power": (2.0, 0.0)},)

REFERENCE = ({**TABLES[0], "weight_decay": (0, 0.05)},)


def mutants(name: str, rule: str, true: Mapping[str, tuple[str, str, Mapping[str, Any]]]) -> tuple[Mutant, ...]:
    """Return mutants of a rule: by what is wrong, the text, the mistake and the options under which it shows."""
    return tuple(Mutant(f"{name}-{title}", name, *mistake, rule) for title, mistake in true.items())


SHARED = {
    "weights-all-alike": ("step**r * lr_max**weight_lr_power", "1.0", {"r": 1.5}),
    "forgets-the-sum": ("weight_sum = weight_sum + weight", "weight_sum = 2 * weight", {}),
    "forgets-the-largest-rate": ("lr_max = larger(lr_max, lr)", "lr_max = lr", {}),
    "warm-up-from-0": ("step / warmup_steps", "(step - 1) / warmup_steps", {"warmup_steps": 10}),
    "no-average": ("param.lerp(z, c)", "param", {}),
    "averages-before-the-step": ("momentum * (1 - c) - 1", "momentum - 1", {}),
}  # fmt: skip

SCHEDULEFREESGD = Specimen(
    name="schedulefreesgd",
    textbook=(schedulefree_sgd,),
    tables=TABLES,
    more_tables=({"momentum": (0.0, 1.0)},),
    mutants=mutants("schedulefreesgd", "schedulefree_sgd", {
        **SHARED,
        "steps-whole": ("lr * (momentum * (1 - c) - 1)", "-lr", {}),
        "decays-at-z": ("grad.add(param, alpha=weight_decay)", "grad.add(z, alpha=weight_decay)", DECAY),
    }),
    references=(
        Reference("schedulefree", "1.4.1", "schedulefree.SGDScheduleFree", {"foreach": False}, tables=REFERENCE),
    ),
)  # fmt: skip

SCHEDULEFREEADAMW = Specimen(
    name="schedulefreeadamw",
    textbook=(schedulefree_adamw,),
    tables=TABLES,
    more_tables=({"betas": ((0.0, 0.999),)},),
    mutants=(
        *mutants("schedulefreeadamw", "schedulefree_sgd", SHARED),
        *mutants("schedulefreeadamw", "schedulefree_adamw", {
            "no-correction": ("(exp_avg_sq / (1 - beta2**step)).sqrt()", "exp_avg_sq.sqrt()", {}),
            "eps-inside-root": ("(exp_avg_sq / (1 - beta2**step)).sqrt() + eps",
                                "(exp_avg_sq / (1 - beta2**step) + eps).sqrt()", {}),
            "decay-inside": ("direction, z,", "grad.add(param, alpha=weight_decay), z,", DECAY),
        }),
    ),
    references=(
        Reference("schedulefree", "1.4.1", "schedulefree.AdamWScheduleFree", {"foreach": False}, tables=REFERENCE),
    ),
)  # fmt: skip
