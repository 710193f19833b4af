"""The update rules, each written once, sorted by complexity; every execution of optizoo reads this text.

A rule is a free function ``(param, grad, *state, **options) -> (param, *state)``:

* Positional arguments after ``param, grad`` are the state, under the names that ``torch.optim`` gives it. A state with
  the default ``None`` may be absent: it is either switched on by an option or made by the rule at the first update.
* Keyword-only arguments are the hyper-parameters. ``step`` is the number of this update, counted from 1. A rule may
  name further numbers that are kept beside ``step``, such as ``mu_product`` of :func:`nadam`, and gets their new value.
* A rule is a pure function: it never writes in place, and nothing but its arguments decides what it does. It returns
  the new parameter and the new states, in the order of the arguments.
* Its words are ``+ - * /``, unary minus, ``add(x, alpha=)``, ``lerp``, ``addcmul``, ``addcdiv``, ``sqrt``, ``abs``,
  ``sign``, ``maximum``, ``clamp_min`` and ``clamp_max``, which tensors and traced expressions both know. ``if`` may
  look at hyper-parameters and at the absence of a state, never at tensors.

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


def lion(param, grad, exp_avg, *, lr, betas, weight_decay):
    """Lion: θ ← θ - α (sign(β₁m + (1-β₁)g) + λθ); m ← β₂m + (1-β₂)g.

    Every weight moves by α, whatever the size of its gradient. The decay is decoupled, as in :func:`adamw`.
    Source: Chen et al. (2023), Algorithm 2, https://arxiv.org/abs/2302.06675.
    """
    beta1, beta2 = betas
    direction = exp_avg.lerp(grad, 1 - beta1).sign()  # sign(β₁m + (1-β₁)g)
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    return param.add(direction, alpha=-lr), exp_avg.lerp(grad, 1 - beta2)  # θ ← θ - α · sign; m ← β₂m + (1-β₂)g


def rprop(param, grad, prev, step_size, *, etas, step_sizes):
    """Rprop: a step of its own for every weight: η⁺ times longer while the sign of g stays, η⁻ when it turns.

    Where it turns, the weight waits for one update, and the next one counts as neither. The steps start at the learning
    rate and stay within ``step_sizes``. p and n are 1 where the sign stays and where it turns, else 0. Where a gradient
    that turns is infinite, the rule gives NaN and torch 0.
    Source: Riedmiller & Braun (1993), https://doi.org/10.1109/ICNN.1993.298623, in the form iRprop⁻ of Igel & Hüsken
    (2000).
    """
    (shrink, grow), (smallest, largest) = etas, step_sizes
    sign = (grad * prev).sign()
    stays, turns = sign.clamp_min(0), (-sign).clamp_min(0)  # p, n
    factor = stays * grow + turns * shrink + (1 - stays - turns)  # η⁺, η⁻ or 1
    step_size = (step_size * factor).clamp_min(smallest).clamp_max(largest)  # Δ ← min(max(ηΔ, Δ_min), Δ_max)
    grad = grad * (1 - turns)  # g ← 0 where it turns
    return param.addcmul(grad.sign(), step_size, value=-1), grad, step_size  # θ ← θ - sign(g) Δ


def adagrad(param, grad, sum, *, lr, lr_decay, eps, weight_decay, step):  # noqa: A002 - torch's name of the state
    """Adagrad: s ← s + g²; θ ← θ - α g / (√s + ε), with α divided by 1 + (t-1) ``lr_decay``.

    Weight decay is L2.
    Source: Duchi, Hazan & Singer (2011), https://jmlr.org/papers/v12/duchi11a.html.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    sum = sum.addcmul(grad, grad)  # noqa: A001  # s ← s + g²
    denom = sum.sqrt() + eps  # √s + ε
    return param.addcdiv(grad, denom, value=-lr / (1 + (step - 1) * lr_decay)), sum  # θ ← θ - α g / (√s + ε)


def adadelta(param, grad, square_avg, acc_delta, *, lr, rho, eps, weight_decay):
    """Adadelta: v ← ρv + (1-ρ)g²; δ = g √(u + ε) / √(v + ε); u ← ρu + (1-ρ)δ²; θ ← θ - αδ.

    The running size u of past updates stands where others have a learning rate; the paper has α = 1.
    Weight decay is L2.
    Source: Zeiler (2012), Algorithm 1, https://arxiv.org/abs/1212.5701.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    square_avg = (square_avg * rho).addcmul(grad, grad, value=1 - rho)  # v ← ρv + (1-ρ)g²
    delta = (acc_delta + eps).sqrt() / (square_avg + eps).sqrt() * grad  # δ = g √(u + ε) / √(v + ε)
    acc_delta = (acc_delta * rho).addcmul(delta, delta, value=1 - rho)  # u ← ρu + (1-ρ)δ²
    return param.add(delta, alpha=-lr), square_avg, acc_delta  # θ ← θ - αδ


def rmsprop(
    param, grad, square_avg, momentum_buffer=None, grad_avg=None,
    *, lr, alpha, eps, weight_decay, momentum, centered, eps_inside_sqrt,
):  # fmt: skip
    """RMSProp: v ← ρv + (1-ρ)g²; θ ← θ - α g / (√v + ε), where ``alpha`` is ρ and ``lr`` is α.

    Centered, v - ḡ² (the variance of g) stands in place of v. Rounding can push it below zero, where torch goes on with
    NaN; here it is held at zero. With momentum, b ← μb + g / (√v + ε) and θ ← θ - αb.
    ε stands outside the root, as in torch; ``eps_inside_sqrt`` has √(v + ε), the form of TensorFlow and optax. Weight
    decay is L2.
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
    denom = (variance + eps).sqrt() if eps_inside_sqrt else variance.sqrt() + eps  # √(v + ε), or √v + ε
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


