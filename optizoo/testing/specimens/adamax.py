"""Adamax."""

from optizoo.testing.mutants import Mutant
from optizoo.testing.specimen import Specimen
from optizoo.testing.textbook import largest


def adamax(theta, g, exp_avg, exp_inf, *, lr, betas, eps, weight_decay, step):
    """Kingma & Ba (2015), Algorithm 2, with torch's ε."""
    beta1, beta2 = betas
    g = g + weight_decay * theta
    m = beta1 * exp_avg + (1 - beta1) * g
    u = largest(beta2 * exp_inf, abs(g) + eps)
    return theta - lr / (1 - beta1**step) * m / u, m, u


ADAMAX = Specimen(
    name="adamax",
    textbook=(adamax,),
    twin="Adamax",
    mutants=(
        Mutant("adamax-no-correction", "adamax", "-lr / (1 - beta1**step)", "-lr"),
        Mutant("adamax-eps-after-maximum", "adamax", "(exp_inf * beta2).maximum(grad.abs() + eps)",
               "(exp_inf * beta2).maximum(grad.abs()) + eps"),
        Mutant("adamax-forgets-nothing", "adamax", "(exp_inf * beta2).maximum", "exp_inf.maximum"),
    ),
)  # fmt: skip
