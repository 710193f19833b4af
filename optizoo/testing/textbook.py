"""The second oracle: the update rules as the papers print them, in plain operators.

These functions have the form of :mod:`optizoo.rules` and work on Python floats, without torch's help, as well as on
tensors, where they are the "textbook rewrite" of the optimizers: correct, but rounded in other places. They exist to
be compared with and are deliberately naive.
"""

from typing import Any

import torch


def _largest(a: Any, b: Any) -> Any:
    return torch.maximum(a, b) if isinstance(a, torch.Tensor) else max(a, b)


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


def rmsprop(
    theta, g, square_avg, momentum_buffer=None, grad_avg=None,
    *, lr, alpha, eps, weight_decay, momentum, centered,
):  # fmt: skip
    """Tieleman & Hinton (2012); centered and with momentum: Graves (2013)."""
    g = g + weight_decay * theta
    v = alpha * square_avg + (1 - alpha) * g**2
    variance, b, g_mean = v, momentum_buffer, grad_avg
    if centered:
        g_mean = alpha * grad_avg + (1 - alpha) * g
        variance = _largest(v - g_mean**2, 0 * v)
    step = g / (variance**0.5 + eps)
    if momentum:
        step = b = momentum * momentum_buffer + step
    return theta - lr * step, v, b, g_mean


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
        v_used = v_max = _largest(max_exp_avg_sq, v)
    m_hat = m / (1 - beta1**step) if bias_correction else m
    v_hat = v_used / (1 - beta2**step) if bias_correction else v_used
    return theta - lr * m_hat / (v_hat**0.5 + eps), m, v, v_max


def adamw(
    theta, g, exp_avg, exp_avg_sq, max_exp_avg_sq=None,
    *, lr, betas, eps, weight_decay, amsgrad, bias_correction, step,
):  # fmt: skip
    """Loshchilov & Hutter (2019), Algorithm 2: the decay uses the weights of before the step."""
    decay = lr * weight_decay * theta
    theta, *moments = adam(
        theta, g, exp_avg, exp_avg_sq, max_exp_avg_sq,
        lr=lr, betas=betas, eps=eps, weight_decay=0, amsgrad=amsgrad, bias_correction=bias_correction, step=step,
    )  # fmt: skip
    return theta - decay, *moments
