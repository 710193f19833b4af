"""A rule of your own: from a function to an optimizer that has everything the zoo has."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from optizoo.backends.trace import LOOP_REMEDY, TOTAL, Program, TraceError, trace
from optizoo.core.checks import Check, flag, number, values
from optizoo.core.declaration import constructor
from optizoo.core.names import did_you_mean
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.options import Common
from optizoo.core.rule import GIVEN, Rule, schema


def from_rule(
    rule: Rule, name: str, *, evaluated: Callable[..., Any] | None = None, **defaults: Any
) -> Callable[..., RuleOptimizer]:
    """Make an optimizer of a rule: loop, foreach and fused on CPU and GPU, checkpoints, schedules, proofs.

    The rule has the form of those in :mod:`optizoo.rules`: ``(param, grad, *state, **options) -> (param, *state)``, a
    pure function whose states stand in its signature, and whose words tensors and traced expressions both know. A state
    without default starts as zeros, one with the default ``None`` is made by the rule. ``step`` is given to a rule that
    names it.

    Args:
        rule: The update of one parameter.
        name: Name of the class. Assigned to a variable of that name in its module, its instances can be pickled.
        evaluated: ``(param, *state, **options) -> param``, for an optimizer that is judged elsewhere than it steps:
            the point to which ``optimizer.eval()`` moves the parameters. It names those states and hyper-parameters of
            the rule that it needs. :func:`optizoo.combinators.averaged` brings its own.
        **defaults: Values of the hyper-parameters that the rule names, ``lr`` among them; those left out have the
            defaults in the signature of the rule. Their kinds are checked everywhere: a finite number from 0, a truth
            value, or a tuple of numbers.

    Returns:
        A class with the constructor ``(params, lr=..., ..., *, maximize, foreach, differentiable, fused, capturable,
        nonfinite)``.

    Raises:
        TraceError: The rule leaves the vocabulary; the message names the operation and its line.
        TypeError: ``rule`` has another form, or a default another kind.
        ValueError: A hyper-parameter has no default, a default no hyper-parameter, or ``name`` is no name.

    Example:
        >>> import torch, optizoo
        >>> def lion(param, grad, exp_avg, *, lr, betas, weight_decay):
        ...     direction = exp_avg.lerp(grad, 1 - betas[0]).sign()
        ...     param = (param * (1 - lr * weight_decay)).add(direction, alpha=-lr)
        ...     return param, exp_avg.lerp(grad, 1 - betas[1])
        >>> Lion = optizoo.from_rule(lion, name="Lion", lr=1e-4, betas=(0.9, 0.99), weight_decay=0)
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Lion([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -1.9000])
    """
    options = _options(rule, name, defaults)
    checks = {option: _check(value) for option, value in options.items()}
    for option, value in options.items():
        checks[option](option, value)
    _follow(rule, options)
    evaluated = evaluated or getattr(rule, "evaluated", None)
    _check_evaluated(rule, evaluated, options)
    doc = inspect.getdoc(rule) or f"The optimizer of the rule {rule.__name__!r}."
    body = {
        "__module__": sys._getframe(1).f_globals.get("__name__", "__main__"),
        "__init__": constructor(_signature_only(options)),
        "checks": {option: check for option, check in checks.items() if option != "lr"},
        "counts_steps": bool(schema(rule).names_step or schema(rule).numbers or evaluated),
        "evaluated": evaluated and staticmethod(evaluated),
        "rule": staticmethod(rule),
    }
    kind = type(name, (RuleOptimizer,), body)
    kind.__doc__ = doc
    return kind


def _signature_only(options: Mapping[str, Any]) -> Callable[..., None]:
    """Return a constructor ``(self, params, option=default, ...)`` without a body."""

    def signature_only(self: Any, params: Any) -> None: ...

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", "params")]
    parameters += [inspect.Parameter(option, kind, default=value) for option, value in options.items()]
    vars(signature_only)["__signature__"] = inspect.Signature(parameters)
    signature_only.__name__ = "__init__"
    return signature_only


def _check_evaluated(rule: Rule, evaluated: Callable[..., Any] | None, options: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` unless the second point is made of what the rule has."""
    if evaluated is None:
        return
    if not callable(evaluated):
        raise TypeError(f"evaluated must be a function (param, *state, **options) -> param, not {evaluated!r}")
    parameters = [*inspect.signature(evaluated).parameters.values()]
    states = {**schema(rule).states, **schema(rule).numbers}
    for parameter in parameters[1:]:
        known = options if parameter.kind is parameter.KEYWORD_ONLY else states
        if parameter.name not in known or parameter.kind not in (
            parameter.KEYWORD_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        ):
            kind = "hyper-parameters" if known is options else "states"
            raise TypeError(
                f"evaluated names {str(parameter)!r}, which is none of the {kind} of rule {rule.__name__!r}: "
                f"{', '.join(known) or 'it has none'}"
            )
    if not parameters:
        raise TypeError("evaluated must take the parameter first")


