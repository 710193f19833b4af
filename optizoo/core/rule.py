"""What a rule is: a pure function whose signature declares its states and options, and what is made around it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

Rule = Callable[..., tuple]


@dataclass(frozen=True)
class RuleSchema:
    """What the signature of a rule declares.

    Attributes:
        states: The states, in order, and whether each starts as zeros (or may be absent: default ``None``).
        options: The hyper-parameters that the rule names, without ``step``.
        names_step: Whether the rule names ``step``.
    """

    states: dict[str, bool]
    options: tuple[str, ...]
    names_step: bool


@lru_cache
def schema(rule: Rule) -> RuleSchema:
    """Read the schema of ``rule`` off its signature."""
    parameters = inspect.signature(rule).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return RuleSchema(
        states={p.name: p.default is p.empty for p in positional[2:]},
        options=tuple(name for name in keywords if name != "step"),
        names_step="step" in keywords,
    )


@lru_cache
def sorted_states(
    rule: Rule, on: tuple[str, ...], off: tuple[str, ...]
) -> tuple[dict[str, bool], tuple[str, ...], tuple[str, ...]]:
    """Sort the states of ``rule``, of which options switch some on and some off.

    Returns:
        For every state whether it starts as zeros, the names of those, and the names of those that the rule makes.
    """
    states = {name: (zeros or name in on) and name not in off for name, zeros in schema(rule).states.items()}
    zeros = tuple(name for name, starts_as_zeros in states.items() if starts_as_zeros)
    return states, zeros, tuple(name for name in states if name not in (*zeros, *off))


@lru_cache
def around(outer: Rule, rule: Rule) -> Rule:
    """Return the rule ``outer(rule, ...)``, with the states of ``rule`` and the options of both."""

    @wraps(rule)
    def update(*args: Any, **options: Any) -> tuple:
        return outer(rule, *args, **options)

    added = [p for p in inspect.signature(outer).parameters.values() if p.kind is p.KEYWORD_ONLY]
    parameters = {**inspect.signature(rule).parameters, **{p.name: p for p in added}}
    update.__signature__ = inspect.Signature(list(parameters.values()))  # pyright: ignore[reportAttributeAccessIssue]
    return update


def check_results(rule: Callable[..., Any], results: Any, names: Sequence[str]) -> None:
    """Raise ``TypeError`` unless a rule returned a tuple with one result for each of ``names``."""
    if not isinstance(results, tuple) or len(results) != len(names):
        expected = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
        got = f"{len(results)} results" if isinstance(results, tuple) else repr(results)
        raise TypeError(f"rule {rule.__name__!r} must return the tuple {expected}; got {got}")
