"""Pictures of a comparison: curves over epochs, learning rates over steps, accuracies seed by seed.

Every function returns a :class:`matplotlib.figure.Figure` and leaves the settings of matplotlib alone. An optimizer has
one colour and one marker in all pictures, from :func:`styles`. The colours are Okabe and Ito's, which colour-blind
people can tell apart (https://jfly.uni-koeln.de/color/), without the yellow that white paper swallows.
:mod:`optizoo.lab.plots` has the pictures of the experiments, in the same dress.

>>> curve = Curve("adam", "cosine", x=(1, 2), seeds=((2.0, 1.5), (2.2, 1.4)))
>>> figure = curves([curve], ylabel="training loss", styles=styles(["adam"]))
>>> png(figure)[1:4]
b'PNG'
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from PIL import Image

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 6.6  # inches; at DPI it is as wide as a page on a screen
DPI = 155
MANY_EPOCHS = 20  # above this, curves have no markers
LEGEND_LENGTH = 100  # characters that fit beside each other
KEY_LENGTH = 7  # what an entry takes beside its label, in characters
# A page looks the same for everybody, whatever a matplotlibrc says: this decorates all that draws or paints.
usual_settings = rc_context({name: each for name, each in rcParamsDefault.items() if not name.startswith("backend")})
LOG_FROM = 8.0  # losses that span a larger ratio are drawn on a logarithmic axis


@dataclass(frozen=True)
class Style:
    """How one optimizer is drawn, everywhere. Colour and marker tell it apart; the line style helps where it is free.

    Attributes:
        colour: As matplotlib takes it.
        marker: Likewise.
        line: Likewise; comparisons ignore it, as their twins are dashed.
    """

    colour: str
    marker: str
    line: str = "-"


BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, GREY = COLOURS
# One colour a family; inside it, markers and line styles.
OPTIMIZER_STYLES = {
    "sgd": Style(BLUE, "o"),
    "momentum": Style(SKY, "s"),
    "nesterov": Style(PINK, "^"),
    "signum": Style(PINK, "D", "-."),
    "lion": Style(PINK, "v", ":"),
    "rprop": Style(PINK, "P", "--"),
    "adagrad": Style(GREEN, "D", "--"),
    "adadelta": Style(GREEN, "v", ":"),
    "rmsprop": Style(GREEN, "^"),
    "adam": Style(VERMILION, "s"),
    "adabelief": Style(ORANGE, "s", "--"),
    "yogi": Style(ORANGE, "^", "-."),
    "qhadam": Style(VERMILION, "P", "--"),
    "adamax": Style(VERMILION, "^", "--"),
    "nadam": Style(VERMILION, "D", "-."),
    "radam": Style(VERMILION, "v", ":"),
    "adopt": Style(ORANGE, "v", ":"),
    "adan": Style(SKY, "^", "--"),
    "ademamix": Style(SKY, "v", ":"),
    "schedulefreesgd": Style(BLUE, "^", "--"),
    "schedulefreeadamw": Style(BLUE, "v", ":"),
    "prodigy": Style(SKY, "P", "-."),
    "adamw": Style(ORANGE, "D"),
    "lars": Style(SKY, "D", "-."),
    "cautiousadamw": Style(GREEN, "s", "--"),
    "stableadamw": Style(GREEN, "o", ":"),
    "lamb": Style(GREEN, "P", "-."),
    "asgd": Style(BLUE, "s", "-."),
    "adafactor": Style(GREEN, "X", "-."),
    "muon": Style(PINK, "X"),
    "normuon": Style(PINK, "*", "--"),
    "newton": Style(GREY, "o"),
    "gauss_newton": Style(GREY, "^", "--"),
    "newton_cg": Style(GREY, "D", "-."),
    "lbfgs": Style(GREY, "s", ":"),
}


@dataclass(frozen=True)
class Theme:
    """The colours that are not an optimizer's."""

    paper: str
    ink: str
    grid: str


LIGHT = Theme(paper="#ffffff", ink="#24292f", grid="#dfe3e8")
DARK = Theme(paper="#161b22", ink="#d7dde4", grid="#30363d")


