"""Rules made of rules: each function takes a rule and returns one, with the states and the options of both.

>>> import torch, optizoo
>>> from optizoo import rules
>>> Lookahead = optizoo.from_rule(lookahead(rules.sgd), name="Lookahead", lr=0.1, weight_decay=0, sync_period=2)
>>> weight = torch.nn.Parameter(torch.tensor([1.0]))
>>> optimizer = Lookahead([weight])
>>> for _ in range(2):
...     weight.grad = torch.tensor([1.0])
...     optimizer.step()
>>> weight.data  # two steps of 0.1 forward, and half of the way back
tensor([0.9000])
"""

import inspect

from optizoo.core.rule import Rule, around, schema


def cautious(rule: Rule) -> Rule:
    """Return a rule that moves only the weights that the newest gradient would move the same way.

    With u what ``rule`` takes off the weights, its decay included: φ = 1 where u g > 0, else 0, and
    θ ← θ - φ / max(mean(φ), 0.001) u. The mean is that of the whole tensor: the fewer weights move, the farther they
    do. A weight whose step is rounded away is none that moves; where that is common, as in 16 bits, take
    :class:`~optizoo.zoo.cautious.CautiousAdamW`, which knows u before it is rounded, and leaves the decay out of it.
    Source: Liang et al. (2024), Algorithm 1, with the bound of its authors' code, https://arxiv.org/abs/2411.16085.

    Args:
        rule: The update of one parameter.

    >>> import torch
    >>> def momentum(param, grad, buffer, *, lr):
    ...     buffer = buffer * 0.9 + grad
    ...     return param.add(buffer, alpha=-lr), buffer
    >>> weights, grad, buffer = torch.zeros(2), torch.tensor([1.0, -1.0]), torch.ones(2) * 2
    >>> cautious(momentum)(weights, grad, buffer, lr=0.1)[0]  # the second would go against its gradient
    tensor([-0.5600,  0.0000])
    """
    return _documented(_cautious, rule)


def _cautious(rule, param, grad, *state, **options):
    """Cautious, in weights that the newest gradient would move the other way; see ``optizoo.combinators.cautious``."""
    new, *state = rule(param, grad, *state, **options)
    update = param - new  # u
    agrees = (update.sign() * grad.sign()).clamp_min(0.0)  # φ
    return param - update * (agrees / agrees.mean().clamp_min(1e-3)), *state


def lookahead(rule: Rule) -> Rule:
    """Return a rule whose weights go back, every few updates, part of the way that they have gone since.

    θ moves as ``rule`` says; in every k-th update the slow weights follow, φ ← φ + α (θ - φ), and θ ← φ. They begin
    where the weights do. The state that it adds is ``slow_param``; the options are ``sync_period``, k = 6, and
    ``slow_step_size``, α = 0.5.

    timm's ``Lookahead`` makes its slow weights in the k-th update, from the weights of then: its first return is none.
    Source: Zhang et al. (2019), Algorithm 1, https://arxiv.org/abs/1907.08610.

    Args:
        rule: The update of one parameter.
    """
    return _documented(_lookahead, rule)


def _lookahead(rule, param, grad, slow_param=None, *state, sync_period=6, slow_step_size=0.5, step, **options):
    """Lookahead, every few updates part of the way back; see ``optizoo.combinators.lookahead``."""
    slow_param = param if slow_param is None else slow_param  # φ ← θ, in the first update
    counted = {"step": step} if schema(rule).names_step else {}
    param, *state = rule(param, grad, *state, **counted, **options)
    if not step % sync_period:  # on a device it is read
        param = slow_param = slow_param.lerp(param, slow_step_size)  # φ ← φ + α (θ - φ); θ ← φ
    return param, slow_param, *state


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
    update = _documented(_averaged, rule)
    vars(update)["evaluated"] = average_of
    return update


def _averaged(rule, param, grad, average=None, *state, average_decay=0.999, **options):
    """The average of the weights of a rule; see ``optizoo.combinators.averaged``."""
    param, *state = rule(param, grad, *state, **options)
    average = param if average is None else average.lerp(param, 1 - average_decay)  # x ← γx + (1-γ)θ
    return param, average, *state


def average_of(param, average):  # noqa: ARG001
    """Return where the model of an :func:`averaged` rule is judged: the average."""
    return average


def _documented(outer: Rule, rule: Rule) -> Rule:
    """Return ``outer`` around ``rule``, with the documentation of both."""
    update = around(outer, rule)
    update.__doc__ = "\n\n".join(filter(None, map(inspect.getdoc, (outer, rule))))
    return update