def _follow(rule: Rule, options: Mapping[str, Any]) -> None:
    """Trace the first updates, until all states have come to be that the rule makes, or raise ``TraceError``."""
    declared = schema(rule)
    given = {"step": 1.0, "shape": (4, 3), "machine_eps": 1e-7}
    further = {**{name: given[name] for name in declared.given}, **declared.numbers}
    present: dict[str, bool] | None = None
    following = declared.states
    update = 0.0
    while following != present:
        present = following
        update += 1
        if declared.names_step:
            further["step"] = update
        try:
            program = _last(rule, present, {**options, **further})
        except TraceError as error:
            raise TraceError(str(error).removesuffix(LOOP_REMEDY)) from error
        made = dict(program.outputs)
        following = {name: exists or name in made for name, exists in present.items()}


def _last(rule: Rule, present: Mapping[str, bool], options: Mapping[str, Any]) -> Program:
    """Return the program of a rule that knows all sums over the model that it asks for."""
    totals: list[float] = []
    while True:
        program, _ = trace(rule, present, totals=totals, **options)
        if program.outputs[0][0] != TOTAL:
            return program
        totals.append(1.0)


def _options(rule: Rule, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of the rule with their defaults, ``lr`` first."""
    if not callable(rule):
        raise TypeError(f"rule must be a function (param, grad, *state, **options), not {rule!r}")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name = {name!r} cannot name a class; give a Python identifier")
    parameters = list(inspect.signature(rule).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    form = "(param, grad, *state names, keyword-only options)"
    title = getattr(rule, "__name__", repr(rule))
    if len(positional) < 2 or len(positional) + len(keywords) < len(parameters):
        raise TypeError(f"rule {title!r} must have the form {form}; it has {inspect.signature(rule)}")
    if any(p.default not in (p.empty, None) and not isinstance(p.default, (int, float)) for p in positional):
        raise TypeError(f"a state of rule {title!r} can only have the default None, or a number where it is one")
    for given in GIVEN:
        keywords.pop(given, None)
    for option in Common.__annotations__.keys() & keywords.keys():
        raise ValueError(f"rule {title!r} names {option!r}, which every optimizer has already; give it another name")
    for option, value in defaults.items():
        if option not in keywords:
            remedy = did_you_mean(option, keywords)
            raise ValueError(f"rule {title!r} has no hyper-parameter {option!r} = {value!r}; {remedy}")
    options = {option: defaults.get(option, default) for option, default in keywords.items()}
    missing = [option for option, value in options.items() if value is inspect.Parameter.empty]
    if missing:
        example = f"from_rule({title}, name={name!r}, {missing[0]}=...)"
        raise ValueError(f"the hyper-parameters {', '.join(missing)} of rule {title!r} have no default; give {example}")
    if "lr" not in options:
        raise ValueError(f"rule {title!r} does not name lr, which schedules set; name it as a keyword-only argument")
    return {"lr": options.pop("lr"), **options}


def _check(default: Any) -> Check:
    """Return the check for values of the kind of a default."""
    if isinstance(default, bool):
        return flag
    return values(number(), len(default)) if isinstance(default, (tuple, list)) else number()
