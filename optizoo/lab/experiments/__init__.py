"""The experiments: every idea of the optimization lecture as one command with a number and a picture.

How to write one, in a file ``<name>.py`` of this folder whose name also stands in :data:`EXPERIMENTS`:

1. A docstring: a title line; the idea in a paragraph; the equations, indented, as they are read
   aloud (the page shows them as mathematics, and this text to those who cannot see); and last a paragraph that begins
   with ``The lecture:`` and says what it claims.
2. ``NEEDS_DATA = False``, or ``True`` where it trains on images: then ``Options`` has the field
   ``data: str = running.DATA``, and the images come from ``running.images(options.data, ...)``.
3. ``@dataclass(frozen=True) class Options(Checked)`` of ``name: type = option(default, "help", at_least=1, ...)``, of
   :mod:`optizoo.lab.options`: the flags of the command line. The defaults take less than two minutes on two cores. What
   a value may be, alone and beside other options, is declared there: each that is allowed gives a page. What cannot be
   declared raises :class:`ExperimentError` in ``__post_init__``.
4. ``compute(options, track)`` yields rows: dicts that JSON can hold, with a key ``"kind"`` where they differ, and with
   all that the page needs, options included. ``for lr in track(options.lrs, "learning rates")`` shows the progress.
5. ``page(rows)`` returns a :class:`~optizoo.lab.page.Page` from nothing but rows as they come back from the file (no
   NaN or infinity but ``None``; lists for tuples; text for keys). No sentence claims what it has not looked up in them.
6. Pictures from :mod:`optizoo.lab.plots`, runs from :mod:`optizoo.lab.running`; both have what several need.
7. ``tests/lab/experiments/test_<name>.py``: ``TINY``, options with which it ends in seconds; its number at this size;
   and a claim that turns when the rows are doctored. See ``test_momentum_forms.py``.

:mod:`~optizoo.lab.experiments.momentum_forms` is the shortest model; ``bias_correction`` is one that needs data.
"""

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from optizoo.core.names import did_you_mean

if TYPE_CHECKING:
    from optizoo.lab.page import Experiment

__all__ = ["EXPERIMENTS", "ExperimentError", "docstring", "load", "title"]

# In the order of the book. Modules are imported when they are run.
EXPERIMENTS = (
    # How good is a guess, and is the gradient right?
    "random_search",
    "knn",
    "gradcheck",
    # What is minimised
    "regularization",
    # Gradient descent and where it is slow
    "gradient_descent",
    "conditioning",
    "saddles",
    "trajectories",
    "trajectories_cifar10",
    # Momentum
    "momentum_forms",
    # Adaptive rates
    "bias_correction",
    "adam_vs_adamw",
    # The learning rate
    "learning_rates",
    "schedules",
    "lr_finder",
    # Large batches
    "linear_scaling",
    # The second derivative
    "second_order",
    # The two models
    "two_layer_features",
    # What to take
    "defaults",
)


class ExperimentError(ValueError):
    """An experiment cannot be run, or its record not be read; the message names the remedy."""


def load(name: str) -> "Experiment":
    """Import an experiment.

    Raises:
        ExperimentError: The name is unknown.
    """
    return cast("Experiment", importlib.import_module(f"{__name__}.{_known(name)}"))


def docstring(name: str) -> str:
    """Return the docstring of an experiment, which is not imported.

    Raises:
        ExperimentError: The name is unknown.
    """
    text = Path(__file__).with_name(f"{_known(name)}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)) or ""


def title(name: str) -> str:
    """Return the first line of :func:`docstring`, without its full stop, and without parsing the file.

    >>> title("momentum_forms")
    'Two forms of momentum: one sequence, until the learning rate changes'
    """
    with Path(__file__).with_name(f"{_known(name)}.py").open(encoding="utf-8") as file:
        return file.readline().strip().removeprefix('"""').removesuffix(".")


def _known(name: str) -> str:
    if name not in EXPERIMENTS:
        raise ExperimentError(f"unknown experiment {name!r}: {did_you_mean(name, EXPERIMENTS)}")
    return name
