"""The second oracle: the update rules as the papers print them, in plain operators.

These functions have the form of :mod:`optizoo.rules` and work on Python floats, without torch's help, as well as on
tensors, where they are the "textbook rewrite" of the optimizers: correct, but rounded in other places. They exist to
be compared with and are deliberately naive.
"""

from typing import Any

import torch


def _largest(a: Any, b: Any) -> Any:
    return torch.maximum(a, b) if isinstance(a, torch.Tensor) else max(a, b)


def _sign(a: Any) -> Any:
    return torch.sign(a) if isinstance(a, torch.Tensor) else (a > 0) - (a < 0)


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return torch.where(condition, yes, no) if isinstance(condition, torch.Tensor) else (yes if condition else no)


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
    *, lr, alpha, eps, weight_decay, momentum, centered, eps_inside_sqrt,
):  # fmt: skip
    """Tieleman & Hinton (2012); centered and with momentum: Graves (2013), whose ε is inside."""
    g = g + weight_decay * theta
    v = alpha * square_avg + (1 - alpha) * g**2
    variance, b, g_mean = v, momentum_buffer, grad_avg
    if centered:
        g_mean = alpha * grad_avg + (1 - alpha) * g
        variance = _largest(v - g_mean**2, 0 * v)
    step = g / ((variance + eps) ** 0.5 if eps_inside_sqrt else variance**0.5 + eps)
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


def lion(theta, g, exp_avg, *, lr, betas, weight_decay):
    """Chen et al. (2023), Algorithm 2."""
    beta1, beta2 = betas
    c = beta1 * exp_avg + (1 - beta1) * g
    return theta - lr * (_sign(c) + weight_decay * theta), beta2 * exp_avg + (1 - beta2) * g


def rprop(theta, g, prev, step_size, *, etas, step_sizes):
    """Riedmiller & Braun (1993) with the bookkeeping of Igel & Hüsken (2000): iRprop⁻."""
    turned, stayed = g * prev < 0, g * prev > 0
    size = _where(turned, step_size * etas[0], _where(stayed, step_size * etas[1], step_size))
    size = _where(size < step_sizes[0], 0 * size + step_sizes[0], size)
    size = _where(size > step_sizes[1], 0 * size + step_sizes[1], size)
    g = _where(turned, 0 * g, g)
    return theta - _sign(g) * size, g, size


def adagrad(theta, g, sum, *, lr, lr_decay, eps, weight_decay, step):  # noqa: A002 - torch's name of the state
    """Duchi, Hazan & Singer (2011), the diagonal form, as PyTorch's documentation prints it."""
    g = g + weight_decay * theta
    s = sum + g**2
    return theta - lr / (1 + (step - 1) * lr_decay) * g / (s**0.5 + eps), s


def adadelta(theta, g, square_avg, acc_delta, *, lr, rho, eps, weight_decay):
    """Zeiler (2012), Algorithm 1."""
    g = g + weight_decay * theta
    v = rho * square_avg + (1 - rho) * g**2
    delta = (acc_delta + eps) ** 0.5 / (v + eps) ** 0.5 * g
    return theta - lr * delta, v, rho * acc_delta + (1 - rho) * delta**2


def adamax(theta, g, exp_avg, exp_inf, *, lr, betas, eps, weight_decay, step):
    """Kingma & Ba (2015), Algorithm 2, with torch's ε."""
    beta1, beta2 = betas
    g = g + weight_decay * theta
    m = beta1 * exp_avg + (1 - beta1) * g
    u = _largest(beta2 * exp_inf, abs(g) + eps)
    return theta - lr / (1 - beta1**step) * m / u, m, u


def nadam(
    theta, g, exp_avg, exp_avg_sq,
    *, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, step, mu_product,
):  # fmt: skip
    """Dozat (2016), Algorithm 2, as PyTorch's documentation prints it."""
    beta1, beta2 = betas
    if decoupled_weight_decay:
        theta = theta - lr * weight_decay * theta
    else:
        g = g + weight_decay * theta
    mu, mu_next = (beta1 * (1 - 0.96 ** (t * momentum_decay) / 2) for t in (step, step + 1))
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
    return theta - lr * m_hat / ((v / (1 - beta2**step)) ** 0.5 + eps), m, v


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


def regularized(rule, theta, g, *state, lr, weight_decay, weight_decay_mode, max_lr, l1, **options):
    """Decay, the other rule, then the proximal operator of α l1 |θ|, by its three cases (Parikh & Boyd 2014).

    The decays are those of L2, of AdamW in PyTorch, and of Loshchilov & Hutter (2019) with η = α / α_max.
    """
    shrunk = {
        "coupled": lambda: theta,
        "decoupled": lambda: theta - lr * weight_decay * theta,
        "independent": lambda: theta - weight_decay * lr / max_lr * theta,
    }[weight_decay_mode]()
    g = g + weight_decay * theta if weight_decay_mode == "coupled" else g
    theta, *state = rule(shrunk, g, *state, lr=lr, weight_decay=0, **options)
    above, below = (
        _where(theta > lr * l1, theta - lr * l1, 0 * theta),
        _where(theta < -lr * l1, theta + lr * l1, 0 * theta),
    )
    return above + below, *state
