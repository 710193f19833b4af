"""Constructors that are their signature: the arguments, and what all optimizers share, are the options."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from optizoo.core.names import did_you_mean
from optizoo.core.options import NAMED, OURS, SHARED, check_of

Constructor = TypeVar("Constructor", bound=Callable[..., None])

_RAISES = """\
Raises:
    TypeError: An option has the wrong type, or is unknown.
    ValueError: An option is out of range, or a slip for another.
    RuntimeError: ``fused=True`` cannot be honoured.
    FloatingPointError: In a step, with ``nonfinite="raise"``.
"""


def constructor(signature_only: Constructor) -> Constructor:
    """Make a constructor of an ``__init__`` that is only its signature; its body is never run.

    The arguments by position stand in it, in torch's order, with their defaults, and those by keyword that are the
    optimizer's own. ``**common`` stands for what all optimizers share.
    """

    @wraps(signature_only)
    def construct(self: Any, *args: Any, **options: Any) -> None:
        signature = vars(construct)["__signature__"]
        for name, value in options.items():
            if name not in signature.parameters or name == "self":
                known = [*signature.parameters][2:]
                raise TypeError(f"Unknown option {name!r} = {value!r} of {_name(self)}; {did_you_mean(name, known)}")
        try:
            bound = signature.bind(self, *args, **options)
        except TypeError as error:
            raise TypeError(
                f"{_name(self)}: {error}; its arguments are {', '.join([*signature.parameters][1:])}"
            ) from None
        bound.apply_defaults()
        _, params, *values = bound.arguments.values()
        self._start(params, {**dict(zip([*signature.parameters][2:], values, strict=True)), **self.fixed})

    vars(construct)["__signature__"] = inspect.signature(signature_only)
    vars(construct)["is_signature"] = construct  # a function that wraps it takes the mark along, but is another
    return construct  # pyright: ignore[reportReturnType]


def _name(optimizer: Any) -> str:
    return type(optimizer).__name__


def declare(cls: Any) -> None:
    """Complete a class whose constructor is its signature: that signature, checks, neutral values, documentation.

    Sets ``checks`` (what the class says itself goes first), ``neutral_extras`` and ``__doc__``.
    """
    init = vars(cls).get("__init__")
    if init is None or getattr(init, "is_signature", None) is not init:
        return
    theirs = inspect.signature(cls.namesake).parameters if cls.namesake is not None else None
    parameters = _parameters(init, cls, theirs or {})
    init.__signature__ = inspect.Signature([*parameters.values()])
    options = {name: parameter.default for name, parameter in [*parameters.items()][2:]}
    options |= {**cls.fixed, **cls.group_options}
    said, inherited = vars(cls).get("checks", {}), cls.__mro__[1].checks
    cls.checks = {
        name: said.get(name)
        or (inherited.get(name) if name not in SHARED and name not in NAMED else None)
        or check_of(name, default)
        for name, default in options.items()
        if name not in cls._common_checks
    }
    cls.neutral_extras = {
        name: default
        for name, default in options.items()
        if name in OURS or (theirs is not None and name not in theirs and name not in cls.fixed)
    }
    if cls.__doc__ is not None:
        cls.__doc__ = _documented(inspect.cleandoc(cls.__doc__), [*parameters][1:])


def _parameters(init: Any, cls: Any, theirs: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the whole signature of a constructor: own arguments, and by keyword what the class shares with others.

    Keywords stand in torch's order, then in that of the tables.
    """
    own = {name: p for name, p in init.__signature__.parameters.items() if p.kind is not p.VAR_KEYWORD}
    keywords = {name: p for name, p in own.items() if p.kind is p.KEYWORD_ONLY}
    for name in cls.shared:
        if name not in own:
            kind, option = SHARED[name]
            default = cls.shared_defaults.get(name, option.default)
            keywords[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            if own["params"].annotation is not inspect.Parameter.empty:
                keywords[name] = keywords[name].replace(annotation=kind)
    order = [name for name in theirs if name in keywords]
    order += [name for name in SHARED if name in keywords and name not in (*order, *OURS)]
    order += [name for name in own if name in keywords and name not in order]
    order += [name for name in SHARED if name in keywords and name not in order]
    positional = {name: p for name, p in own.items() if name not in keywords}
    return {**positional, **{name: keywords[name] for name in order}}


def _documented(doc: str, names: list[str]) -> str:
    """Return the documentation of a page, with a sentence for every argument, and with what all classes raise."""
    before, examples, after = doc.partition("\nExample:\n")
    head, found, rest = before.partition("\nArgs:\n")
    if not found:
        head, found, rest = before.partition("\nAttributes:\n")
        rest = found.lstrip("\n") + rest
    said: dict[str, str] = {}
    name, lines = "", rest.splitlines()
    while lines and lines[0].startswith("    "):
        line = lines.pop(0)
        if line[4] == " " and name:
            said[name] += f"\n{line}"
        else:
            name = line.strip().partition(":")[0]
            said[name] = line
    for name in names:
        if name not in said and (known := SHARED[name][1] if name in SHARED else NAMED.get(name)) is not None:
            said[name] = f"    {name}: {known.meaning}".replace("\n", "\n        ")
    arguments = "\n".join(said[name] for name in names if name in said)
    others = "\n".join(lines).strip("\n")
    raises = "" if "Raises:\n" in doc else _RAISES
    sections = [head.rstrip(), f"Args:\n{arguments}", others, raises.rstrip(), (examples + after).strip("\n")]
    return "\n\n".join(filter(None, sections)) + "\n"
