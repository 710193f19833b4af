"""Muon for the hidden matrices of a model, and AdamW for all else, in one optimizer."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn

from optizoo.core.checks import Check
from optizoo.core.declaration import constructor
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import Decaying
from optizoo.core.rule import Rule
from optizoo.groups import no_decay_by_default, trainable
from optizoo.zoo.adam import adamw
from optizoo.zoo.muon import Muon, NorMuon

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class _WithAdamW(RuleOptimizer):
    """Param groups with ``"matrices": False`` take AdamW's rule, with their own ``lr``, ``betas`` and ``eps``."""

    namesake = None
    counts_steps = True
    least_dimensions = 0
    fixed: ClassVar[Mapping[str, Any]] = {
        "matrices": True, "betas": (0.9, 0.95), "amsgrad": False, "bias_correction": True,
    }  # fmt: skip
    state_switches: ClassVar[Mapping[str, str]] = {"max_exp_avg_sq": "amsgrad"}

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Matrices keep the rule of the class."""
        return super().select_rule(group) if group["matrices"] else adamw

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one for matrices may hold matrices and kernels only.

        Raises:
            ValueError: It holds a vector or a number.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["matrices"] and any(param.dim() < 2 for param in group["params"]):
            self.param_groups.pop()
            raise ValueError("Muon takes matrices and kernels; give vectors a param group with 'matrices': False")


class MuonAdamW(_WithAdamW, Muon):
    r"""Muon, with param groups that AdamW updates; what ``optizoo.create("muon", model)`` makes.

    A group with ``"matrices": False`` takes :func:`optizoo.rules.adamw`, with its own ``lr``, ``betas``, ``eps`` and
    ``weight_decay``; the others take :func:`optizoo.rules.muon`.

    Args:
        nesterov: As in :class:`optizoo.Muon`, and so are ``ns_coefficients``, ``ns_steps`` and ``adjust_lr_fn``.
        eps: The smallest norm that a matrix is divided by; ε in the groups of AdamW.

    Attributes:
        state: Per parameter ``step``, and what its rule has: ``momentum_buffer``, or ``exp_avg`` and ``exp_avg_sq``.

    Example:
        >>> import torch, optizoo
        >>> matrix, bias = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = MuonAdamW([{"params": matrix}, {"params": bias, "matrices": False, "lr": 0.1}])
        >>> bias.grad = torch.tensor([1.0, -2.0])
        >>> optimizer.step()
        >>> bias.data
        tensor([-0.1000,  0.1000])
    """

    checks: ClassVar[Mapping[str, Check]] = Muon.checks

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 0.02, weight_decay: float = 0.1, momentum: float = 0.95,
        nesterov: bool = True, ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None, **common: Unpack[Decaying],
    ): ...  # fmt: skip


class NorMuonAdamW(_WithAdamW, NorMuon):
    r"""NorMuon, with param groups that AdamW updates, as in :class:`MuonAdamW`.

    Args:
        beta2: As in :class:`optizoo.NorMuon`, and so are the options that both have.
        nesterov: As in :class:`optizoo.Muon`.
        eps: As in :class:`optizoo.NorMuon`; ε in the groups of AdamW.

    Attributes:
        state: Per parameter ``step``, and what its rule has.
    """

    checks: ClassVar[Mapping[str, Check]] = NorMuon.checks

    @constructor
    def __init__(
        self, params: Any, lr: float | Tensor = 0.02, weight_decay: float = 0, momentum: float = 0.95,
        beta2: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), eps: float = 1e-10, ns_steps: int = 5,
        adjust_lr_fn: str | None = None, **common: Unpack[Decaying],
    ): ...  # fmt: skip


MIXED = {Muon: MuonAdamW, NorMuon: NorMuonAdamW}


def muon_groups(
    model: nn.Module, *, adamw_lr: float = 3e-4, adamw_betas: tuple[float, float] = (0.9, 0.95), adamw_eps: float = 1e-8
) -> list[dict[str, Any]]:
    """Return param groups of a model as people make them by hand: hidden matrices for Muon, the rest for AdamW.

    Hidden are matrices and kernels that belong to no embedding, no normalisation and not to the last module that has
    one, which is the head. Biases and normalisations are not decayed. A parameter that several modules share stands
    once, with the first of them.

    Args:
        model: The model.
        adamw_lr: The rate of AdamW's groups.
        adamw_betas: Their β₁ and β₂.
        adamw_eps: Their ε.
    """
    found = [*trainable(model)]
    owners = [module for _, param, module in found if param.dim() > 1 and not isinstance(module, EMBEDDINGS)]
    head = owners[-1] if owners else None
    apart = {"matrices": False, "lr": adamw_lr, "betas": adamw_betas, "eps": adamw_eps}
    hidden: dict[str, Any] = {"params": []}
    decayed, bare = {"params": [], **apart}, {"params": [], **apart, "weight_decay": 0.0}
    for name, param, module in found:
        if no_decay_by_default(name, param, module):
            group = bare
        else:
            group = decayed if isinstance(module, EMBEDDINGS) or module is head else hidden
        group["params"].append((name, param))
    return [group for group in (hidden, decayed, bare) if group["params"]]