def adamax(param, grad, exp_avg, exp_inf, *, lr, betas, eps, weight_decay, step):
    """Adamax: m ← β₁m + (1-β₁)g; u ← max(β₂u, |g| + ε); θ ← θ - α m̂ / u, m̂ = m/(1-β₁ᵗ).

    Adam with the largest gradient in place of the root of the mean square. ε keeps u above zero, as in torch; the paper
    has none. Weight decay is L2.
    Source: Kingma & Ba (2015), Algorithm 2, https://arxiv.org/abs/1412.6980.
    """
    beta1, beta2 = betas
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_inf = (exp_inf * beta2).maximum(grad.abs() + eps)  # u ← max(β₂u, |g| + ε)
    return param.addcdiv(exp_avg, exp_inf, value=-lr / (1 - beta1**step)), exp_avg, exp_inf  # θ ← θ - α m̂ / u


def nadam(
    param, grad, exp_avg, exp_avg_sq,
    *, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, step, mu_product,
):  # fmt: skip
    """NAdam: Adam with Nesterov's look-ahead and a momentum μₜ that grows to β₁; ``mu_product`` is μ₁ ⋯ μₜ.

    θ ← θ - α ((1-μₜ) g / (1 - μ₁⋯μₜ) + μₜ₊₁ m / (1 - μ₁⋯μₜ₊₁)) / (√v̂ + ε). Weight decay is L2, or decoupled.
    Source: Dozat (2016), Algorithm 2, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """
    beta1, beta2 = betas
    if weight_decay and decoupled_weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    elif weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    mu = nadam_momentum(step, betas=betas, momentum_decay=momentum_decay)  # μₜ
    mu_next = nadam_momentum(step + 1, betas=betas, momentum_decay=momentum_decay)  # μₜ₊₁
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    denom = (exp_avg_sq / (1 - beta2**step)).sqrt() + eps  # √v̂ + ε
    param = param.addcdiv(grad, denom, value=-lr * (1 - mu) / (1 - mu_product))
    param = param.addcdiv(exp_avg, denom, value=-lr * mu_next / (1 - mu_product * mu_next))
    return param, exp_avg, exp_avg_sq


def nadam_momentum(step, *, betas, momentum_decay):
    """Return the momentum of an update of :func:`nadam`: μₜ = β₁ (1 - ½ · 0.96^(ψt)), with ψ = ``momentum_decay``.

    Source: Dozat (2016), section 2.2, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """
    return betas[0] * (1 - 0.5 * 0.96 ** (step * momentum_decay))


def radam(param, grad, exp_avg, exp_avg_sq, *, lr, betas, eps, weight_decay, decoupled_weight_decay, step):
    """RAdam: Adam whose adaptive rate waits until its variance is known, and is then rectified by r.

    ρ∞ = 2/(1-β₂) - 1; ρ = ρ∞ - 2tβ₂ᵗ/(1-β₂ᵗ). Where ρ > 5, θ ← θ - α m̂ r √(1-β₂ᵗ) / (√v + ε) with
    r² = (ρ-4)(ρ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρ); before, θ ← θ - α m̂. Like torch, it waits for ρ > 5, the paper for ρ > 4.
    Weight decay is L2, or decoupled.
    Source: Liu et al. (2020), Algorithm 2, https://arxiv.org/abs/1908.03265.
    """
    beta1, beta2 = betas
    if weight_decay and decoupled_weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    elif weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    exp_avg = exp_avg.lerp(grad, 1 - beta1)  # m ← β₁m + (1-β₁)g
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    bias_correction2 = 1 - beta2**step  # 1 - β₂ᵗ
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / bias_correction2
    update = exp_avg / (1 - beta1**step) * lr  # α m̂
    if rho > 5.0:
        rectification = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5  # r
        update = update * (bias_correction2**0.5 / (exp_avg_sq.sqrt() + eps)) * rectification
    return param.add(update, alpha=-1), exp_avg, exp_avg_sq


def regularized(rule, param, grad, *state, lr, weight_decay, weight_decay_mode, max_lr, l1, **options):
    """The update of another rule with a decay of another kind, and then a proximal step for the L1 norm.

    Coupled, the decay joins the gradient: g ← g + λθ (L2). Decoupled, it shrinks the weights: θ ← (1 - αλ)θ.
    Independent, it is multiplied by what a schedule has left of the rate, not by the rate: θ ← (1 - λ α/α_max)θ.
    Both stand as θ - λθ: in float32 a factor 1 - λ is rounded, and makes of λ = 1e-6 one that is 1.3 % larger.
    The proximal step is θ ← sign(θ) max(|θ| - α l1, 0), as θ - min(max(θ, -α l1), α l1), which is exactly 0 for every
    weight that is not larger than α l1, and NaN for NaN.
    Source: Loshchilov & Hutter (2019), Algorithms 1 and 2, where the schedule η multiplies λ and α does not,
    https://arxiv.org/abs/1711.05101; proximal gradient method: Parikh & Boyd (2014), section 4.2,
    https://doi.org/10.1561/2400000003.
    """
    if weight_decay and weight_decay_mode == "coupled":
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    elif weight_decay and weight_decay_mode == "decoupled":
        param = param.add(param, alpha=-lr * weight_decay)  # θ ← θ - αλθ
    elif weight_decay:
        param = param.add(param, alpha=-lr / max_lr * weight_decay)  # θ ← θ - λ α/α_max θ
    param, *state = rule(param, grad, *state, lr=lr, weight_decay=0, **options)
    if l1:
        param = param - param.clamp_min(-lr * l1).clamp_max(lr * l1)  # θ ← sign(θ) max(|θ| - α l1, 0)
    return param, *state