@dataclass(frozen=True)
class Curve:
    """One line: a quantity of one optimizer under one schedule, over several seeds.

    Attributes:
        label: The optimizer; decides colour and marker.
        panel: The schedule; each has its own pair of axes.
        x: Epochs, increasing.
        seeds: For each seed the values at ``x``; a run that stopped early has fewer.
        twin: Whether these runs are those of ``torch.optim``: drawn dashed, on top.
    """

    label: str
    panel: str
    x: Sequence[float]
    seeds: Sequence[Sequence[float]]
    twin: bool = False


@dataclass(frozen=True)
class Dots:
    """One row of :func:`accuracies`: the results of one optimizer, one dot a seed.

    Attributes:
        label: The optimizer; decides colour and marker.
        name: What stands beside the row.
        seeds: Accuracies from 0 to 1.
        twins: The same of the twins; empty where there are none.
    """

    label: str
    name: str
    seeds: Sequence[float]
    twins: Sequence[float] = ()


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Give each label its style: that of :data:`OPTIMIZER_STYLES` to the optimizers in it, to others what is left.

    Others get, in order, a colour that is least in use, and a pair of colour and marker that is free; pairs repeat only
    after 56 labels.

    >>> styles(["mine", "adam"])
    {'mine': Style(colour='#0072b2', marker='o', line='-'), 'adam': Style(colour='#d55e00', marker='s', line='-')}
    """
    names = list(dict.fromkeys(labels))
    known = {name: OPTIMIZER_STYLES[name.lower()] for name in names if name.lower() in OPTIMIZER_STYLES}
    free = [(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(len(COLOURS) * len(MARKERS))]
    pairs = [pair for pair in free if pair not in {(style.colour, style.marker) for style in known.values()}]
    uses = Counter(style.colour for style in known.values())
    chosen = dict(known)
    for name in names:
        if name not in known:
            pairs = pairs or free[:]
            pair = min(pairs, key=lambda pair: uses[pair[0]])
            pairs.remove(pair)
            uses[pair[0]] += 1
            chosen[name] = Style(*pair)
    return {name: chosen[name] for name in names}


@usual_settings
def curves(
    lines: Sequence[Curve],
    *,
    ylabel: str,
    styles: Mapping[str, Style],
    xlabel: str = "epoch",
    percent: bool = False,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw curves over epochs: the mean over seeds as a line, from the lowest to the highest seed as a band.

    Curves with the same ``panel`` share a pair of axes; all axes have one scale. A curve ends where its first seed ends
    or leaves the finite numbers. The scale follows the curves that reach the last epoch, so that one run that diverges
    does not flatten the others; it is logarithmic if these span more than a factor of eight and are no percentages.

    Args:
        lines: The curves, at least one.
        ylabel: What is drawn, with its unit.
        styles: From :func:`styles`, for every label.
        xlabel: What ``x`` counts.
        percent: Whether values are fractions, to be shown as percentages.
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: ``lines`` is empty.
    """
    panels = list(dict.fromkeys(line.panel for line in lines))
    figure, axes = _panels(panels, theme, height=3.6 if len(panels) == 1 else 2.1)
    twins = {(line.label, line.panel) for line in lines if line.twin}
    bands = False
    for line in sorted(lines, key=lambda line: line.twin):
        axis, style = axes[line.panel], styles[line.label]
        columns = _finite_columns(line)
        x = list(line.x)[: len(columns)]
        mean = [fmean(column) for column in columns]
        marker = style.marker if len(line.x) <= MANY_EPOCHS else ""
        if line.twin:
            axis.plot(x, mean, color=style.colour, linewidth=1.5, linestyle=(0, (4, 3)), zorder=3)
            continue
        width, alpha = (3.5, 0.45) if (line.label, line.panel) in twins else (1.8, 1.0)
        axis.plot(x, mean, color=style.colour, linewidth=width, alpha=alpha, zorder=2)
        axis.plot(x, mean, color=style.colour, linewidth=0, marker=marker, markersize=4.5, zorder=4)
        if len(line.seeds) > 1:
            bands = True
            low, high = [min(column) for column in columns], [max(column) for column in columns]
            axis.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0, zorder=1)
    first = axes[panels[0]]
    _scale(first, lines, percent=percent)
    _name_axes(figure, xlabel, ylabel, theme)
    drawn = {line.label for line in lines}
    entries = [entry(style, label) for label, style in styles.items() if label in drawn]
    if twins:
        entries.append(Line2D([], [], color=theme.ink, linewidth=1.5, linestyle=(0, (4, 3)), label="torch.optim twin"))
    if bands:
        entries.append(Line2D([], [], color=theme.ink, linewidth=7, alpha=0.15, label="range over seeds"))
    legend(figure, entries, theme)
    return figure


