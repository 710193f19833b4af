"""What the kit knows of an optimizer beside its page in the zoo: formula, oracle, options and mistakes."""

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from optizoo.testing.pairwise import Options, Table, level, pairwise, product
from optizoo.testing.streams import SHAPES, Shapes
from optizoo.zoo import optimizer_class

if TYPE_CHECKING:
    from optizoo.testing.mutants import Mutant

SIGN_AND_DECAY: Table = {"weight_decay": (0, 0.05), "maximize": (False, True)}
"""Joined to every table of a specimen, as far as the optimizer has these options."""

EVERYWHERE: tuple[Table, ...] = ({"lr": (torch.tensor(0.01),)},)
"""Tables that stand beside those of every specimen, unless it has one with a tensor ``lr`` of its own."""

PROXIMAL: Table = {"weight_decay": (0.05,), "weight_decay_mode": ("independent",), "l1": (0.1,)}
"""Stands beside those of an optimizer that has ``l1``, unless it has one with ``l1`` of its own."""

ON_OFF = (False, True)


@dataclass(frozen=True)
class Reference:
    """An implementation of another package that an optimizer is held against, in float64, as a loop.

    Attributes:
        distribution: The package, as ``pip`` knows it.
        version: That with which the two were compared last.
        path: Module and class.
        options: Its options that are not to be at their defaults; ``foreach=False``, for example.
        names: For options of ours its name for them, where that is another; or a function that turns the value into its
            options. Every option of a table is given to both, and ``lr``.
        tables: The options of ours in which both are compared.
        fault: Where it does not agree: what it does otherwise. The distance is then measured, and not asked for.
    """

    distribution: str
    version: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str | Callable[[Any], Mapping[str, Any]]] = field(default_factory=dict)
    tables: tuple[Table, ...] = ({},)
    fault: str = ""


@dataclass(frozen=True)
class Specimen:
    """All that is known of an optimizer outside its page; :func:`optizoo.testing.specimens.specimens` finds it.

    A table maps options to the values they take, and stands for every combination of them.

    Attributes:
        name: Of the optimizer, as in ``optizoo.list_optimizers()``.
        textbook: The formulas of its rules as the papers print them, in plain operators; each has the name of its rule
            in the zoo, and its signature. They work on Python floats and on tensors.
        twin: Name of the class in ``torch.optim`` that computes the same. Where it is empty, and for options that torch
            does not have, the textbook is the oracle.
        twin_options: Options that the twin has otherwise by default.
        tables: Tables of the options that change what is computed, each joined with :data:`SIGN_AND_DECAY`.
        more_tables: Tables that are taken as they stand, as are :data:`EVERYWHERE` and :data:`PROXIMAL`.
        mutants: Mistakes that the kit must reject.
        references: Implementations of other packages that it is held against.
        float16: Whether its states lie in the range of float16.
        floats: Whether the textbook works on Python floats: a number is a tensor with one weight, but no matrix.
        shapes: Of the parameters on which mistakes show; those that its twin takes too.
    """

    name: str
    textbook: tuple[Callable[..., Any], ...]
    twin: str = ""
    twin_options: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ({},)
    more_tables: tuple[Table, ...] = ()
    mutants: "tuple[Mutant, ...]" = ()
    references: tuple[Reference, ...] = ()
    floats: bool = True
    float16: bool = True
    shapes: Shapes = SHAPES

    def combinations(self, *, pairs: bool = False) -> list[Options]:
        """Return every combination of options of all tables, each once.

        Args:
            pairs: Only so many that every two option values of them still stand together in one.
        """
        parameters = inspect.signature(optimizer_class(self.name)).parameters
        joined = {option: values for option, values in SIGN_AND_DECAY.items() if option in parameters}
        own = [*({**table, **joined} for table in self.tables), *self.more_tables]
        proximal = [] if "l1" not in parameters or any("l1" in table for table in own) else [PROXIMAL]
        has_tensor_lr = any(isinstance(lr, torch.Tensor) for table in own for lr in table.get("lr", ()))
        rows = itertools.chain.from_iterable(map(product, [*own, *proximal, *(() if has_tensor_lr else EVERYWHERE)]))
        each = list({frozenset((option, level(value)) for option, value in row.items()): row for row in rows}.values())
        return pairwise(each, {name: parameter.default for name, parameter in parameters.items()}) if pairs else each
