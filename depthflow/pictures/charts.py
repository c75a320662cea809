"""Histograms of a few groups over each other, as SVG: sharp at any size, and the same bytes for the same counts."""

import io
from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Of Okabe and Ito, told apart by colour-blind readers."""
FIGURE_INCHES = (6.4, 3.2)


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts as shares of their sum; all 0 where there is none."""
    return counts / max(int(counts.sum()), 1)


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
        groups: label to (n,) counts; at most four.
        x_axis: how the horizontal axis is spaced and labelled; percent takes edges in 0 to 1.

    Returns:
        An SVG file.

    Raises:
        ValueError: if there are more groups than colours.
    """
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    axis = figure.subplots()
    colours = GROUP_COLOURS[: len(groups)]
    for (label, counts), colour in zip(groups.items(), colours, strict=True):
        axis.stairs(shares(counts), edges, fill=True, color=colour, alpha=0.15)
        axis.stairs(shares(counts), edges, color=colour, linewidth=1.4, label=label)
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
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return _to_svg(figure)


def _to_svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "depthflow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
