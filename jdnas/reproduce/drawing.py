"""Figures as SVG: lines, bars and stacked bars in one or two panels. The same data give the same file."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 6.4, 3.6  # inches of one panel


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, or `steps` that hold until the next; a name is an entry of the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    thin: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar for each group of a panel."""

    name: str
    heights: Sequence[float]
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: lines, or bars side by side (`stacked`: on top of each other) over `groups`, or boxes of `samples` over them."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...] = ()
    bars: tuple[Bars, ...] = ()
    groups: tuple[str, ...] = ()
    samples: tuple[Sequence[float], ...] = ()
    stacked: bool = False


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Return an SVG with the panels side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jdnas", "font.size": 9}):
        figure, axes = pyplot.subplots(1, len(panels), figsize=(WIDTH * len(panels), HEIGHT), layout="constrained", squeeze=False)
        figure.suptitle("\n".join(textwrap.wrap(title, 80 * len(panels))), fontsize=10)
        for panel, axis in zip(panels, axes[0], strict=True):
            _draw(panel, axis)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return buffer.getvalue()


def _draw(panel: Panel, axis: Any) -> None:
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel(panel.x_title)
    axis.set_ylabel(panel.y_title)
    axis.spines[["top", "right"]].set_visible(False)
    for line in panel.lines:
        width = 0.8 if line.thin else 2.0
        style = "steps-post" if line.steps else "default"
        axis.plot(
            line.x,
            line.y,
            color=line.colour,
            linewidth=width,
            alpha=0.4 if line.thin else 1,
            label=line.name or None,
            marker=".",
            drawstyle=style,
        )
    places = range(len(panel.groups))
    base, wide = [0.0] * len(panel.groups), 0.8 / max(1, len(panel.bars))
    for index, bars in enumerate(panel.bars):
        shift = 0.0 if panel.stacked else (index - (len(panel.bars) - 1) / 2) * wide
        axis.bar(
            [place + shift for place in places], bars.heights, 0.7 if panel.stacked else wide, bottom=base if panel.stacked else None,
            color=bars.colour, label=bars.name,
        )  # fmt: skip
        base = [low + height for low, height in zip(base, bars.heights, strict=True)]
    if panel.samples:
        axis.boxplot(list(panel.samples), positions=list(places), widths=0.5)
    if panel.lines and not panel.samples:
        axis.xaxis.get_major_locator().set_params(integer=True)
    if panel.groups:
        axis.set_xticks(list(places), panel.groups)
    if axis.get_legend_handles_labels()[0]:
        beside = {"bbox_to_anchor": (1, 1), "loc": "upper left"} if panel.stacked else {}
        axis.legend(frameon=False, fontsize=8, **beside)
