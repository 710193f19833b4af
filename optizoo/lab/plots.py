"""Plots of the experiments: lines, bars, heat maps, images and contours, in the dress of :mod:`optizoo.lab.pictures`.

Every function returns a :class:`matplotlib.figure.Figure`, takes the :class:`~optizoo.lab.pictures.Theme` to draw it
in, and draws ``None`` and NaN as gaps. Axis labels name the quantity and, where it has one, its unit.

>>> figure = lines([Line("sgd", x=(1, 2), y=(0.5, 0.25))], xlabel="step", ylabel="loss (nats)", yscale="log")
>>> figure.axes[0].get_ylabel()
'loss (nats)'
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from optizoo.lab.pictures import (
    DARK,
    DPI,
    LIGHT,
    Style,
    Theme,
    as_percent,
    dress,
    entry,
    legend,
    plain,
    styles,
    usual_settings,
)

__all__ = ["Bar", "Line", "Mark", "bars", "contours", "growing", "heatmap", "images", "lines", "scatter"]

WIDTH = 5.6  # inches: narrower than the pictures of a comparison, for letters that can be read on a phone
FEW_POINTS = 25  # lines with more have no markers
CMAP = "cividis"  # even steps for colour-blind people too
Scale = Literal["linear", "log", "symlog"]
Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One line, with a band where ``low`` and ``high`` are given.

    Attributes:
        label: Decides colour and marker; an optimizer's name gives it the optimizer's own.
        x: Where the line has values.
        y: The values; ``None`` leaves a gap.
        low: Lower edge of the band.
        high: Upper edge of the band.
        panel: The title of the axes that it is drawn on.
        dashed: Draw it dashed and thinner, on top: a prediction beside what was measured.
    """

    label: str
    x: Sequence[float]
    y: Values
    low: Values = ()
    high: Values = ()
    panel: str = ""
    dashed: bool = False

    @classmethod
    def over_seeds(cls, label: str, x: Sequence[float], seeds: Sequence[Values], panel: str = "") -> "Line":
        """Return the mean over seeds, in a band from the lowest to the highest; a gap where a seed has no value."""
        columns = [[_number(value) for value in column] for column in zip(*seeds, strict=True)]
        columns = [column if all(map(math.isfinite, column)) else [math.nan] for column in columns]
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        return cls(label, x, [fmean(column) for column in columns], low, high, panel)


@dataclass(frozen=True)
class Bar:
    """One bar, with whiskers where ``low`` and ``high`` are given; the label decides its colour as a line's does."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Points:
    """Points of one class; the label decides colour and marker.

    Attributes:
        label: The class.
        x: Abscissas.
        y: Ordinates.
        panel: The title of the axes that they are drawn on.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    panel: str = ""


@dataclass(frozen=True)
class Mark:
    """A straight line across the axes: a theory's limit, the step of a change, or the lecture's number.

    Attributes:
        at: Where it stands.
        text: What is written along it.
        axis: ``"x"`` for an upright line at this x, ``"y"`` for a level one at this y.
    """

    at: float
    text: str
    axis: Literal["x", "y"] = "y"


