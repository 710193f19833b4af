"""SGD and momentum, whose forms share their rules."""

from optizoo.testing.mutants import DECAY, MOMENTUM, TINY_LR, Mutant
from optizoo.testing.specimen import ON_OFF, Specimen


def sgd(theta, g, *, lr, weight_decay):
    """Robbins & Monro (1951), with L2: θ_t = θ_{t-1} - α (g + λ θ_{t-1})."""
    return (theta - lr * (g + weight_decay * theta),)


def momentum(theta, g, momentum_buffer=None, *, lr, momentum, dampening, nesterov, weight_decay):
    """Polyak (1964), as PyTorch's documentation prints it."""
    g = g + weight_decay * theta
    b = g * 1 if momentum_buffer is None else momentum * momentum_buffer + (1 - dampening) * g
    return theta - lr * (g + momentum * b if nesterov else b), b


def momentum_lr_in_velocity(theta, g, velocity, *, lr, momentum, nesterov, weight_decay):
    """Sutskever et al. (2013): v_t = ρ v_{t-1} - α g, θ_t = θ_{t-1} + v_t.

    Nesterov's form is CS231n's, in the variable where the gradient is taken: θ_t = θ_{t-1} - ρ v_{t-1} + (1+ρ) v_t.
    """
    g = g + weight_decay * theta
    v = momentum * velocity - lr * g
    return theta + (-momentum * velocity + (1 + momentum) * v if nesterov else v), v


_LR, _HEAVY, _DECAYED = {"lr": (0.01,)}, {"lr": (0.01,), "momentum": (0.9,)}, {"weight_decay": (0.05,)}
_FORMS = ({}, {"dampening": (0.5,)}, {"nesterov": (True,)})

SGD = Specimen(
    name="sgd",
    textbook=(sgd, momentum),
    twin="SGD",
    tables=(_LR, *({**_HEAVY, **form} for form in _FORMS)),
    more_tables=(
        {**_LR, **_DECAYED, "l1": (0.1,)},
        {**_HEAVY, **_DECAYED, "weight_decay_mode": ("decoupled", "independent", "cautious")},
    ),
    mutants=(
        Mutant("sgd-ascends", "sgd", "alpha=-lr", "alpha=lr"),
        Mutant("sgd-lr-1-percent-off", "sgd", "alpha=-lr", "alpha=-1.01 * lr", TINY_LR),
        Mutant("sgd-no-decay", "sgd", "alpha=weight_decay", "alpha=0.0", {**DECAY, **TINY_LR}),
        Mutant("sgd-decay-times-lr", "sgd", "alpha=weight_decay", "alpha=lr * weight_decay", {**DECAY, **TINY_LR}),
        Mutant("sgd-decay-halved", "sgd", "alpha=weight_decay", "alpha=weight_decay / 2", {**DECAY, **TINY_LR}),
    ),
)

_IN_VELOCITY = "momentum_lr_in_velocity"
_VELOCITY = {"lr": 0.01, "lr_in_velocity": True}

MOMENTUM_SGD = Specimen(
    name="momentum",
    textbook=(momentum, momentum_lr_in_velocity),
    twin="SGD",
    twin_options={"momentum": 0.9},
    tables=({**_LR, "lr_in_velocity": (True,), "nesterov": ON_OFF},),
    more_tables=(
        *({**_LR, **form} for form in _FORMS),
        {**_LR, "lr_in_velocity": (True,), **_DECAYED, "weight_decay_mode": ("decoupled",), "l1": (0.1,)},
    ),
    mutants=(
        Mutant("momentum-dampened-first-step", "momentum", "buffer = grad", "buffer = grad * (1 - dampening)",
               {**MOMENTUM, "dampening": 0.5}),
        Mutant("momentum-dampening-ignored", "momentum", "alpha=1 - dampening", "alpha=1",
               {**MOMENTUM, "dampening": 0.5}),
        Mutant("momentum-averages", "momentum", "alpha=1 - dampening", "alpha=1 - momentum", MOMENTUM),
        Mutant("momentum-nesterov-ignored", "momentum", "if nesterov", "if False", {**MOMENTUM, "nesterov": True}),
        Mutant("momentum-nesterov-without-gradient", "momentum", "grad.add(momentum_buffer, alpha=momentum)",
               "momentum_buffer * momentum", {**MOMENTUM, "nesterov": True}),
        Mutant("momentum-nesterov-looks-ahead-twice", "momentum", "grad.add(momentum_buffer, alpha=momentum)",
               "momentum_buffer.add(momentum_buffer, alpha=momentum)", {**MOMENTUM, "nesterov": True}),
        Mutant("momentum-decoupled-decay", "momentum", "grad = grad.add(param, alpha=weight_decay)",
               "param = param * (1 - lr * weight_decay)", {**MOMENTUM, **DECAY}),
        Mutant("velocity-without-lr", "momentum", "(velocity * momentum).add(grad, alpha=-lr)",
               "(velocity * momentum).add(grad, alpha=-1)", _VELOCITY, _IN_VELOCITY),
        Mutant("velocity-times-lr", "momentum", "param + velocity,", "param.add(velocity, alpha=lr),",
               _VELOCITY, _IN_VELOCITY),
        Mutant("velocity-nesterov-without-gradient", "momentum", "alpha=momentum).add(grad, alpha=-lr)",
               "alpha=momentum)", {**_VELOCITY, "nesterov": True}, _IN_VELOCITY),
    ),
)  # fmt: skip
