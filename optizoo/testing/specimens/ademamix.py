"""AdEMAMix, which torch does not have."""

import math

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import SIGN_AND_DECAY, Reference, Specimen


def ademamix(
    theta, g, exp_avg_fast, exp_avg_slow, exp_avg_sq,
    *, lr, betas, eps, weight_decay, alpha, alpha_warmup, beta3_warmup, step,
):  # fmt: skip
    """Pagliardini et al. (2024), Algorithm 1, with the schedules of α and β₃ of section 3, in half-lives."""
    beta1, beta2, beta3 = betas
    if alpha_warmup and step < alpha_warmup:
        alpha = alpha * step / alpha_warmup
    if beta3_warmup and step < beta3_warmup and 0 < beta1 < beta3:
        first, last = (-math.log(2) / math.log(beta) for beta in (beta1, beta3))
        beta3 = 0.5 ** (1 / (first + (last - first) * step / beta3_warmup))
    m1 = beta1 * exp_avg_fast + (1 - beta1) * g
    m2 = beta3 * exp_avg_slow + (1 - beta3) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    u = (m1 / (1 - beta1**step) + alpha * m2) / ((v / (1 - beta2**step)) ** 0.5 + eps)
    return theta - lr * (u + weight_decay * theta), m1, m2, v


WARM = {"alpha_warmup": 8, "beta3_warmup": 12}

ADEMAMIX = Specimen(
    name="ademamix",
    textbook=(ademamix,),
    tables=({"alpha_warmup": (None, 7), "beta3_warmup": (None, 12)},),
    more_tables=({"alpha": (0.0, 8.0), "betas": ((0.0, 0.5, 0.5), (0.9, 0.95, 0.99)), "beta3_warmup": (3.5, 1000)},),
    mutants=(
        Mutant("ademamix-slow-corrected", "ademamix", "share)  #", "share / (1 - beta3**step))  #"),
        Mutant("ademamix-fast-not-corrected", "ademamix", "(exp_avg_fast / (1 - beta1**step))", "exp_avg_fast"),
        Mutant("ademamix-slow-forgotten", "ademamix", ".add(exp_avg_slow, alpha=alpha * share)", ""),
        Mutant("ademamix-slow-not-normalized", "ademamix", "addcdiv(update, denom, value=-lr)",
               "addcdiv(exp_avg_fast, denom, value=-lr / (1 - beta1**step)).add(exp_avg_slow, alpha=-lr * alpha)"),
        Mutant("ademamix-slow-uses-beta2", "ademamix", "exp_avg_slow.lerp(grad, 1 - beta3)",
               "exp_avg_slow.lerp(grad, 1 - beta2)"),
        Mutant("ademamix-eps-inside-root", "ademamix", "exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5 + eps",
               "(exp_avg_sq / (1 - beta2**step) + eps).sqrt()"),
        Mutant("ademamix-alpha-at-once", "ademamix", "alpha * share", "alpha", WARM),
        Mutant("ademamix-alpha-squared", "ademamix", "alpha * share", "alpha * share**2", WARM),
        Mutant("ademamix-beta3-at-once", "ademamix", "if beta3_warmup and", "if False and", WARM),
        Mutant("ademamix-beta3-linear", "ademamix",
               "beta3 ** (1 / (a + (1 - a) * math.log(beta3) / math.log(beta1)))", "(1 - a) * beta1 + a * beta3", WARM),
        Mutant("ademamix-decay-coupled", "ademamix", "param.add(param, alpha=-lr * weight_decay)",
               "param.addcdiv(param, denom, value=-lr * weight_decay)", DECAY),
        Mutant("ademamix-decay-without-lr", "ademamix", "-lr * w", "-1e-3 * w", {**DECAY, **TINY_LR}),
    ),
    references=(
        Reference("pytorch-optimizer", "4.1.0", "pytorch_optimizer.AdEMAMix",
                  {"foreach": False, "weight_decouple": True},  # one warm-up for both
                  names={"alpha_warmup": "t_alpha_beta3", "beta3_warmup": lambda _: {}},
                  tables=({"alpha": (2.0, 8.0), **SIGN_AND_DECAY},
                          {"alpha": (5.0,), "alpha_warmup": (700,), "beta3_warmup": (700,)})),
    ),
)  # fmt: skip
