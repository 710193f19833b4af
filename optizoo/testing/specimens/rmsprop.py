"""RMSprop, in its forms."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import ON_OFF, Specimen
from optizoo.testing.textbook import largest


def rmsprop(
    theta, g, square_avg, momentum_buffer=None, grad_avg=None,
    *, lr, alpha, eps, weight_decay, momentum, centered, eps_inside_sqrt,
):  # fmt: skip
    """Tieleman & Hinton (2012); centered and with momentum: Graves (2013), whose ε is inside."""
    g = g + weight_decay * theta
    v = alpha * square_avg + (1 - alpha) * g**2
    variance, b, g_mean = v, momentum_buffer, grad_avg
    if centered:
        g_mean = alpha * grad_avg + (1 - alpha) * g
        variance = largest(v - g_mean**2, 0 * v)
    step = g / ((variance + eps) ** 0.5 if eps_inside_sqrt else variance**0.5 + eps)
    if momentum:
        step = b = momentum * momentum_buffer + step
    return theta - lr * step, v, b, g_mean


RMSPROP = Specimen(
    name="rmsprop",
    textbook=(rmsprop,),
    twin="RMSprop",
    tables=({"momentum": (0, 0.9), "centered": ON_OFF},),
    more_tables=(
        {"eps_inside_sqrt": (True,), "centered": ON_OFF},
        {"initial_accumulator": (1.0,), "momentum": (0.9,),
         "weight_decay": (0.05,), "weight_decay_mode": ("decoupled",), "l1": (0.1,)},
    ),
    mutants=(
        Mutant("rmsprop-eps-inside-root", "rmsprop", "variance.sqrt() + eps", "(variance + eps).sqrt()"),
        Mutant("rmsprop-eps-1e-7", "rmsprop", "sqrt() + eps", "sqrt() + 1e-7", TINY_LR),
        Mutant("rmsprop-no-eps", "rmsprop", "sqrt() + eps", "sqrt() + 1e-30"),
        Mutant("rmsprop-eps-outside-root", "rmsprop", "if eps_inside_sqrt else", "if False else",
               {"eps_inside_sqrt": True}),
        Mutant("rmsprop-starts-at-zero", "rmsprop", "", "",
               {"initial_accumulator": 1.0}, mistaken_options={"initial_accumulator": 0.0}),
        Mutant("rmsprop-alpha-swapped", "rmsprop", "(square_avg * alpha).addcmul(grad, grad, value=1 - alpha)",
               "(square_avg * (1 - alpha)).addcmul(grad, grad, value=alpha)"),
        Mutant("rmsprop-not-centered", "rmsprop", "if centered:", "if False:", {"centered": True, **TINY_LR}),
        Mutant("rmsprop-centered-without-square", "rmsprop", "addcmul(grad_avg, grad_avg, value=-1)",
               "addcmul(grad_avg, grad, value=-1)", {"centered": True}),
        Mutant("rmsprop-momentum-averages", "rmsprop", "addcdiv(grad, denom)",
               "addcdiv(grad, denom, value=1 - momentum)", {"momentum": 0.9}),
        Mutant("rmsprop-decay-outside-moments", "rmsprop", "grad = grad.add(param, alpha=weight_decay)",
               "param = param * (1 - lr * weight_decay)", {**DECAY, **TINY_LR}),
    ),
)  # fmt: skip
