"""Adam and AdamW, which share their moments."""

from optizoo.testing.mutants import DECAY, TINY_LR, Mutant
from optizoo.testing.specimen import ON_OFF, Specimen
from optizoo.testing.textbook import largest


def adam(
    theta, g, exp_avg, exp_avg_sq, max_exp_avg_sq=None,
    *, lr, betas, eps, weight_decay, amsgrad, bias_correction, step,
):  # fmt: skip
    """Kingma & Ba (2015), Algorithm 1; AMSGrad: Reddi et al. (2018) with torch's correction of the maximum."""
    beta1, beta2 = betas
    g = g + weight_decay * theta
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    v_used, v_max = v, None
    if amsgrad:
        v_used = v_max = largest(max_exp_avg_sq, v)
    m_hat = m / (1 - beta1**step) if bias_correction else m
    v_hat = v_used / (1 - beta2**step) if bias_correction else v_used
    return theta - lr * m_hat / (v_hat**0.5 + eps), m, v, v_max


def adamw(theta, g, exp_avg, exp_avg_sq, max_exp_avg_sq=None, *, lr, betas, eps, weight_decay, amsgrad,
          bias_correction, step):  # fmt: skip
    """Loshchilov & Hutter (2019), Algorithm 2: the decay uses the weights of before the step."""
    decay = lr * weight_decay * theta
    theta, *moments = adam(
        theta, g, exp_avg, exp_avg_sq, max_exp_avg_sq,
        lr=lr, betas=betas, eps=eps, weight_decay=0, amsgrad=amsgrad, bias_correction=bias_correction, step=step,
    )  # fmt: skip
    return theta - decay, *moments


ADAM = Specimen(
    name="adam",
    textbook=(adam, adamw),
    twin="Adam",
    tables=({"amsgrad": ON_OFF, "decoupled_weight_decay": ON_OFF},),
    more_tables=({"bias_correction": (False,), "amsgrad": ON_OFF}, {"weight_decay": (0.05,), "l1": (0.1,)}),
    mutants=(
        Mutant("adam-eps-inside-root", "adam", "second_moment.sqrt() / bias_correction2**0.5 + eps",
               "(second_moment / bias_correction2 + eps).sqrt()"),
        Mutant("adam-eps-before-correction", "adam", "second_moment.sqrt() / bias_correction2**0.5 + eps",
               "(second_moment.sqrt() + eps) / bias_correction2**0.5", TINY_LR),
        Mutant("adam-eps-1e-7", "adam", "+ eps", "+ 1e-7", TINY_LR),
        Mutant("adam-no-correction-1", "adam", "1 - beta1**step if bias_correction else 1.0", "1.0"),
        Mutant("adam-no-correction-2", "adam", "1 - beta2**step if bias_correction else 1.0", "1.0"),
        Mutant("adam-correction-1-uses-beta2", "adam", "1 - beta1**step", "1 - beta2**step"),
        Mutant("adam-correction-2-uses-beta1", "adam", "1 - beta2**step", "1 - beta1**step"),
        Mutant("adam-correction-2-without-root", "adam", "bias_correction2**0.5", "bias_correction2"),
        Mutant("adam-step-counts-from-2", "adam", "beta1, beta2 = betas", "(beta1, beta2), step = betas, step + 1",
               TINY_LR),
        Mutant("adam-correction-1-from-2", "adam", "1 - beta1**step", "1 - beta1 ** (step + 1)", TINY_LR),
        Mutant("adam-betas-swapped", "adam", "beta1, beta2 = betas", "beta2, beta1 = betas"),
        Mutant("adam-no-square", "adam", "addcmul(grad, grad, value", "addcmul(grad, grad.sign(), value"),
        Mutant("adam-amsgrad-ignored", "adam", "max_exp_avg_sq.maximum(exp_avg_sq)", "exp_avg_sq", {"amsgrad": True}),
        Mutant("adam-amsgrad-forgets", "adam", "second_moment = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)",
               "second_moment = max_exp_avg_sq.maximum(exp_avg_sq); max_exp_avg_sq = exp_avg_sq", {"amsgrad": True}),
        Mutant("adam-decays-twice", "adam", "return param, exp_avg",
               "param = param.add(param, alpha=-lr * weight_decay); return param, exp_avg", {**DECAY, **TINY_LR}),
        Mutant("adam-decoupled-decay", "adam", "grad = grad.add(param, alpha=weight_decay)",
               "param = param * (1 - lr * weight_decay)", {**DECAY, **TINY_LR}),
        Mutant("adam-corrects-what-it-should-not", "adam", "if bias_correction else 1.0  # 1 - β₁ᵗ", "  # 1 - β₁ᵗ",
               {"bias_correction": False}),
    ),
)  # fmt: skip

ADAMW = Specimen(
    name="adamw",
    textbook=(adamw, adam),
    twin="AdamW",
    tables=({"amsgrad": ON_OFF},),
    more_tables=(
        {"bias_correction": (False,)},
        {"weight_decay": (0.05,), "weight_decay_mode": ("independent", "cautious")},
    ),
    mutants=(
        Mutant("adamw-l2", "adamw", "param = param * (1 - lr * weight_decay)",
               "grad = grad.add(param, alpha=weight_decay)", {**DECAY, **TINY_LR}),
        Mutant("adamw-decay-without-lr", "adamw", "1 - lr * weight_decay", "1 - 1e-3 * weight_decay",
               {**DECAY, **TINY_LR}),
        Mutant("adamw-no-decay", "adamw", "1 - lr * weight_decay", "1.0", {**DECAY, **TINY_LR}),
        Mutant("adamw-decays-twice", "adamw", "weight_decay=0,", "weight_decay=weight_decay,", {**DECAY, **TINY_LR}),
        Mutant("adamw-decay-grows", "adamw", "1 - lr * weight_decay", "1 + lr * weight_decay", {**DECAY, **TINY_LR}),
        # (1 - αλ)(θ - αu) = (1 - αλ)θ - α(1 - αλ)u
        Mutant("adamw-decay-after-update", "adamw", "param = param * (1 - lr * weight_decay)",
               "param, lr = param * (1 - lr * weight_decay), lr * (1 - lr * weight_decay)", {**DECAY, **TINY_LR}),
    ),
)  # fmt: skip
