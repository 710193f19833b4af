"""Schedule-Free AdamW and SGD, which average where others decay the rate."""

from typing import Any, Unpack

from torch import Tensor

from optizoo.core.declaration import constructor
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import Common
from optizoo.core.rule import larger, smaller


def schedulefree_sgd(
    param, grad, z=None, average=None, weight_sum=0.0, lr_max=0.0,
    *, lr, momentum, weight_decay, warmup_steps, r, weight_lr_power, step,
):  # fmt: skip
    """Schedule-Free SGD: d = ∇f(y) + λy; z ← z - αd; x ← (1-c)x + cz; y = (1-β)z + βx; c = w / Σw, w = tʳ max(α)ᵖ.

    ``param`` is y, where the gradient is taken; x, the average of z, is where the model is judged: see
    :func:`schedulefree_evaluated`. It is nowhere kept but in y and z, and at β = 0, where y is z, in ``average``.
    Source: Defazio et al. (2024), Algorithm 1 and section 4.1, https://arxiv.org/abs/2405.15682.
    """
    z = param if z is None else z
    lr = lr * smaller(1.0, step / warmup_steps) if warmup_steps else lr
    lr_max = larger(lr_max, lr)
    weight = step**r * lr_max**weight_lr_power  # w
    weight_sum = weight_sum + weight  # Σw
    c = weight / larger(weight_sum, 1e-300)  # 0 at a rate that was always 0
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)  # d = g + λy
    param = param.lerp(z, c).add(grad, alpha=lr * (momentum * (1 - c) - 1))  # y ← (1-c)y + cz - α(1 - β(1-c))d
    z = z.add(grad, alpha=-lr)  # z ← z - αd
    if not momentum:
        average = z if average is None else average.lerp(z, c)  # x ← (1-c)x + cz
    return param, z, average, weight_sum, lr_max


def schedulefree_adamw(
    param, grad, exp_avg_sq, z=None, average=None, weight_sum=0.0, lr_max=0.0,
    *, lr, betas, eps, weight_decay, warmup_steps, r, weight_lr_power, step,
):  # fmt: skip
    """Schedule-Free AdamW: :func:`schedulefree_sgd` along d = g / (√v̂ + ε) + λy, v ← β₂v + (1-β₂)g², v̂ = v/(1-β₂ᵗ).

    β₁ stands where β does there; there is no first moment.
    Source: Defazio et al. (2024), Algorithm 1, https://arxiv.org/abs/2405.15682.
    """
    beta1, beta2 = betas
    exp_avg_sq = (exp_avg_sq * beta2).addcmul(grad, grad, value=1 - beta2)  # v ← β₂v + (1-β₂)g²
    direction = grad / ((exp_avg_sq / (1 - beta2**step)).sqrt() + eps)  # g / (√v̂ + ε)
    param, *averages = schedulefree_sgd(
        param, direction, z, average, weight_sum, lr_max, lr=lr, momentum=beta1, weight_decay=weight_decay,
        warmup_steps=warmup_steps, r=r, weight_lr_power=weight_lr_power, step=step,
    )  # fmt: skip
    return param, exp_avg_sq, *averages


def schedulefree_evaluated(param, z, average=None, *, momentum):
    """Return where Schedule-Free is judged: x = (y - (1-β)z) / β; at β = 0 the ``average`` itself.

    Source: Defazio et al. (2024), equation 1, https://arxiv.org/abs/2405.15682.
    """
    return param.lerp(z, 1 - 1 / momentum) if momentum else average


def schedulefree_adamw_evaluated(param, z, average=None, *, betas):
    """Return where :func:`schedulefree_adamw` is judged: :func:`schedulefree_evaluated` with β₁.

    Source: Defazio et al. (2024), equation 1, https://arxiv.org/abs/2405.15682.
    """
    return schedulefree_evaluated(param, z, average, momentum=betas[0])


class ScheduleFreeSGD(RuleOptimizer):
    r"""Schedule-Free SGD, which averages the weights where others lower the rate; not in torch.

    .. math::
        z &\leftarrow z - \alpha \, (\nabla f(y) + \lambda y) \\
        x &\leftarrow (1 - c_t) \, x + c_t z, \qquad c_t = w_t / {\textstyle\sum_{i \le t} w_i},
            \quad w_t = t^r (\max_{i \le t} \alpha_i)^p \\
        y &= (1 - \beta) \, z + \beta x

    Parameters are y while training. Call ``optimizer.eval()`` before the model is judged or shipped, which makes them
    x, and ``optimizer.train()`` before it goes on; or evaluate ``with optimizer.evaluating():``. Rules:
    :func:`optizoo.rules.schedulefree_sgd`, :func:`optizoo.rules.schedulefree_evaluated`, with their source.

    After 1000 steps in float64 schedulefree 1.4.1 has the same bits, in y and x. It overwrites ``p.grad``; its
    ``train()`` brings back y rounded; a checkpoint of its train mode looks like any other, while the model's holds y.
    It counts the steps of a group, here each parameter counts those that it makes.

    Args:
        momentum: β, from 0 (y is z) to 1 (y is x).
        weight_decay: λ, at y; it passes into y and z.
        warmup_steps: Steps in which α grows to ``lr``, linearly; 0 for none.
        r: Power of the step in the weights of the average.
        weight_lr_power: p, power of the largest rate so far in them; 0 lets warm-up count as much as the rest.

    Attributes:
        state: Per parameter ``step``, ``z``,
            ``weight_sum``, ``lr_max``; ``average`` at β = 0, ``trained`` in eval mode.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = optizoo.ScheduleFreeSGD([weight], lr=0.5)
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.5000])
    """

    rule = staticmethod(schedulefree_sgd)
    evaluated = staticmethod(schedulefree_evaluated)
    order = 15

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **common: Unpack[Common],
    ): ...


class ScheduleFreeAdamW(RuleOptimizer):
    r"""Schedule-Free AdamW, which averages the weights where others lower the rate; not in torch.

    .. math::
        z \leftarrow z - \alpha \, \left(\frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda y\right)

    and x and y from z as in :class:`ScheduleFreeSGD`, with β₁ for β; so are ``eval()`` and ``train()``. Rules:
    :func:`optizoo.rules.schedulefree_adamw`, :func:`optizoo.rules.schedulefree_adamw_evaluated`, with their source.

    After 1000 steps in float64 schedulefree 1.4.1 has the same bits; at β₁ = 0 its ``eval()`` divides by zero.

    Args:
        weight_decay: λ, at y; it passes into y and z.
        warmup_steps: As in :class:`ScheduleFreeSGD`.
        r: As there.
        weight_lr_power: As there.

    Attributes:
        state: Per parameter what :class:`ScheduleFreeSGD` has, and ``exp_avg_sq``.
    """

    rule = staticmethod(schedulefree_adamw)
    evaluated = staticmethod(schedulefree_adamw_evaluated)
    order = 16

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **common: Unpack[Common],
    ): ...
