"""The update rules, each written once, sorted by complexity; every execution of optizoo reads this text.

A rule is a free function ``(param, grad, *state, **options) -> (param, *state)``:

* Positional arguments after ``param, grad`` are the state, under the names that ``torch.optim`` gives it. A state with
  the default ``None`` may be absent: it is either switched on by an option or made by the rule at the first update.
* Keyword-only arguments are the hyper-parameters. ``step`` is the number of this update, counted from 1.
* A rule is a pure function: it never writes in place, and nothing but its arguments decides what it does. It returns
  the new parameter and the new states, in the order of the arguments.
* Its words are ``+ - * /``, unary minus, ``add(x, alpha=)``, ``lerp``, ``addcmul``, ``addcdiv``, ``sqrt``, ``abs``,
  ``sign``, ``maximum`` and ``clamp_min``, which tensors and traced expressions both know. ``if`` may look at
  hyper-parameters and at the absence of a state, never at tensors.

The fused words stand where ``torch.optim`` has them and in its order, which makes the rules bit-for-bit equal to it;
the symbols of the papers stand to the right: θ parameter, g gradient, α learning rate, λ weight decay.
"""
# pyright: reportOptionalMemberAccess=false
# An optional state is there whenever the option that reads it is on.


def sgd(param, grad, *, lr, weight_decay):
    """Stochastic gradient descent: θ ← θ - α (g + λθ).

    Weight decay is L2 regularisation: it joins the gradient.
    Source: Robbins & Monro (1951), https://doi.org/10.1214/aoms/1177729586.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    return (param.add(grad, alpha=-lr),)  # θ ← θ - αg


def momentum(param, grad, momentum_buffer=None, *, lr, momentum, dampening, nesterov, weight_decay):
    """Momentum with the learning rate outside the velocity: b ← μb + (1-τ)g; θ ← θ - αb.

    Nesterov's form moves along g + μb instead of b. Weight decay is L2, as in :func:`sgd`.
    The first update sets b = g: dampening τ is ignored there. torch does the same and documents it nowhere; the papers
    start from b = 0.
    Source: Polyak (1964); Sutskever et al. (2013), https://proceedings.mlr.press/v28/sutskever13.html, whose
    velocity holds the learning rate: that form is :func:`momentum_lr_in_velocity`.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    if momentum_buffer is None:
        momentum_buffer = grad  # b ← g
    else:
        momentum_buffer = (momentum_buffer * momentum).add(grad, alpha=1 - dampening)  # b ← μb + (1-τ)g
    direction = grad.add(momentum_buffer, alpha=momentum) if nesterov else momentum_buffer  # g + μb, or b
    return param.add(direction, alpha=-lr), momentum_buffer  # θ ← θ - α · direction


def momentum_lr_in_velocity(param, grad, velocity, *, lr, momentum, nesterov, weight_decay):
    """Momentum with the learning rate inside the velocity: v ← ρv - αg; θ ← θ + v.

    The same sequence as :func:`momentum` (without dampening) only while α is constant: after a change of α the old
    velocity still carries the old rate here, while there it is rescaled at once.
    Nesterov's form, in the variable at which the gradient is taken, is θ ← θ + ρv - αg with the new v.
    Source: Sutskever et al. (2013), equations 1 to 4, https://proceedings.mlr.press/v28/sutskever13.html.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    velocity = (velocity * momentum).add(grad, alpha=-lr)  # v ← ρv - αg
    if nesterov:
        return param.add(velocity, alpha=momentum).add(grad, alpha=-lr), velocity  # θ ← θ + ρv - αg
    return param + velocity, velocity  # θ ← θ + v


def rmsprop(
    param, grad, square_avg, momentum_buffer=None, grad_avg=None,
    *, lr, alpha, eps, weight_decay, momentum, centered,
):  # fmt: skip
    """RMSProp: v ← ρv + (1-ρ)g²; θ ← θ - α g / (√v + ε), where ``alpha`` is ρ and ``lr`` is α.

    Centered, v - ḡ² (the variance of g) stands in place of v. Rounding can push it below zero, where torch goes on with
    NaN; here it is held at zero. With momentum, b ← μb + g / (√v + ε) and θ ← θ - αb.
    ε stands outside the root, as in torch; TensorFlow and optax put it inside. Weight decay is L2.
    Source: Tieleman & Hinton (2012), lecture 6.5; centered: Graves (2013), equations 38 to 45,
    https://arxiv.org/abs/1308.0850.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    square_avg = (square_avg * alpha).addcmul(grad, grad, value=1 - alpha)  # v ← ρv + (1-ρ)g²
    variance = square_avg
    if centered:
        grad_avg = grad_avg.lerp(grad, 1 - alpha)  # ḡ ← ρḡ + (1-ρ)g
        variance = square_avg.addcmul(grad_avg, grad_avg, value=-1).clamp_min(0)  # v - ḡ²
    denom = variance.sqrt() + eps  # √v + ε
    if momentum:
        momentum_buffer = (momentum_buffer * momentum).addcdiv(grad, denom)  # b ← μb + g / (√v + ε)
        param = param.add(momentum_buffer, alpha=-lr)  # θ ← θ - αb
    else:
        param = param.addcdiv(grad, denom, value=-lr)  # θ ← θ - α g / (√v + ε)
    return param, square_avg, momentum_buffer, grad_avg


def adam(
    param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq=None,
    *, lr, betas, eps, weight_decay, amsgrad, bias_correction, step,
):  # fmt: skip
    """Adam: m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; θ ← θ - α m̂ / (√v̂ + ε), m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ).

    ε is added outside the root and after the bias correction (Algorithm 1; the "ε-hat" form of section 2 and some
    frameworks add it before). Without ``bias_correction`` m̂ = m and v̂ = v, the lecture's "Adam (almost)".
    AMSGrad divides by the largest v so far; like torch and unlike its paper, it corrects that maximum too.
    Weight decay is L2 and so passes through both moments; :func:`adamw` keeps it out of them.
    Source: Kingma & Ba (2015), https://arxiv.org/abs/1412.6980; AMSGrad: Reddi et al. (2018),
    https://arxiv.org/abs/1904.09237.
    """
    beta1, beta2 = betas
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    second_moment = exp_avg_sq
    if amsgrad:
        second_moment = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)  # v_max ← max(v_max, v)
    bias_correction1 = 1 - beta1**step if bias_correction else 1.0  # 1 - β₁ᵗ
    bias_correction2 = 1 - beta2**step if bias_correction else 1.0  # 1 - β₂ᵗ
    denom = second_moment.sqrt() / bias_correction2**0.5 + eps  # √v̂ + ε
    param = param.addcdiv(exp_avg, denom, value=-lr / bias_correction1)  # θ ← θ - α m̂ / (√v̂ + ε)
    return param, exp_avg, exp_avg_sq, max_exp_avg_sq


def adamw(
    param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq=None,
    *, lr, betas, eps, weight_decay, amsgrad, bias_correction, step,
):  # fmt: skip
    """AdamW: shrink the weights, θ ← (1 - αλ)θ, then an :func:`adam` step without L2.

    The decay is multiplied by the learning rate, as in torch; the paper multiplies it by the schedule factor alone.
    Source: Loshchilov & Hutter (2019), Algorithm 2, https://arxiv.org/abs/1711.05101.
    """
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    return adam(
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq,
        lr=lr, betas=betas, eps=eps, weight_decay=0, amsgrad=amsgrad, bias_correction=bias_correction, step=step,
    )  # fmt: skip
