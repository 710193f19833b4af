"""NAdam."""

from optizoo.core.rule import times
from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import ON_OFF, Specimen


def nadam(
    theta, g, exp_avg, exp_avg_sq, mu_product=1.0,
    *, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, step,
):  # fmt: skip
    """Dozat (2016), Algorithm 2, as PyTorch's documentation prints it."""
    beta1, beta2 = betas
    if decoupled_weight_decay:
        theta = theta - lr * weight_decay * theta
    else:
        g = g + weight_decay * theta
    mu, mu_next = (beta1 * (1 - 0.96 ** (t * momentum_decay) / 2) for t in (step, step + 1))
    mu_product = times(mu_product, mu)  # in float32, as PyTorch keeps it
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
    return theta - lr * m_hat / ((v / (1 - beta2**step)) ** 0.5 + eps), m, v, mu_product


NADAM = Specimen(
    name="nadam",
    textbook=(nadam,),
    twin="NAdam",
    tables=({"decoupled_weight_decay": ON_OFF},),
    mutants=(
        Mutant("nadam-momentum-without-decay", "nadam",
               "mu = nadam_momentum(step, betas=betas, momentum_decay=momentum_decay)", "mu = beta1"),
        Mutant("nadam-no-look-ahead", "nadam", "value=-lr * mu_next / (1 - mu_product * mu_next)",
               "value=-lr * mu / (1 - mu_product)"),
        Mutant("nadam-eps-inside-root", "nadam", "(exp_avg_sq / (1 - beta2**step)).sqrt() + eps",
               "(exp_avg_sq / (1 - beta2**step) + eps).sqrt()"),
        Mutant("nadam-decay-coupled", "nadam", "if weight_decay and decoupled_weight_decay:", "if False:",
               {"decoupled_weight_decay": True, **DECAY, **TINY_LR}),
    ),
)  # fmt: skip
