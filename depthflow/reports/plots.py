"""Charts of a few groups over each other, as SVG: sharp at any size, and the same bytes for the same figures.

Groups differ in colour and in the way their lines are drawn, so that black and white print tells them apart, too.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Of Okabe and Ito, told apart by colour-blind readers."""
GROUP_LINES = ("-", "--", ":", "-.")
GROUP_MARKERS = ("o", "s", "^", "D")
FIGURE_INCHES = (6.4, 3.2)


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts as shares of their sum; all 0 where there is none."""
    return counts / max(int(counts.sum()), 1)


def show_text_as_it_is(figure: Figure) -> None:
    """Keeps Matplotlib from taking what is between two $, such as a model's folder may have, for mathematics."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue]


def draw_histograms(
    edges: np.ndarray,
    groups: Mapping[str, np.ndarray],
    *,
    x_label: str,
    y_label: str,
    x_axis: Literal["linear", "logarithmic", "percent"] = "linear",
) -> bytes:
    """Draws each group's share of its own sum, so that large and small groups compare.

    Args:
        edges: (n + 1,) rising; all > 0 where the axis is logarithmic.
        groups: label to (n,) counts.
        x_axis: how the horizontal axis is spaced and labelled; percent takes edges in 0 to 1.

    Returns:
        An SVG file.
    """
    figure, axis = _chart(x_label, y_label)
    for (label, counts), colour, line, _ in _styled(groups):
        axis.stairs(shares(counts), edges, fill=True, color=colour, alpha=0.15)
        axis.stairs(shares(counts), edges, color=colour, linewidth=1.4, linestyle=line, label=label)
    if x_axis == "percent":
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    if x_axis == "logarithmic":
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(float(edges[0]), float(edges[-1]))
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.legend(frameon=False)
    return _to_svg(figure)


def draw_ranges(
    labels: Sequence[str],
    groups: Mapping[str, np.ndarray],
    *,
    x_label: str,
    y_label: str,
    zero_line: bool = False,
) -> bytes:
    """Draws a share for each of a few ranges, such as a relative error by depth.

    Args:
        labels: n names of ranges.
        groups: label to (n,) shares; NaN where a range holds nothing.
        zero_line: whether shares may be negative, and 0 is marked.

    Returns:
        An SVG file.
    """
    figure, axis = _chart(x_label, y_label)
    places = np.arange(len(labels))
    for (label, shares_), colour, line, marker in _styled(groups):
        axis.plot(places, shares_, linestyle=line, marker=marker, markersize=4, color=colour, label=label)
    axis.set_xticks(places, labels, fontsize=8)
    if zero_line:
        axis.axhline(0.0, color="0.3", linewidth=0.8)
    else:
        axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.legend(frameon=False)
    return _to_svg(figure)


def draw_curves(
    x: np.ndarray, groups: Mapping[str, np.ndarray], *, x_label: str, y_label: str, marks: Sequence[float] = ()
) -> bytes:
    """Draws shares from 0 to 1 as functions of one variable.

    Args:
        x: (n,) rising.
        groups: label to (n,) shares.
        marks: places on the axis that a thin line marks.

    Returns:
        An SVG file.
    """
    figure, axis = _chart(x_label, y_label)
    for (label, values), colour, line, _ in _styled(groups):
        axis.plot(x, values, linestyle=line, color=colour, label=label)
    for mark in marks:
        axis.axvline(mark, color="0.5", linewidth=0.8)
    axis.set_xlim(float(x[0]), float(x[-1]))
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.legend(frameon=False)
    return _to_svg(figure)


def _chart(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    axis = figure.subplots()
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _styled(groups: Mapping[str, np.ndarray]) -> list[tuple[tuple[str, np.ndarray], str, str, str]]:
    """Each group with its colour, line and marker; after four groups the lines are shifted against the colours."""
    kinds = len(GROUP_COLOURS)
    places = [(k % kinds, (k + k // kinds) % kinds) for k in range(len(groups))]
    return [
        (group, GROUP_COLOURS[colour], GROUP_LINES[shape], GROUP_MARKERS[shape])
        for group, (colour, shape) in zip(groups.items(), places, strict=True)
    ]


def _to_svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    show_text_as_it_is(figure)
    with rc_context({"svg.hashsalt": "depthflow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
