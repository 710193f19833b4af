"""Combinators: functions from a rule to a rule, for :func:`optizoo.from_rule` and for pages of the zoo."""

from optizoo.core.rule import Rule, around


def averaged(rule: Rule) -> Rule:
    r"""Return the rule with an exponential moving average of the parameters, at which the model is judged.

    .. math::
        x \leftarrow \gamma x + (1 - \gamma) \theta \qquad (x \leftarrow \theta \text{ in the first update})

    The parameters step as before. ``optimizer.eval()`` makes them x, ``optimizer.train()`` themselves again, and
    ``with optimizer.evaluating():`` is both; one average for all of a model, in its checkpoints, without a second model
    to keep. γ is the option ``average_decay``, 0.999 if it is not given.
    Source: Polyak & Juditsky (1992), https://doi.org/10.1137/0330046; with γ, as ``torch.optim.swa_utils`` has it.

    Args:
        rule: Any rule that does not sum over the model.

    Example:
        >>> import torch, optizoo
        >>> from optizoo.combinators import averaged
        >>> EMA = optizoo.from_rule(averaged(optizoo.rules.sgd), "EMA", lr=0.5, weight_decay=0, average_decay=0.5)
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = EMA([weight])
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor([1.0])
        ...     optimizer.step()
        >>> with optimizer.evaluating():
        ...     print(weight.data)
        tensor([1.2500])
        >>> weight.data
        tensor([1.])
    """
    update = around(_averaged, rule)
    vars(update)["evaluated"] = average_of
    return update


def _averaged(rule, param, grad, average=None, *state, average_decay=0.999, **options):
    param, *state = rule(param, grad, *state, **options)
    average = param if average is None else average.lerp(param, 1 - average_decay)  # x ← γx + (1-γ)θ
    return param, average, *state


def average_of(param, average):  # noqa: ARG001
    """Return where the model of an :func:`averaged` rule is judged: the average."""
    return average
