"""RAdam."""

from optizoo.testing.mutants import Mutant
from optizoo.testing.specimen import ON_OFF, Specimen


def radam(theta, g, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, decoupled_weight_decay, step):
    """Liu et al. (2020), Algorithm 2, with torch's threshold 5 and its ε."""
    beta1, beta2 = betas
    if decoupled_weight_decay:
        theta = theta - lr * weight_decay * theta
    else:
        g = g + weight_decay * theta
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    rho_max = 2 / (1 - beta2) - 1
    rho = rho_max - 2 * step * beta2**step / (1 - beta2**step)
    m_hat = m / (1 - beta1**step)
    if rho <= 5:
        return theta - lr * m_hat, m, v
    adaptive = (1 - beta2**step) ** 0.5 / (v**0.5 + eps)
    r = ((rho - 4) * (rho - 2) * rho_max / ((rho_max - 4) * (rho_max - 2) * rho)) ** 0.5
    return theta - lr * m_hat * r * adaptive, m, v


RADAM = Specimen(
    name="radam",
    textbook=(radam,),
    twin="RAdam",
    tables=({"decoupled_weight_decay": ON_OFF},),
    mutants=(
        Mutant("radam-never-rectified", "radam", "if rho > 5.0:", "if False:"),
        Mutant("radam-threshold-of-the-paper", "radam", "if rho > 5.0:", "if rho > 4.0:"),
        Mutant("radam-inverse-rectification", "radam", "* rho)) ** 0.5  # r", "* rho)) ** -0.5  # r"),
        Mutant("radam-eps-inside-root", "radam", "(exp_avg_sq.sqrt() + eps)", "(exp_avg_sq + eps).sqrt()"),
    ),
)  # fmt: skip
