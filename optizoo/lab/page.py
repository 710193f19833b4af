"""What an experiment is made of, and what its page says."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from matplotlib.figure import Figure

from optizoo.lab import plots
from optizoo.lab.pictures import Theme
from optizoo.lab.plots import Line

__all__ = [
    "Experiment",
    "Headline",
    "Page",
    "Picture",
    "Row",
    "Table",
    "Track",
    "line_picture",
    "line_table",
    "silent",
]

Row = dict[str, Any]
T = TypeVar("T")


class Track(Protocol):
    """Passes items on and shows how far they are; :func:`silent` shows nothing."""

    def __call__(self, items: Iterable[T], what: str, /) -> Iterable[T]:
        """Return the items, with a progress bar that is called ``what``."""
        ...


def silent(items: Iterable[T], what: str, /) -> Iterable[T]:  # noqa: ARG001
    """Return the items without a progress bar."""
    return items


class Experiment(Protocol):
    """A module of :mod:`optizoo.lab.experiments`, which says how to write one.

    Attributes:
        NEEDS_DATA: Whether it trains on images; its options then have ``data``, of :func:`optizoo.lab.running.images`.
        Options: A frozen dataclass whose fields are made by :func:`optizoo.lab.options.option`, and
            which is :class:`optizoo.lab.options.Checked`.
    """

    NEEDS_DATA: bool
    Options: ClassVar[type[Any]]

    def compute(self, options: Any, track: Track) -> Iterator[Row]:
        """Yield rows as they come: what JSON can hold. NaN and infinity arrive at :meth:`page` as ``None``."""
        ...

    def page(self, rows: Sequence[Row]) -> "Page":
        """Make the page from rows alone, as they come back from the file."""
        ...


@dataclass(frozen=True)
class Table:
    """Numbers behind a picture. Cells are text, numbers (shown with four digits) or ``None``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        name: Its file is called after the experiment and this, so it is a short word.
        title: What is drawn, in a few words.
        caption: What is to be seen and how it was measured, in a sentence or two.
        alt: What one who does not see it must know: axes, lines, and where they go.
        draw: Draws it, for light and for dark paper: ``lambda theme: plots.lines(..., theme=theme)``.
        table: The numbers.
        frames: Draws the frames of an animation of it, which the page has beside it; ``None`` where nothing moves.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]
    table: Table
    frames: Callable[[Theme], Iterable[Figure]] | None = None


@dataclass(frozen=True)
class Headline:
    """One number beside what the lecture says.

    Attributes:
        number: The number, with its unit.
        what: What it is.
        claim: What the lecture says.
        held: Whether that held; ``None`` where this size cannot tell.
    """

    number: str
    what: str
    claim: str
    held: bool | None

    @property
    def verdict(self) -> str:
        """The answer in words."""
        return "not tested at this size" if self.held is None else "held" if self.held else "did not hold"


@dataclass(frozen=True)
class Page:
    """The page of an experiment; title and idea come from the docstring of its module.

    Attributes:
        equations: Lines of matplotlib's mathematics, without the dollar signs; short, for the width of a phone.
        seen: Two or three sentences that say what is seen. Every claim is computed from the rows.
        headline: The number beside the lecture's claim.
        pictures: The figures.
    """

    equations: Sequence[str]
    seen: Sequence[str]
    headline: Headline
    pictures: Sequence[Picture]


def line_table(lines: Sequence[Line], xlabel: str, *, at_most: int = 25) -> Table:
    """Return the table of a picture of lines: a column for each line, and up to ``at_most`` values of x, evenly chosen.

    >>> line_table([Line("sgd", (0, 1, 2), (4.0, 2.0, 1.0))], "step", at_most=2)
    Table(columns=['step', 'sgd'], rows=[[0, 4.0], [2, 1.0]])
    """
    xs = sorted({x for line in lines for x in line.x})
    if len(xs) > at_most:
        xs = [xs[round(index * (len(xs) - 1) / (at_most - 1))] for index in range(at_most)]
    values: list[Mapping[float, float | None]] = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    names = [", ".join(filter(None, (line.label, line.panel))) for line in lines]
    return Table([xlabel, *names], [[x, *(each.get(x) for each in values)] for x in xs])


def line_picture(
    name: str, title: str, caption: str, alt: str, lines: Sequence[Line], *, xlabel: str, ylabel: str, **options: Any
) -> Picture:
    """Return a picture of lines with its table; the options are those of :func:`optizoo.lab.plots.lines`."""

    def draw(theme: Theme) -> Figure:
        return plots.lines(lines, xlabel=xlabel, ylabel=ylabel, theme=theme, **options)

    return Picture(name, title, caption, alt, draw, line_table(lines, xlabel))


def cell(value: Any) -> str:
    """Write a cell of a table.

    >>> [cell(value) for value in (3, 0.123456, None, "adam", True)]
    ['3', '0.1235', '–', 'adam', 'yes']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
