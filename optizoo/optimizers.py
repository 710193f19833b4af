"""The zoo: for every rule, torch's constructor. Signatures, defaults and documentation; the maths is in the rules."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from optizoo import rules
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.rule import Rule, around
from optizoo.core.validation import Check, choice, did_you_mean, flag, number, optional, pair

_below_one = number(below=1.0)
_fraction = number(maximum=1.0)
_mode = choice("coupled", "decoupled", "independent")
_decay = {"weight_decay": number(), "weight_decay_mode": _mode, "l1": number(), "max_lr": optional(number())}


class RegularizedOptimizer(RuleOptimizer):
    r"""A :class:`RuleOptimizer` whose weights decay, in one of three modes, and may be drawn to exact zeros.

    The modes of ``weight_decay_mode``, for a decay λ:

    * ``"coupled"`` (L2): :math:`g \leftarrow g + \lambda \theta`, before all else.
    * ``"decoupled"`` (AdamW's in torch): :math:`\theta \leftarrow (1 - \alpha \lambda) \, \theta`, before the update.
    * ``"independent"``: :math:`\theta \leftarrow (1 - \lambda \, \alpha / \alpha_{max}) \, \theta`. The rate leaves the
      decay and its schedule stays, as in Algorithm 2 of Loshchilov & Hutter (2019): weights rest when a schedule ends
      at 0, and λ = 1e-5 does here what 1e-2 does there with α = 1e-3. :math:`\alpha_{max}` is ``max_lr`` of the param
      group: ``initial_lr``, or else ``lr``, as the group was made, until ``OneCycleLR`` or you write another.

    ``l1`` adds the L1 norm, and with a decay makes an elastic net. It is no part of the gradient, where it would make
    weights jump around zero for ever, but a proximal step after the update, the soft threshold
    :math:`\theta \leftarrow \operatorname{sign}(\theta) \max(|\theta| - \alpha \, l_1, 0)`. With :class:`SGD` that is
    the proximal gradient method (Parikh & Boyd 2014, section 4.2, https://doi.org/10.1561/2400000003), whose fixed
    points minimise :math:`f + l_1 |\theta|_1 + \lambda |\theta|^2 / 2`.

    Momentum without dampening lengthens the steps along the gradient 1/(1-μ) times, but neither the threshold nor a
    decay outside the gradient: what is minimised has (1-μ) of them. Adaptive rules divide the gradient by a number for
    every weight; their proximal step in that metric would divide the threshold too (ProxGen: Yun et al. 2021,
    https://arxiv.org/abs/2007.07484). Here it is the same for all weights, as AdamW's decay is, and minimises no fixed
    sum.

    Rule: :func:`optizoo.rules.regularized`, around the rule of the optimizer.
    """

    regularized: ClassVar[Rule] = staticmethod(rules.regularized)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check also that an independent decay leaves something, and that two switches do not contradict."""
        super().check_group(group)
        mode = group["weight_decay_mode"]
        if mode == "coupled" and group.get("decoupled_weight_decay"):
            raise ValueError(
                "weight_decay_mode='coupled' contradicts decoupled_weight_decay=True; leave one of them out, or "
                "use Adam in place of AdamW"
            )
        if mode == "independent" and group["weight_decay"] > 1:
            raise ValueError(
                f"Invalid weight_decay value: {group['weight_decay']!r}; with weight_decay_mode='independent' every "
                "update takes that share of a weight, at most 1 and usually below 1e-4"
            )

    def _checked(self, options: Mapping[str, Any], *, where: str, known: Collection[str] = ()) -> dict[str, Any]:
        kept = super()._checked(options, where=where, known=known)
        if kept.get("weight_decay_mode") in ("coupled", "decoupled") and "decoupled_weight_decay" in kept:
            kept["decoupled_weight_decay"] = kept.pop("weight_decay_mode") == "decoupled"  # as torch can read it
        return kept

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as every optimizer does, and keep the rate of an independent decay's full strength."""
        mode = param_group.get("weight_decay_mode") if isinstance(param_group, dict) else None
        if mode in ("coupled", "decoupled") and "decoupled_weight_decay" in inspect.signature(type(self)).parameters:
            param_group = {"decoupled_weight_decay": mode == "decoupled", **param_group}  # not the constructor's
        super().add_param_group(param_group)
        self._keep_max_lr(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state as every optimizer does; see :meth:`RuleOptimizer.__setstate__`."""
        super().__setstate__(state)
        for group in self.param_groups:
            self._keep_max_lr(group)

    def _keep_max_lr(self, group: dict[str, Any]) -> None:
        if group.get("weight_decay_mode") == "independent" and group.get("max_lr") is None:
            lr = group.get("initial_lr", group["lr"])
            group["max_lr"] = lr.item() if isinstance(lr, Tensor) else lr

    def complete(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the group with the options that it leaves out, and the mode of its decay."""
        completed = super().complete(group)
        completed["weight_decay_mode"] = completed["weight_decay_mode"] or self._own_mode(completed)
        return completed

    def _own_mode(self, group: Mapping[str, Any]) -> str:
        """Return the mode that the rule of a group has by itself."""
        if "decoupled_weight_decay" in group:
            return "decoupled" if group["decoupled_weight_decay"] else "coupled"
        return self.neutral_extras["weight_decay_mode"]

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of the optimizer, alone where its own decay is all that is asked for."""
        rule = self.select_rule(group)
        if not group["l1"] and group["weight_decay_mode"] == self._own_mode(group):
            return rule
        if group["weight_decay_mode"] == "independent" and not group["max_lr"]:
            raise ValueError(
                f"Invalid max_lr value: {group['max_lr']!r}; with weight_decay_mode='independent' it is the rate at "
                "which the decay has its full strength, lr as the group was made: set it in the param group"
            )
        if group["weight_decay_mode"] == "independent" and not isinstance(group["lr"], Tensor):
            share = group["weight_decay"] * group["lr"] / group["max_lr"]
            if share > 1:
                raise ValueError(
                    f"lr = {group['lr']!r} is so far above max_lr = {group['max_lr']!r} that the independent decay "
                    f"would take {share:.3g} of a weight; set max_lr in the param group to the schedule's largest lr"
                )
        return around(self.regularized, rule)


class SGD(RegularizedOptimizer):
    r"""Stochastic gradient descent, with momentum and Nesterov's form of it; drop-in for :class:`torch.optim.SGD`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        b &\leftarrow \mu b + (1 - \tau) g \qquad (b \leftarrow g \text{ in the first update}) \\
        \theta &\leftarrow \theta - \alpha b \qquad (\text{Nesterov: } \theta - \alpha (g + \mu b))

    Without momentum, :math:`\theta \leftarrow \theta - \alpha g` and no state. Rules: :func:`optizoo.rules.sgd`,
    :func:`optizoo.rules.momentum`, with their sources.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        momentum: μ, from 0 to 1.
        dampening: τ, from 0 to 1; ignored in the first update, as torch does.
        weight_decay: λ, L2.
        nesterov: Use Nesterov's form; needs momentum and no dampening.
        maximize: Ascend instead of descend.
        foreach: ``True`` lists of tensors at once, ``False`` one after the other, ``None`` the fastest that can serve.
        differentiable: Let autograd see the step.
        fused: ``True`` one kernel for the whole update or an error, ``False`` none, ``None`` wherever it can serve.
        capturable: Read a tensor ``lr`` on its device only.
        weight_decay_mode: ``"coupled"`` (L2), ``"decoupled"`` (times α, as in :class:`AdamW`) or ``"independent"`` (not
            times α, only times its schedule): see :class:`RegularizedOptimizer`.
        l1: Strength of the L1 norm, whose proximal step after the update reaches exact zeros: see there.
        nonfinite: What a step does where a gradient is NaN or infinite: ``"propagate"`` it, ``"skip"`` the step, or
            ``"raise"``; the last two read all gradients first, touch nothing, and count in ``nonfinite_steps``.

    Attributes:
        state: Per parameter ``momentum_buffer``, if momentum is used.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.
        FloatingPointError: In a step, with ``nonfinite="raise"``.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = optizoo.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([0.8000, 1.6000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "momentum": _fraction,
        "dampening": _fraction,
        "nesterov": flag,
    }
    counts_steps = False
    supports_sparse = True
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        "weight_decay_mode": "coupled",
        "l1": 0.0,
        "max_lr": None,
        "capturable": False,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        weight_decay_mode: str = "coupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "capturable": capturable,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check that Nesterov's form has momentum and no dampening."""
        super().check_group(group)
        if group["nesterov"] and (not group["momentum"] or group["dampening"]):
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening; "
                f"got momentum={group['momentum']!r} and dampening={group['dampening']!r}"
            )

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Momentum is another rule, not a number: without it there is no state."""
        return rules.momentum if group["momentum"] else rules.sgd


class Momentum(SGD):
    r"""Gradient descent with momentum, in either of its two forms.

    By default the learning rate stands outside the velocity, and this is :class:`SGD` with momentum 0.9, whose
    checkpoints it trades. With ``lr_in_velocity`` it stands inside:

    .. math::
        v &\leftarrow \rho v - \alpha g \\
        \theta &\leftarrow \theta + v \qquad (\text{Nesterov: } \theta + \rho v - \alpha g)

    The two give the same sequence while α is constant, and part when a schedule changes it. Rules:
    :func:`optizoo.rules.momentum`, :func:`optizoo.rules.momentum_lr_in_velocity`, with their sources.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        momentum: μ or ρ, from 0 to 1.
        dampening: As in :class:`SGD`; the second form has none.
        weight_decay: λ, L2.
        nesterov: Use Nesterov's form.
        lr_in_velocity: Use the second form, whose state is ``velocity``.
        maximize: As in :class:`SGD`.
        foreach: As in :class:`SGD`.
        differentiable: As in :class:`SGD`.
        fused: As in :class:`SGD`.
        capturable: As in :class:`SGD`.
        weight_decay_mode: As in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown, or ``dampening`` meets ``lr_in_velocity``.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = optizoo.Momentum([weight], lr=0.1, lr_in_velocity=True)
        >>> weight.grad = torch.tensor([1.0])
        >>> optimizer.step()
        >>> optimizer.state[weight]
        {'velocity': tensor([-0.1000])}
    """

    checks: ClassVar[Mapping[str, Check]] = {**SGD.checks, "lr_in_velocity": flag}
    neutral_extras: ClassVar[Mapping[str, Any]] = {**SGD.neutral_extras, "lr_in_velocity": False}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        lr_in_velocity: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        weight_decay_mode: str = "coupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "lr_in_velocity": lr_in_velocity,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "capturable": capturable,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        RuleOptimizer.__init__(self, params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check also that dampening does not meet the form that has none."""
        super().check_group(group)
        if group["lr_in_velocity"] and group["dampening"]:
            raise ValueError(f"lr_in_velocity=True has no dampening; got dampening={group['dampening']!r}, set it to 0")

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """The second form is a rule of its own."""
        return rules.momentum_lr_in_velocity if group["lr_in_velocity"] else super().select_rule(group)


class Lion(RegularizedOptimizer):
    r"""Lion, which moves every weight by the learning rate, along the sign of a momentum; not in torch.

    .. math::
        \theta &\leftarrow \theta - \alpha \,
            (\operatorname{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda \theta) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    Half of Adam's state. Its paper advises a learning rate three to ten times smaller than AdamW's and a decay as much
    larger. Rule: :func:`optizoo.rules.lion`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        betas: β₁ and β₂, each in [0, 1).
        weight_decay: λ.
        maximize: Ascend instead of descend.
        foreach: As in :class:`Adam`.
        capturable: As in :class:`Adam`.
        differentiable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        weight_decay_mode: As in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``exp_avg``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Lion([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "betas": pair(_below_one),
    }
    counts_steps = False
    neutral_extras: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": "decoupled", "l1": 0.0, "max_lr": None}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        weight_decay_mode: str = "decoupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.lion


class Rprop(RuleOptimizer):
    r"""Rprop, with a step for every weight, set by signs of gradients; drop-in for :class:`torch.optim.Rprop`.

    .. math::
        \Delta &\leftarrow \min(\max(\eta \Delta, \Delta_{min}), \Delta_{max}), \quad
            \eta = \eta^+, \eta^- \text{ or } 1 \text{ by the sign of } g \, g_{previous} \\
        \theta &\leftarrow \theta - \operatorname{sign}(g) \, \Delta \qquad (g \leftarrow 0 \text{ where it turned})

    For full batches: in small ones signs are noise. Rule: :func:`optizoo.rules.rprop`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: The first step of every weight.
        etas: η⁻ in (0, 1) and η⁺ above 1.
        step_sizes: Smallest and largest step.
        capturable: As in :class:`Adam`.
        foreach: As in :class:`Adam`.
        maximize: Ascend instead of descend.
        differentiable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``prev``, ``step_size``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Rprop([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        "etas": pair(number()),
        "step_sizes": pair(number()),
    }
    initial_values: ClassVar[Mapping[str, str]] = {"step_size": "lr"}
    neutral_extras: ClassVar[Mapping[str, Any]] = {"fused": None}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check that steps shrink and grow, and that there is room between their bounds."""
        super().check_group(group)
        shrink, grow = group["etas"]
        if not 0 < shrink < 1 < grow:
            raise ValueError(f"Invalid eta values: {shrink}, {grow}; the first must be in (0, 1), the second above 1")
        smallest, largest = group["step_sizes"]
        if smallest > largest:
            raise ValueError(f"Invalid step_sizes value: {group['step_sizes']!r}; the smallest comes first")

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.rprop


class Adagrad(RegularizedOptimizer):
    r"""Adagrad, divided by the root of the sum of all squared gradients; drop-in for :class:`torch.optim.Adagrad`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        s &\leftarrow s + g^2 \\
        \theta &\leftarrow \theta - \frac{\alpha}{1 + (t - 1) \eta} \, \frac{g}{\sqrt{s} + \epsilon}

    A sparse gradient updates only the elements that it has. Rule: :func:`optizoo.rules.adagrad`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        lr_decay: η.
        weight_decay: λ, L2.
        initial_accumulator_value: What s starts at.
        eps: ε.
        foreach: As in :class:`Adam`.
        maximize: Ascend instead of descend.
        differentiable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        capturable: As in :class:`Adam`.
        weight_decay_mode: As in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``sum``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adagrad([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "lr_decay": number(),
        "initial_accumulator_value": number(),
        "eps": number(),
    }
    initial_values: ClassVar[Mapping[str, str]] = {"sum": "initial_accumulator_value"}
    supports_sparse = True
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        "weight_decay_mode": "coupled",
        "l1": 0.0,
        "max_lr": None,
        "capturable": False,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        weight_decay_mode: str = "coupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "capturable": capturable,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as every optimizer does, and make its states at once, as torch's does."""
        super().add_param_group(param_group)
        group = self.complete(self.param_groups[-1])
        for param in group["params"]:
            store = self.state[param]
            self._counter(store, param, group["capturable"])
            store["sum"] = self._initial("sum", group, param)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.adagrad


class Adadelta(RegularizedOptimizer):
    r"""Adadelta, with the size of past updates in place of a learning rate; drop-in for :class:`torch.optim.Adadelta`.

    .. math::
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        \delta &= g \, \sqrt{u + \epsilon} / \sqrt{v + \epsilon} \\
        u &\leftarrow \rho u + (1 - \rho) \delta^2 \\
        \theta &\leftarrow \theta - \alpha \delta

    Rule: :func:`optizoo.rules.adadelta`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Factor α on the update; the paper has 1.
        rho: ρ, from 0 to 1.
        eps: ε, inside both roots: it sets the size of the first updates.
        weight_decay: λ, L2.
        foreach: As in :class:`Adam`.
        capturable: As in :class:`Adam`.
        maximize: Ascend instead of descend.
        differentiable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        weight_decay_mode: As in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``square_avg``, ``acc_delta``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adadelta([weight])
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[weight])
        ['acc_delta', 'square_avg', 'step']
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "rho": _fraction,
        "eps": number(),
    }
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        "weight_decay_mode": "coupled",
        "l1": 0.0,
        "max_lr": None,
        "fused": None,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        weight_decay_mode: str = "coupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "capturable": capturable,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.adadelta


class RMSprop(RegularizedOptimizer):
    r"""RMSProp, with momentum and the centered form; drop-in for :class:`torch.optim.RMSprop`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        \theta &\leftarrow \theta - \alpha \, g / (\sqrt{v} + \epsilon)

    Centered, the variance :math:`v - \bar g^2` stands under the root; with momentum μ,
    :math:`b \leftarrow \mu b + g / (\sqrt{v} + \epsilon)` and :math:`\theta \leftarrow \theta - \alpha b`.
    ε stands outside the root, as in torch. ``eps_inside_sqrt=True`` is the form of TensorFlow and optax; TensorFlow 1
    started v at 1, which is ``initial_accumulator=1`` (optax: ``initial_scale``). With momentum both keep α inside b,
    which is another sequence once α changes. Rule: :func:`optizoo.rules.rmsprop`, with its sources.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        alpha: Smoothing constant ρ, from 0 to 1.
        eps: ε.
        weight_decay: λ, L2.
        momentum: μ, from 0 to 1.
        centered: Divide by the standard deviation of the gradient instead of its root mean square.
        capturable: Keep ``step`` on the device and read a tensor ``lr`` there only.
        foreach: ``True`` lists of tensors at once, ``False`` one after the other, ``None`` the fastest that can serve.
        maximize: Ascend instead of descend.
        differentiable: Let autograd see the step.
        fused: ``True`` one kernel for the whole update or an error, ``False`` none, ``None`` wherever it can serve.
        eps_inside_sqrt: Divide by √(v + ε) instead of √v + ε.
        initial_accumulator: What v starts at.
        weight_decay_mode: As in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``square_avg``; ``momentum_buffer`` and ``grad_avg`` where used.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = optizoo.RMSprop([weight], lr=0.01, centered=True)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[weight])
        ['grad_avg', 'square_avg', 'step']
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "alpha": _fraction,
        "eps": number(),
        "momentum": _fraction,
        "centered": flag,
        "eps_inside_sqrt": flag,
        "initial_accumulator": number(),
    }
    initial_values: ClassVar[Mapping[str, str]] = {"square_avg": "initial_accumulator"}
    state_switches: ClassVar[Mapping[str, str]] = {"momentum_buffer": "momentum", "grad_avg": "centered"}
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        "weight_decay_mode": "coupled",
        "l1": 0.0,
        "max_lr": None,
        "fused": None,
        "eps_inside_sqrt": False,
        "initial_accumulator": 0.0,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        eps_inside_sqrt: bool = False,
        initial_accumulator: float = 0,
        weight_decay_mode: str = "coupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "eps_inside_sqrt": eps_inside_sqrt,
            "initial_accumulator": initial_accumulator,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.rmsprop


class Adam(RegularizedOptimizer):
    r"""Adam, with AMSGrad; drop-in for :class:`torch.optim.Adam`.

    .. math::
        g &\leftarrow \nabla f(\theta) + \lambda \theta \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow \theta - \alpha \,
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    With ``decoupled_weight_decay`` λ leaves the gradient and this is :class:`AdamW`. Rule: :func:`optizoo.rules.adam`,
    with its sources and with what frameworks do differently.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        betas: β₁ and β₂, each in [0, 1); floats or one-element tensors.
        eps: ε, added outside the root. In float16 the default rounds to zero.
        weight_decay: λ, L2; it passes through both moments.
        amsgrad: Divide by the largest second moment so far.
        foreach: ``True`` lists of tensors at once, ``False`` one after the other, ``None`` the fastest that can serve.
        maximize: Ascend instead of descend.
        capturable: Keep ``step`` on the device and read a tensor ``lr`` there only.
        differentiable: Let autograd see the step.
        fused: ``True`` one kernel for the whole update or an error, ``False`` none, ``None`` wherever it can serve.
        decoupled_weight_decay: Shrink the weights instead of adding λθ to the gradient.
        bias_correction: ``False`` leaves out both divisions by 1 - βᵗ, the lecture's "Adam (almost)".
        weight_decay_mode: As in :class:`SGD`; ``None`` is what ``decoupled_weight_decay`` says.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``; ``max_exp_avg_sq`` with AMSGrad.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data  # the first step has the size of lr, whatever the gradient
        tensor([ 0.9000, -1.9000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "weight_decay_mode": optional(_mode),
        "betas": pair(_below_one),
        "eps": number(),
        "amsgrad": flag,
        "decoupled_weight_decay": flag,
        "bias_correction": flag,
    }
    state_switches: ClassVar[Mapping[str, str]] = {"max_exp_avg_sq": "amsgrad"}
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        "weight_decay_mode": None,
        "l1": 0.0,
        "max_lr": None,
        "bias_correction": True,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
        weight_decay_mode: str | None = None,
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
            "bias_correction": bias_correction,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Decoupled decay is AdamW's rule."""
        return rules.adamw if group["decoupled_weight_decay"] else rules.adam


class AdamW(Adam):
    r"""Adam with decoupled weight decay; drop-in for :class:`torch.optim.AdamW`.

    .. math::
        \theta \leftarrow (1 - \alpha \lambda) \, \theta, \text{ then the step of Adam without L2}

    The decay stays out of both moments and is multiplied by the learning rate, as in torch. Rule:
    :func:`optizoo.rules.adamw`, with its source.

    Args:
        params: As in :class:`Adam`, like all arguments that are not named here.
        lr: Learning rate α.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: λ, decoupled.
        amsgrad: Divide by the largest second moment so far.
        maximize: Ascend instead of descend.
        foreach: The choice of execution.
        capturable: Keep ``step`` on the device.
        differentiable: Let autograd see the step.
        fused: ``True`` one kernel for the whole update or an error, ``False`` none, ``None`` wherever it can serve.
        bias_correction: ``False`` leaves out both divisions by 1 - βᵗ.
        weight_decay_mode: ``None`` or ``"decoupled"``, or ``"independent"`` as in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = optizoo.AdamW([weight], lr=0.1, weight_decay=0.5)
        >>> weight.grad = torch.tensor([0.0])
        >>> optimizer.step()
        >>> weight.data  # no gradient: only the decay
        tensor([0.9500])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
        weight_decay_mode: str | None = None,
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            bias_correction=bias_correction,
            weight_decay_mode=weight_decay_mode,
            l1=l1,
            nonfinite=nonfinite,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint of Adam too: the decay stays decoupled, as in torch."""
        for group in state.get("param_groups", ()):
            group["decoupled_weight_decay"] = True
        super().__setstate__(state)


class Adamax(RegularizedOptimizer):
    r"""Adamax, Adam with the largest gradient in place of the mean square; drop-in for :class:`torch.optim.Adamax`.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        u &\leftarrow \max(\beta_2 u, |g| + \epsilon) \\
        \theta &\leftarrow \theta - \alpha \, \frac{m / (1 - \beta_1^t)}{u}

    Rule: :func:`optizoo.rules.adamax`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε.
        weight_decay: λ, L2.
        foreach: As in :class:`Adam`.
        maximize: Ascend instead of descend.
        differentiable: As in :class:`Adam`.
        capturable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        weight_decay_mode: As in :class:`SGD`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_inf``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.Adamax([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "betas": pair(_below_one),
        "eps": number(),
    }
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        "weight_decay_mode": "coupled",
        "l1": 0.0,
        "max_lr": None,
        "fused": None,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        weight_decay_mode: str = "coupled",
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
            "fused": fused,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.adamax


class NAdam(RegularizedOptimizer):
    r"""NAdam, which is Adam with Nesterov's look-ahead; drop-in for :class:`torch.optim.NAdam`.

    .. math::
        \theta \leftarrow \theta - \alpha \, \left(\frac{(1 - \mu_t) \, g}{1 - \prod_{i \le t} \mu_i}
            + \frac{\mu_{t+1} \, m}{1 - \prod_{i \le t+1} \mu_i}\right) / (\sqrt{\hat v} + \epsilon)

    The momentum :math:`\mu_t = \beta_1 (1 - \frac{1}{2} 0.96^{t \psi})` grows to β₁. Rule:
    :func:`optizoo.rules.nadam`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε.
        weight_decay: λ, L2.
        momentum_decay: ψ.
        decoupled_weight_decay: Shrink the weights instead of adding λθ to the gradient.
        foreach: As in :class:`Adam`.
        maximize: Ascend instead of descend.
        capturable: As in :class:`Adam`.
        differentiable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        weight_decay_mode: As in :class:`Adam`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.NAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[weight])
        ['exp_avg', 'exp_avg_sq', 'mu_product', 'step']
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "weight_decay_mode": optional(_mode),
        "betas": pair(_below_one),
        "eps": number(),
        "momentum_decay": number(),
        "decoupled_weight_decay": flag,
    }
    products: ClassVar[Mapping[str, Any]] = {"mu_product": rules.nadam_momentum}
    neutral_extras: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None, "l1": 0.0, "max_lr": None, "fused": None}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        weight_decay_mode: str | None = None,
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.nadam


class RAdam(RegularizedOptimizer):
    r"""RAdam, which is Adam that warms itself up; drop-in for :class:`torch.optim.RAdam`.

    .. math::
        \theta \leftarrow \theta - \alpha \, \hat m \, r_t \, \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon)
            \quad \text{once } \rho_t > 5, \text{ before that } \theta - \alpha \, \hat m

    The rectification :math:`r_t` grows to 1 as the variance of the adaptive rate becomes known. Rule:
    :func:`optizoo.rules.radam`, with its source.

    Args:
        params: Tensors, ``(name, tensor)`` pairs, or dicts that are param groups.
        lr: Learning rate α; a float or a one-element tensor.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε.
        weight_decay: λ, L2.
        decoupled_weight_decay: Shrink the weights instead of adding λθ to the gradient.
        foreach: As in :class:`Adam`.
        maximize: Ascend instead of descend.
        capturable: Must be ``False``: the rule branches on the number of the step.
        differentiable: As in :class:`Adam`.
        fused: As in :class:`Adam`.
        weight_decay_mode: As in :class:`Adam`.
        l1: As in :class:`SGD`.
        nonfinite: As in :class:`SGD`.

    Attributes:
        state: Per parameter ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown.
        RuntimeError: ``fused=True`` cannot be honoured.

    Example:
        >>> import torch, optizoo
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = optizoo.RAdam([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.8000, -1.6000])
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_decay,
        "weight_decay_mode": optional(_mode),
        "betas": pair(_below_one),
        "eps": number(),
        "decoupled_weight_decay": flag,
    }
    neutral_extras: ClassVar[Mapping[str, Any]] = {"weight_decay_mode": None, "l1": 0.0, "max_lr": None, "fused": None}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        weight_decay_mode: str | None = None,
        l1: float = 0,
        nonfinite: str = "propagate",
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "weight_decay_mode": weight_decay_mode,
            "l1": l1,
            "nonfinite": nonfinite,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check also that the step can be read on the host."""
        super().check_group(group)
        if group["capturable"]:
            raise ValueError("RAdam does not support capturable=True: its rule branches on the step; set it to False")

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """One rule serves all options."""
        return rules.radam


_ZOO: dict[str, type[RuleOptimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "lion": Lion,
    "rprop": Rprop,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "adamax": Adamax,
    "nadam": NAdam,
    "radam": RAdam,
}


def list_optimizers() -> list[str]:
    """Return the names that :func:`create` knows, sorted by the complexity of their rules.

    >>> list_optimizers()
    ['sgd', 'momentum', 'lion', 'rprop', 'adagrad', 'adadelta', 'rmsprop', 'adam', 'adamw', 'adamax', 'nadam', 'radam']
    """
    return list(_ZOO)


def optimizer_class(name: str) -> type[RuleOptimizer]:
    """Return the class behind a name of :func:`list_optimizers`, in any case.

    Raises:
        ValueError: The name is unknown.
    """
    if name.lower() not in _ZOO:
        raise ValueError(f"Unknown optimizer {name!r}; {did_you_mean(name.lower(), _ZOO)}")
    return _ZOO[name.lower()]


def create(name: str, model_or_params: Any, **options: Any) -> RuleOptimizer:
    """Make an optimizer by name, for configs and scripts.

    Args:
        name: A name of :func:`list_optimizers`, in any case.
        model_or_params: A module, whose named parameters are optimized, or what the constructor takes as ``params``.
        **options: The keyword arguments of the constructor.

    Raises:
        ValueError: The name or an option is unknown, or an option is out of range.
        TypeError: An option has the wrong type.

    >>> import torch
    >>> create("adamw", torch.nn.Linear(2, 1), lr=0.1).param_groups[0]["param_names"]
    ['weight', 'bias']
    """
    kind = optimizer_class(name)
    known = [option for option in inspect.signature(kind).parameters if option != "params"]
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"Unknown option {option!r} = {value!r} of {kind.__name__}; {did_you_mean(option, known)}")
    if isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.named_parameters()
    return kind(model_or_params, **options)
