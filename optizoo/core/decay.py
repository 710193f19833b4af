"""Decays of every kind, and the proximal step of the L1 norm, around the rule of an optimizer."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor

from optizoo.core.checks import Check, OutOfRangeError, number, optional, plain
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import SHARED, Decay, Decaying, check_of
from optizoo.core.rule import Rule, around


def regularized(rule, param, grad, *state, lr, weight_decay, weight_decay_mode, max_lr, l1, **options):
    """The update of another rule with a decay of another kind, and then a proximal step for the L1 norm.

    Coupled, the decay joins the gradient: g ← g + λθ (L2). Decoupled, it shrinks the weights: θ ← (1 - αλ)θ.
    Independent, it is multiplied by what a schedule has left of the rate, not by the rate: θ ← (1 - λ α/α_max)θ.
    Both stand as θ - λθ: in float32 a factor 1 - λ is rounded, and makes of λ = 1e-6 one that is 1.3 % larger.
    Cautious, it is decoupled, and shrinks only where the update αu does not lengthen: θ ← θ - αu - αλ 1[uθ ≥ 0] θ. What
    counts as αu is how far the rule has moved θ: where that is rounded to nothing, uθ is 0 and the weight decays.
    Without a mode the decay is left to the other rule.
    The proximal step is θ ← sign(θ) max(|θ| - α l1, 0), as θ - min(max(θ, -α l1), α l1), which is exactly 0 for every
    weight that is not larger than α l1, and NaN for NaN.
    Source: Loshchilov & Hutter (2019), Algorithms 1 and 2, where the schedule η multiplies λ and α does not,
    https://arxiv.org/abs/1711.05101; proximal gradient method: Parikh & Boyd (2014), section 4.2,
    https://doi.org/10.1561/2400000003; cautious: Chen et al. (2025), Algorithm 1, https://arxiv.org/abs/2510.12402.
    """
    start = param
    if weight_decay and weight_decay_mode == "coupled":
        grad = grad.add(param, alpha=weight_decay)  # g ← g + λθ
    elif weight_decay and weight_decay_mode == "decoupled":
        param = param.add(param, alpha=-lr * weight_decay)  # θ ← θ - αλθ
    elif weight_decay and weight_decay_mode == "independent":
        param = param.add(param, alpha=-lr / max_lr * weight_decay)  # θ ← θ - λ α/α_max θ
    inside = weight_decay if weight_decay_mode is None else 0
    param, *state = rule(param, grad, *state, lr=lr, weight_decay=inside, **options)
    if weight_decay and weight_decay_mode == "cautious":
        agrees = ((start - param).sign() * start.sign()).clamp_max(0) + 1  # 1[uθ ≥ 0]
        param = param.addcmul(agrees, start, value=-lr * weight_decay)  # θ ← θ - αu - αλ 1[uθ ≥ 0] θ
    if l1:
        param = param - param.clamp_min(-lr * l1).clamp_max(lr * l1)  # θ ← sign(θ) max(|θ| - α l1, 0)
    return param, *state


class RegularizedOptimizer(RuleOptimizer):
    r"""A :class:`RuleOptimizer` whose weights decay, in one of four modes, and may be drawn to exact zeros.

    The modes of ``weight_decay_mode``, for a decay λ. ``None`` is what the rule has by itself, which may be none of
    them: in :class:`LAMB` the decay takes part in the trust ratio.

    * ``"coupled"`` (L2): :math:`g \leftarrow g + \lambda \theta`, before all else.
    * ``"decoupled"`` (AdamW's in torch): :math:`\theta \leftarrow (1 - \alpha \lambda) \, \theta`, before the update.
    * ``"independent"``: :math:`\theta \leftarrow (1 - \lambda \, \alpha / \alpha_{max}) \, \theta`. The rate leaves the
      decay and its schedule stays, as in Algorithm 2 of Loshchilov & Hutter (2019): weights rest when a schedule ends
      at 0, and λ = 1e-5 does here what 1e-2 does there with α = 1e-3. :math:`\alpha_{max}` is ``max_lr`` of the param
      group: ``initial_lr``, or else ``lr``, as the group was made, until ``OneCycleLR`` or you write another.
    * ``"cautious"``: decoupled, but only where the update and the weight have one sign or one of them is 0, so that no
      decay works against the update (Chen et al. 2025, https://arxiv.org/abs/2510.12402): :math:`\theta \leftarrow
      \theta - \alpha u - \alpha \lambda \, 1[u \theta \ge 0] \, \theta`. Plain SGD keeps its minima, to a share αλ.
      An update too small for the digits of its weight counts as 0; kernels for 16-bit types have those of float32.

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

    regularized: ClassVar[Rule] = staticmethod(regularized)
    shared: ClassVar[Collection[str]] = Decaying.__annotations__
    group_options: ClassVar[Mapping[str, Any]] = {"max_lr": None}
    checks: ClassVar[Mapping[str, Check]] = {
        "weight_decay": check_of("weight_decay", 0.0),
        **{name: check_of(name, SHARED[name][1].default) for name in Decay.__annotations__},
        "max_lr": optional(number()),
    }
    neutral_extras: ClassVar[Mapping[str, Any]] = {
        **{name: SHARED[name][1].default for name in Decay.__annotations__},
        **group_options,
    }

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
            raise OutOfRangeError(
                f"Invalid weight_decay value: {group['weight_decay']!r}; with weight_decay_mode='independent' every "
                "update takes that share of a weight, at most 1 and usually below 1e-4"
            )

    def _checked(
        self, options: Mapping[str, Any], *, where: str, known: Collection[str] = (), loading: bool = False
    ) -> dict[str, Any]:
        kept = super()._checked(options, where=where, known=known, loading=loading)
        if kept.get("weight_decay_mode") in ("coupled", "decoupled") and "decoupled_weight_decay" in kept:
            kept["decoupled_weight_decay"] = kept.pop("weight_decay_mode") == "decoupled"  # as torch can read it
        return kept

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as every optimizer does, and keep the rate of an independent decay's full strength."""
        mode = param_group.get("weight_decay_mode") if isinstance(param_group, dict) else None
        if mode in ("coupled", "decoupled") and "decoupled_weight_decay" in self.checks.keys() - self.fixed.keys():
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
            group["max_lr"] = lr.item() if isinstance(lr, Tensor) else plain(lr)

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

    def wrapped_rule(self, group: Mapping[str, Any]) -> Rule:
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
            share = plain(group["weight_decay"]) * plain(group["lr"]) / plain(group["max_lr"])
            if share > 1:
                raise ValueError(
                    f"lr = {group['lr']!r} is so far above max_lr = {group['max_lr']!r} that the independent decay "
                    f"would take {share:.3g} of a weight; set max_lr in the param group to the schedule's largest lr"
                )
        return around(self.regularized, rule)