@usual_settings
def lines(
    lines: Sequence[Line],
    *,
    xlabel: str,
    ylabel: str,
    xscale: Scale = "linear",
    yscale: Scale = "linear",
    marks: Sequence[Mark] = (),
    percent: bool = False,
    direct: bool = False,
    ylim: tuple[float, float] | None = None,
    columns: int = 2,
    height: float = 3.0,
    given: Mapping[str, Style] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw lines; those with the same ``panel`` share a pair of axes, and all axes one scale.

    Args:
        lines: The lines, at least one.
        xlabel: What x is, with its unit.
        ylabel: What y is, with its unit.
        xscale: Scale of x. On a logarithmic axis, values that are not positive are gaps; where all are, it is linear.
        yscale: Scale of y.
        marks: Lines across every panel.
        percent: Whether y holds fractions, to be shown as percentages.
        direct: Write each label at the end of its line instead of into a legend; for up to about six lines.
        ylim: Lower and upper end of y; by default all values are seen.
        columns: Panels beside each other.
        height: Of a panel, in inches.
        given: Style of each label; by default that of :func:`~optizoo.lab.pictures.styles`.
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: There is nothing to draw.
    """
    panels = list(dict.fromkeys(line.panel for line in lines))
    figure, axes = _axes(panels, theme, columns=columns, height=height)
    xscale = _scale(xscale, (x for line in lines for x in line.x))
    yscale = _scale(yscale, (y for line in lines for y in line.y))
    looks = given or styles(line.label for line in lines)
    shown: dict[str, Line2D] = {}
    for line in sorted(lines, key=lambda line: line.dashed):
        axis, look = axes[line.panel], looks[line.label]
        options: dict[str, Any] = {"color": look.colour, "linewidth": 1.8, "linestyle": look.line, "zorder": 2}
        if line.dashed:
            options |= {"linewidth": 1.2, "linestyle": (0, (2, 2)), "zorder": 3, "color": theme.ink}
        elif len(line.x) <= FEW_POINTS:
            options |= {"marker": look.marker, "markersize": 4}
        axis.plot(line.x, [*map(_number, line.y)], **options)
        if line.low:
            edges = [*map(_number, line.low)], [*map(_number, line.high)]
            axis.fill_between(line.x, *edges, color=look.colour, alpha=0.18, linewidth=0, zorder=1)
        if line.dashed:
            shown[line.label] = Line2D([], [], color=theme.ink, linewidth=1.2, linestyle=(0, (2, 2)))
        else:
            shown[line.label] = entry(look, "", line=look.line)
        shown[line.label].set_label(plain(line.label))
    for axis in axes.values():
        axis.set_xscale(xscale)
        axis.set_yscale(yscale)
        if ylim:
            axis.set_ylim(*ylim)
        for mark in marks:
            _draw_mark(axis, mark, theme)
        _number_log_axis(axis.xaxis)
        _number_log_axis(axis.yaxis)
        if percent:
            axis.yaxis.set_major_formatter(as_percent)
    whole = all(float(x).is_integer() for line in lines for x in line.x)
    _label(figure, axes, xlabel, ylabel, theme, columns=columns, whole=whole)
    if direct:
        for axis in axes.values():
            _label_ends(axis, [line for line in lines if axes[line.panel] is axis], looks, theme, log=yscale == "log")
    elif len(shown) > 1:
        legend(figure, list(shown.values()), theme, length=WIDTH * 15)
    return figure


@usual_settings
def bars(
    bars: Sequence[Bar],
    *,
    xlabel: str,
    xscale: Scale = "linear",
    percent: bool = False,
    marks: Sequence[Mark] = (),
    theme: Theme = LIGHT,
) -> Figure:
    """Draw level bars from top to bottom, with their numbers behind them; ``None`` leaves the place empty.

    Args:
        bars: The bars, at least one.
        xlabel: What is measured, with its unit.
        xscale: Scale of the lengths.
        percent: Whether values are fractions, to be shown as percentages.
        marks: Upright lines (``axis="x"``).
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not bars:
        raise ValueError("there is nothing to draw: bars is empty")
    figure, axes = _axes([""], theme, columns=1, height=0.32 * len(bars))
    axis, looks = axes[""], styles(bar.label for bar in bars)
    axis.grid(visible=False, axis="y")
    axis.set_xscale(xscale)
    for y, bar in enumerate(bars):
        if bar.value is None:
            continue
        axis.barh(y, bar.value, height=0.62, color=looks[bar.label].colour, zorder=2)
        if bar.low is not None and bar.high is not None:
            axis.hlines(y, bar.low, bar.high, color=theme.ink, linewidth=1.4, zorder=3)
        text = f"{100 * bar.value:.3g} %" if percent else f"{bar.value:.3g}"
        side, outer = (-1, min) if bar.value < 0 else (1, max)
        end = outer(each for each in (bar.value, bar.low, bar.high) if each is not None)
        number: dict[str, Any] = {"xytext": (4 * side, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        number["ha"] = "left" if side > 0 else "right"
        axis.annotate(text, (end, y), color=theme.ink, **number, **_on_paper(theme))
    axis.set_yticks(range(len(bars)), [plain(bar.label) for bar in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.margins(x=0.22 if any((bar.value or 0) < 0 for bar in bars) else 0.14)
    if percent:
        axis.xaxis.set_major_formatter(as_percent)
    for mark in marks:
        _draw_mark(axis, mark, theme)
    axis.set_xlabel(xlabel, color=theme.ink, fontsize=10)
    return figure


@usual_settings
def heatmap(
    values: Sequence[Values],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    xlabel: str,
    ylabel: str,
    unit: str,
    form: Callable[[float], str] = "{:.3g}".format,
    title: str = "",
    best: Literal["max", "min"] | None = None,
    limits: tuple[float, float] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw a table of numbers as coloured cells with the numbers in them.

    Args:
        values: A sequence of rows from top to bottom; ``None`` is a cell without a number, such as a run that diverged.
        columns: Names of the columns.
        rows: Names of the rows.
        xlabel: What the columns are.
        ylabel: What the rows are.
        unit: What the numbers are, with their unit: stands beside the colour bar.
        form: Writes a number into its cell.
        title: Stands above.
        best: Frame the largest or the smallest number.
        limits: The numbers at the ends of the colours, for maps that are compared; by default those of the table.
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: There is nothing to draw.
    """
    table = np.array([[_number(value) for value in row] for row in values], dtype=float)
    if table.size == 0:
        raise ValueError("there is nothing to draw: values is empty")
    figure, axes = _axes([title], theme, columns=1, height=0.42 * len(rows))
    axis = axes[title]
    axis.grid(visible=False)
    if title:
        axis.set_title(plain(title), fontsize=10, color=theme.ink, loc="left")
    finite = table[np.isfinite(table)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0))
    drawn = axis.imshow(table, cmap=CMAP, aspect="auto", vmin=low, vmax=high)
    bar = figure.colorbar(drawn, ax=axis, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]  # a patch, whatever the stubs say
    bar.ax.tick_params(colors=theme.ink, labelsize=9, length=0)
    bar.set_label(unit, color=theme.ink, fontsize=9.5)
    middle = (low + high) / 2
    for (y, x), value in np.ndenumerate(table):
        missing = not math.isfinite(value)
        colour = theme.ink if missing else "#000000" if value > middle else "#ffffff"
        axis.text(x, y, "–" if missing else form(float(value)), ha="center", va="center", fontsize=8.5, color=colour)
    if best and finite.size:
        y, x = np.unravel_index((np.nanargmax if best == "max" else np.nanargmin)(table), table.shape)
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2.4))
    axis.set_xticks(range(len(columns)), [plain(name) for name in columns])
    axis.set_yticks(range(len(rows)), [plain(name) for name in rows])
    axis.set_xlabel(xlabel, color=theme.ink, fontsize=10)
    axis.set_ylabel(ylabel, color=theme.ink, fontsize=10)
    return figure


@usual_settings
def images(
    pixels: Sequence[Any], *, labels: Sequence[str], columns: int = 5, size: float = 1.0, theme: Theme = LIGHT
) -> Figure:
    """Draw small images in a grid, each under its label.

    Args:
        pixels: Arrays (height, width, 3) of red, green and blue, or (height, width) of grey, from 0 to 1.
        labels: One for each image.
        columns: Images beside each other.
        size: Of an image, in inches.
        theme: Colours of paper and ink.

    Raises:
        ValueError: There is nothing to draw, or the labels are not as many as the images.
    """
    if not len(pixels):
        raise ValueError("there is nothing to draw: pixels is empty")
    rows = math.ceil(len(pixels) / columns)
    figure = Figure(figsize=(WIDTH, rows * (size + 0.25)), dpi=DPI, layout="constrained", facecolor=theme.paper)
    grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in grid:
        axis.set_axis_off()
    for axis, image, label in zip(grid[: len(pixels)], pixels, labels, strict=True):
        axis.imshow(np.clip(np.asarray(image, dtype=float), 0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(plain(label), fontsize=9, color=theme.ink)
    return figure


@usual_settings
def contours(
    x: Sequence[float],
    y: Sequence[float],
    z: Sequence[Values],
    *,
    paths: Sequence[Line] = (),
    points: Mapping[str, tuple[float, float]] | None = None,
    xlabel: str,
    ylabel: str,
    unit: str,
    log: bool = False,
    levels: int = 14,
    title: str = "",
    equal: bool = False,
    given: Mapping[str, Style] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw a function of two variables as lines of equal height, and paths over it.

    Args:
        x: Abscissas of the grid, increasing.
        y: Ordinates of the grid, increasing.
        z: Heights: a row for each ``y``, a value for each ``x``.
        paths: Lines from their first point on, which has a hollow marker, to their last, which has a full one.
        points: Further places by name, such as a known optimum, marked with a star.
        xlabel: What x is.
        ylabel: What y is.
        unit: What the height is, with its unit: stands beside the colour bar.
        log: Space the levels evenly in the logarithm of the height above its minimum.
        levels: Number of levels.
        title: Stands above.
        equal: One unit of x is as long as one of y.
        given: Style of each path's label; by default that of :func:`~optizoo.lab.pictures.styles`.
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: There is nothing to draw.
    """
    heights = np.array([[_number(value) for value in row] for row in z], dtype=float)
    if heights.size == 0:
        raise ValueError("there is nothing to draw: z is empty")
    figure, axes = _axes([title], theme, columns=1, height=3.6)
    axis = axes[title]
    axis.grid(visible=False)
    if title:
        axis.set_title(plain(title), fontsize=10, color=theme.ink, loc="left")
    finite = heights[np.isfinite(heights)]
    low, high = float(finite.min()), float(finite.max())
    steps = np.linspace(low, high, levels)
    if log and high > low:
        steps = low + np.geomspace((high - low) * 1e-4, high - low, levels)
    # Colours by rank, of the part of the map that can be seen on this paper.
    shades = colormaps[CMAP](np.linspace(0.3, 1.0, levels) if theme == DARK else np.linspace(0.0, 0.85, levels))
    drawn = axis.contour(x, y, heights, levels=steps, colors=shades, linewidths=0.9)
    bar = figure.colorbar(drawn, ax=axis, fraction=0.05, pad=0.02, format="%.3g")
    bar.outline.set_visible(False)  # type: ignore[operator]  # a patch, whatever the stubs say
    bar.ax.tick_params(colors=theme.ink, labelsize=9, length=0)
    bar.ax.set_facecolor(theme.paper)
    bar.set_label(unit, color=theme.ink, fontsize=9.5)
    limits = axis.get_xlim(), axis.get_ylim()
    looks = given or styles(path.label for path in paths)
    entries = []
    for path in paths:
        look, ys = looks[path.label], [*map(_number, path.y)]
        axis.plot(path.x, ys, color=look.colour, linewidth=1.4, linestyle=look.line, zorder=3, gid=f"{path.label} path")
        for index, face, end in ((0, theme.paper, "start"), (-1, look.colour, "end")):
            axis.plot(
                [path.x[index]],
                [ys[index]],
                look.marker,
                color=look.colour,
                markerfacecolor=face,
                markersize=6,
                zorder=4,
                gid=f"{path.label} {end}",
            )
        entries.append(entry(look, path.label, line=look.line))
    for name, (px, py) in (points or {}).items():
        axis.plot(px, py, "*", color=theme.ink, markersize=11, zorder=5)
        place: dict[str, Any] = {"xytext": (7, 6), "textcoords": "offset points", "fontsize": 9, "zorder": 6}
        axis.annotate(plain(name), (px, py), color=theme.ink, **place, **_on_paper(theme))
    axis.set_xlim(*limits[0])
    axis.set_ylim(*limits[1])
    if equal:
        axis.set_aspect("equal")
    axis.set_xlabel(xlabel, color=theme.ink, fontsize=10)
    axis.set_ylabel(ylabel, color=theme.ink, fontsize=10)
    if entries:
        legend(figure, entries, theme, length=WIDTH * 15)
    return figure


@usual_settings
def scatter(
    points: Sequence[Points],
    *,
    xlabel: str,
    ylabel: str,
    scores: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[Values]]] | None = None,
    marks: Sequence[Mark] = (),
    height: float = 2.6,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw points of several classes; those with the same ``panel`` share a pair of axes, and all axes one scale.

    Args:
        points: The points, at least one group.
        xlabel: What x is.
        ylabel: What y is.
        scores: For a panel, abscissas, ordinates and a table of scores (a row for each ordinate): the line where the
            score is 0 is drawn, and the plane tinted by its sign, negative in the colour of the first label.
        marks: Lines across every panel.
        height: Of a panel, in inches.
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: There is nothing to draw.
    """
    figure, axes = _axes(list(dict.fromkeys(group.panel for group in points)), theme, columns=2, height=height)
    looks = styles(group.label for group in points)
    for group in points:
        look = looks[group.label]
        axes[group.panel].scatter(
            group.x, group.y, s=14, marker=look.marker, color=look.colour, alpha=0.8, linewidths=0, zorder=3
        )
    tints = [look.colour for look in looks.values()][:2]
    for panel, (x, y, z) in (scores or {}).items():
        table = np.array([[_number(value) for value in row] for row in z], dtype=float)
        axes[panel].contourf(x, y, table, levels=[-math.inf, 0.0, math.inf], colors=tints, alpha=0.16, zorder=1)
        axes[panel].contour(x, y, table, levels=[0.0], colors=[theme.ink], linewidths=1.2, zorder=2)
    for axis in axes.values():
        for mark in marks:
            _draw_mark(axis, mark, theme)
    _label(figure, axes, xlabel, ylabel, theme, columns=2, whole=False)
    legend(figure, [entry(look, label, line="") for label, look in looks.items()], theme, length=WIDTH * 15)
    return figure


def growing(figure: Figure, paths: Sequence[Line], frames: int = 24) -> Iterator[Figure]:
    """Yield a figure of :func:`contours` again and again, while its paths grow from their first point to their last.

    Args:
        figure: The figure; it is changed.
        paths: The paths that it was drawn with.
        frames: Number of frames. Their times are evenly spaced in the square root: the first steps are slower.
    """
    artists = {artist.get_gid(): artist for axis in figure.axes for artist in axis.lines}
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # paths that leave the box would move it
    for frame in range(frames):
        for path in paths:
            end = round((len(path.x) - 1) * (frame / max(1, frames - 1)) ** 2) + 1
            ys = [*map(_number, path.y)]
            artists[f"{path.label} path"].set_data(path.x[:end], ys[:end])
            artists[f"{path.label} end"].set_data([path.x[end - 1]], [ys[end - 1]])
        yield figure


def _scale(wanted: Scale, values: Iterable[float | None]) -> Scale:
    return (
        wanted if wanted != "log" or any(value is not None and 0 < value < math.inf for value in values) else "linear"
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _axes(names: Sequence[str], theme: Theme, *, columns: int, height: float) -> tuple[Figure, dict[str, Axes]]:
    """Make a figure with a pair of axes for each name, all on one scale."""
    if not names:
        raise ValueError("there is nothing to draw: give at least one line")
    columns = min(columns, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 0.75 + height * rows), dpi=DPI, layout="constrained", facecolor=theme.paper)
    grid: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for unused in grid[len(names) :]:
        unused.remove()
    axes = dict(zip(names, grid, strict=False))
    for name, axis in axes.items():
        dress(axis, theme)
        if len(names) > 1:
            axis.set_title(plain(name), fontsize=10, color=theme.ink, loc="left")
    return figure, axes


def _label(
    figure: Figure, axes: Mapping[str, Axes], xlabel: str, ylabel: str, theme: Theme, *, columns: int, whole: bool
) -> None:
    for index, axis in enumerate(axes.values()):
        if index + columns >= len(axes):  # nothing below it
            axis.tick_params(labelbottom=True)
            axis.set_xlabel(xlabel, color=theme.ink, fontsize=10)
        if axis.get_xscale() == "linear":
            axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))
    if len(axes) == 1:
        next(iter(axes.values())).set_ylabel(ylabel, color=theme.ink, fontsize=10)
    else:
        figure.supylabel(ylabel, color=theme.ink, fontsize=10)


def _number_log_axis(axis: XAxis | YAxis) -> None:
    """Write plain numbers on a logarithmic axis: powers of ten, and steps between them where it spans under two."""
    low, high = axis.get_view_interval()
    if axis.get_scale() != "log" or not 1e-3 <= low < high < 2e4:
        return
    few, some, many = (1.0,), (1.0, 2.0, 3.0, 5.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=few if high > 100 * low else some if high > 6 * low else many))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw_mark(axis: Axes, mark: Mark, theme: Theme) -> None:
    options: dict[str, Any] = {"color": theme.ink, "linewidth": 1.0, "linestyle": (0, (1, 2)), "zorder": 1.5}
    text: dict[str, Any] = _on_paper(theme) | {
        "textcoords": "offset points",
        "fontsize": 8.5,
        "color": theme.ink,
        "zorder": 5,
    }
    if mark.axis == "x":
        axis.axvline(mark.at, **options)
        text |= {"xy": (mark.at, 1), "xycoords": axis.get_xaxis_transform(), "xytext": (3, -3), "va": "top"}
    else:
        axis.axhline(mark.at, **options)
        text |= {"xy": (0, mark.at), "xycoords": axis.get_yaxis_transform(), "xytext": (3, 3), "va": "bottom"}
    axis.annotate(plain(mark.text), **text)


def _on_paper(theme: Theme) -> dict[str, Any]:
    """Return the options of a text that lines may cross."""
    return {"bbox": {"facecolor": theme.paper, "alpha": 0.75, "linewidth": 0, "pad": 0.6}}


def _label_ends(axis: Axes, lines: Sequence[Line], looks: Mapping[str, Style], theme: Theme, *, log: bool) -> None:
    """Write labels to the right of the ends of lines, moved apart where they would lie on each other."""
    gap = 12.5 / (72 * axis.get_figure().get_figheight() * 0.85)  # type: ignore[union-attr]
    low, high = axis.get_ylim()
    scale = math.log if log else float
    ends = []
    for line in lines:
        points = [(x, _number(y)) for x, y in zip(line.x, line.y, strict=True)]
        points = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]
        if points:
            height = (scale(points[-1][1]) - scale(low)) / (scale(high) - scale(low))
            ends.append((min(max(height, 0.0), 1.0), line))
    ends.sort(key=lambda end: end[0])
    places = [height for height, _ in ends]
    for _ in range(50):  # neighbours push each other apart, until all have room
        for index in range(1, len(places)):
            if (overlap := gap - (places[index] - places[index - 1])) > 0:
                places[index - 1] -= overlap / 2
                places[index] += overlap / 2
    for place, (_, line) in zip(places, ends, strict=True):
        colour = theme.ink if line.dashed else looks[line.label].colour
        axis.annotate(
            plain(line.label),
            (1, place),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=colour,
        )
