"""Muon, momentum whose matrices are made orthogonal, and NorMuon."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from optizoo.core.checks import Check, choice, number, optional, values, whole_number
from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying
from optizoo.core.rule import root


def muon(
    param, grad, momentum_buffer,
    *, lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn, shape,
):  # fmt: skip
    """Muon: m ← μm + (1-μ)g; θ ← θ - αr UVᵀ for u = USVᵀ, where u is m, or (1-μ)g + μm with Nesterov.

    UVᵀ is what :func:`newton_schulz` nearly gives, and r what :func:`muon_ratio` does. The decay is decoupled. A kernel
    of more dimensions is a matrix with a row for each output.
    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/, with the average m of torch.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    momentum_buffer = momentum_buffer.lerp(grad, 1 - momentum)  # m ← μm + (1-μ)g
    update = grad.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer  # u
    update = newton_schulz(update.flatten(1), ns_coefficients, ns_steps, eps, tall=rows > columns)  # UVᵀ
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    return param.add(update.reshape_as(param), alpha=-muon_ratio(lr, adjust_lr_fn, rows, columns)), momentum_buffer


def normuon(
    param, grad, momentum_buffer, row_var=None,
    *, lr, weight_decay, momentum, beta2, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn, shape,
):  # fmt: skip
    """NorMuon: Muon whose orthogonal O is divided, row by row, by √v + ε and brought back to its norm.

    v ← β₂v + (1-β₂) mean(O²), the mean over each row, of which each is a neuron; v starts at 0 and is not corrected.
    Source: Li et al. (2025), Algorithm 1, https://arxiv.org/abs/2510.05491, with the norm as in its authors' code.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    momentum_buffer = momentum_buffer.lerp(grad, 1 - momentum)  # m ← μm + (1-μ)g
    update = grad.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer
    update = newton_schulz(update.flatten(1), ns_coefficients, ns_steps, eps, tall=rows > columns).type_as(param)  # O
    means, norm = (update * update).mean(dim=-1, keepdim=True), update.norm()
    row_var = means * (1 - beta2) if row_var is None else row_var.lerp(means, 1 - beta2)  # v
    update = update / (row_var.sqrt() + eps)  # O / (√v + ε)
    update = update * (norm / (update.norm() + eps))  # of the norm that O had
    if weight_decay:
        param = param * (1 - lr * weight_decay)  # θ ← θ - αλθ
    update, rate = update.reshape_as(param), muon_ratio(lr, adjust_lr_fn, rows, columns)
    return param.add(update, alpha=-rate), momentum_buffer, row_var


def newton_schulz(matrix, coefficients, steps, eps, *, tall):
    """Return nearly UVᵀ of a matrix USVᵀ, in bfloat16: X ← aX + (bA + cA²)X with A = XXᵀ, a few times.

    The singular values of X end between about 0.5 and 1.5. A matrix that is ``tall`` is turned, for a smaller A.
    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/.
    """
    a, b, c = coefficients
    x = matrix.bfloat16().T if tall else matrix.bfloat16()
    x = x / x.norm().clamp_min(eps)  # singular values at most 1
    for _ in range(steps):
        gram = x @ x.T  # A = XXᵀ
        x = x.addmm(gram.addmm(gram, gram, beta=b, alpha=c), x, beta=a)  # X ← aX + (bA + cA²)X
    return x.T if tall else x


def muon_ratio(lr, adjust_lr_fn, rows, columns):
    """Return the rate of a matrix: α times √max(1, rows/columns), 0.2 √max(rows, columns), or √(rows/columns).

    Source: Jordan et al. (2024), Liu et al. (2025), Bernstein (2025), https://jeremybernste.in/writing/deriving-muon.
    """
    if adjust_lr_fn == "match_rms_adamw":
        return lr * (0.2 * root(max(rows, columns)))
    ratio = rows / max(columns, 1)
    return lr * root(ratio if adjust_lr_fn == "spectral_unclamped" else max(1, ratio))


class Muon(RegularizedOptimizer):
    r"""Muon, whose updates are orthogonal matrices; drop-in for :class:`torch.optim.Muon`.

    .. math::
        m \leftarrow \mu m + (1 - \mu) g, \qquad
        \theta \leftarrow (1 - \alpha\lambda) \, \theta - \alpha r \, U V^\top, \quad U S V^\top = m
            \text{ or } (1 - \mu) g + \mu m

    For hidden matrices; ``optizoo.create("muon", model)`` gives AdamW the rest. Rule: :func:`optizoo.rules.muon`.

    Args:
        weight_decay: λ, decoupled.
        nesterov: Look ahead with Nesterov's form.
        ns_coefficients: The coefficients a, b, c of the Newton-Schulz iteration.
        eps: The smallest norm that a matrix is divided by.
        ns_steps: How often the iteration is repeated, below 100.
        adjust_lr_fn: What r is: ``"original"`` (and ``None``) √max(1, rows/columns), ``"match_rms_adamw"``
            0.2 √max(rows, columns), ``"spectral_unclamped"`` √(rows/columns).

    Attributes:
        state: Per parameter ``momentum_buffer``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
        >>> optimizer = optizoo.Muon([weight], lr=0.1)
        >>> weight.grad = torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
        >>> optimizer.step()
        >>> (weight.data.abs() > 0.05).sum(), [*optimizer.state[weight]]
        (tensor(2), ['momentum_buffer'])
    """

    rule = staticmethod(muon)
    order = 12
    namesake = torch.optim.Muon
    shared_defaults: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled"}
    counts_steps = False
    least_dimensions = 2
    supports_complex = False
    checks: ClassVar[Mapping[str, Check]] = {
        "ns_coefficients": values(number(minimum=-math.inf), 3, word="three"),
        "ns_steps": whole_number(below=100),
        "adjust_lr_fn": optional(choice("original", "match_rms_adamw", "spectral_unclamped")),
    }

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95,
        nesterov: bool = True, ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None, **common: Unpack[Decaying],
    ): ...  # fmt: skip


class NorMuon(Muon):
    r"""NorMuon, which is Muon with a step of its own for each neuron; not in torch.

    .. math::
        v \leftarrow \beta_2 v + (1 - \beta_2) \operatorname{mean}(O^2), \qquad
        \theta \leftarrow (1 - \alpha\lambda) \, \theta - \alpha r \, \frac{\|O\|}{\|O / \sqrt v\|} \, O / \sqrt v

    O is Muon's orthogonal update; v has a number for each of its rows. Rule: :func:`optizoo.rules.normuon`.

    Args:
        weight_decay: λ, decoupled.
        beta2: β₂, in [0, 1).
        nesterov: As in :class:`Muon`.
        ns_coefficients: As in :class:`Muon`.
        ns_steps: As in :class:`Muon`.
        adjust_lr_fn: As in :class:`Muon`.
        eps: Added to √v and to norms that are divided by, and Muon's smallest norm.

    Attributes:
        state: Per parameter ``momentum_buffer`` and, with a number for each row, ``row_var``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
        >>> optimizer = optizoo.NorMuon([weight])
        >>> weight.grad = torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
        >>> optimizer.step()
        >>> {name: [*state.shape] for name, state in optimizer.state[weight].items()}
        {'momentum_buffer': [2, 3], 'row_var': [2, 1]}
    """

    rule = staticmethod(normuon)
    order = 13
    namesake = None
    checks: ClassVar[Mapping[str, Check]] = {"beta2": number(below=1.0)}

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 0.02, weight_decay: float = 0, momentum: float = 0.95,
        beta2: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), eps: float = 1e-10, ns_steps: int = 5,
        adjust_lr_fn: str | None = None, **common: Unpack[Decaying],
    ): ...  # fmt: skip