@usual_settings
def accuracies(rows: Sequence[Dots], *, styles: Mapping[str, Style], theme: Theme = LIGHT) -> Figure:
    """Draw final test accuracies, one row an optimizer, one dot a seed, a bar at the mean; twins as hollow dots below.

    Args:
        rows: The rows from top to bottom, at least one; a row without results keeps its place.
        styles: From :func:`styles`, for every label.
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: ``rows`` is empty.
    """
    if not rows:
        raise ValueError("there is nothing to draw: rows is empty")
    figure = Figure(figsize=(WIDTH, 1.0 + 0.34 * len(rows)), dpi=DPI, layout="constrained", facecolor=theme.paper)
    axis = figure.add_subplot()
    dress(axis, theme)
    axis.grid(visible=False, axis="y")
    for y, row in enumerate(rows):
        style = styles[row.label]
        shift = 0.16 if row.twins else 0.0
        for values, offset, hollow in ((row.seeds, -shift, False), (row.twins, shift, True)):
            face = theme.paper if hollow else style.colour
            axis.scatter(
                values, [y + offset] * len(values), s=26, marker="o", facecolor=face, edgecolor=style.colour, zorder=3
            )
            if values:
                middle = fmean(values)
                axis.vlines(middle, y + offset - 0.15, y + offset + 0.15, color=theme.ink, linewidth=1.6, zorder=4)
    axis.set_yticks(range(len(rows)), [plain(row.name) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.xaxis.set_major_formatter(as_percent)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.margins(x=0.06)
    axis.set_xlabel("test accuracy (%)", color=theme.ink)
    entries = [
        Line2D([], [], color=theme.ink, linewidth=0, marker="o", markersize=5, label="one seed"),
        Line2D([], [], color=theme.ink, linewidth=0, marker="|", markersize=9, markeredgewidth=1.6, label="mean"),
    ]
    if any(row.twins for row in rows):
        hollow = Line2D([], [], color=theme.ink, linewidth=0, marker="o", markersize=5, markerfacecolor=theme.paper)
        hollow.set_label("torch.optim twin")
        entries.insert(1, hollow)
    legend(figure, entries, theme)
    return figure


@usual_settings
def schedules(factors: Mapping[str, Sequence[float]], *, theme: Theme = LIGHT) -> Figure:
    """Draw schedules, one panel each: the factor of the base learning rate over the steps of the run, from step 0.

    Args:
        factors: For each schedule the factors at steps 0, 1, 2 ...
        theme: Colours of paper, ink and grid.

    Raises:
        ValueError: ``factors`` is empty.
    """
    figure, axes = _panels(list(factors), theme, height=1.7)
    for name, values in factors.items():
        axes[name].plot(range(len(values)), values, color=theme.ink, linewidth=1.6)
    _name_axes(figure, "step", "factor of the base lr", theme)
    return figure


@usual_settings
def png(figure: Figure) -> bytes:
    """Return the figure as PNG with a palette of 256 colours, a third of the size of one without.

    It holds no date and no version: the same figure gives the same bytes.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = BytesIO()
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


@usual_settings
def gif(figures: Iterable[Figure], *, seconds: float = 0.12, pause: float = 2.0) -> bytes:
    """Return figures as the frames of an animation that runs again and again, half as wide as a PNG.

    Args:
        figures: The frames, at least one; may be one figure that changes between them.
        seconds: Time of a frame.
        pause: Time of the last one.
    """
    frames = []
    for figure in figures:
        figure.set_dpi(DPI / 2)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    # All frames share the colours of the last, in which everything is drawn.
    palette = frames[-1].quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    times = [round(1000 * seconds)] * len(others) + [round(1000 * pause)]
    buffer = BytesIO()
    first.save(buffer, "gif", save_all=True, append_images=others, duration=times, loop=0, optimize=True)
    return buffer.getvalue()


@usual_settings
def svg(figure: Figure) -> bytes:
    """Return the figure as SVG. It holds no date and no version: the same figure gives the same bytes."""
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "optizoo", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _panels(names: Sequence[str], theme: Theme, *, height: float) -> tuple[Figure, dict[str, Axes]]:
    """Make a figure with one pair of axes for each name, at most three beside each other, all on one scale."""
    if not names:
        raise ValueError("there is nothing to draw: give at least one curve")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + height * rows), dpi=DPI, layout="constrained", facecolor=theme.paper)
    grid: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    axes = dict(zip(names, grid, strict=False))
    for unused in grid[len(names) :]:
        unused.remove()
    for index, (name, axis) in enumerate(axes.items()):
        dress(axis, theme)
        axis.tick_params(labelbottom=index + columns >= len(names))
        if len(names) > 1:
            axis.set_title(plain(name), fontsize=10, color=theme.ink, loc="left")
    return figure, axes


def _name_axes(figure: Figure, xlabel: str, ylabel: str, theme: Theme) -> None:
    for axis in figure.axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if axis.xaxis.get_tick_params()["labelbottom"]:
            axis.set_xlabel(xlabel, color=theme.ink, fontsize=10)
    figure.supylabel(ylabel, color=theme.ink, fontsize=10)


def dress(axis: Axes, theme: Theme) -> None:
    """Give the axes the colours of the theme, a grid, and no frame but the line below."""
    axis.set_facecolor(theme.paper)
    axis.grid(visible=True, color=theme.grid, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=theme.ink, which="both", labelsize=9.5, length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)


def _scale(axis: Axes, lines: Sequence[Curve], *, percent: bool) -> None:
    """Fit the shared vertical axis to the curves that reach the end, or to all if none does."""
    end = max(len(line.x) for line in lines)
    columns = {id(line): _finite_columns(line) for line in lines}
    whole = [line for line in lines if len(columns[id(line)]) == end] or lines
    values = [value for line in whole for column in columns[id(line)] for value in column]
    if not values:
        return
    low, high = min(values), max(values)
    if percent:
        axis.yaxis.set_major_formatter(as_percent)
    if not percent and low > 0 and high / low > LOG_FROM:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.set_ylim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
    else:
        room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        axis.set_ylim(low - room, high + room)


def _finite_columns(line: Curve) -> list[list[float]]:
    """Return for each ``x`` the values of all seeds, up to the first place where one is missing or not finite."""
    columns = []
    for column in zip(*line.seeds, strict=False):
        if not all(map(math.isfinite, column)):
            break
        columns.append(list(column))
    return columns


def as_percent(fraction: float, _position: float | None = None) -> str:
    """Write a fraction as a percentage, for an axis whose label has the sign."""
    return f"{100 * fraction:.6g}"


def entry(style: Style, label: str, *, line: Any = "-") -> Line2D:
    """Return what stands for a label in a legend, drawn as ``line`` says."""
    return Line2D(
        [], [], color=style.colour, linewidth=2.2, linestyle=line, marker=style.marker, markersize=5, label=plain(label)
    )


def legend(figure: Figure, entries: Sequence[Line2D], theme: Theme, *, length: float = LEGEND_LENGTH) -> None:
    """Put a legend above the figure, in up to four columns, as many as fit into ``length`` characters."""
    lengths = [len(str(entry.get_label())) + KEY_LENGTH for entry in entries]
    columns = 4
    while columns > 1:
        rows = math.ceil(len(entries) / columns)
        if sum(max(lengths[start : start + rows]) for start in range(0, len(lengths), rows)) <= length:
            break
        columns -= 1
    figure.legend(
        handles=list(entries),
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=theme.ink,
    )


def plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics, and a leading underscore as 'not in the legend'."""
    return text.replace("$", r"\$") if not text.startswith("_") else f" {text}".replace("$", r"\$")
