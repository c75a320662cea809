"""A photograph beside its depth maps, all on one colour scale with a bar in metres; invalid pixels are grey.

The colour map is cividis, made for colour-blind readers and monotonic in print (Nunez et al. 2018,
doi:10.1371/journal.pone.0199239), on a logarithmic scale: near differences matter as far ones do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

DEPTH_COLOURS = "cividis_r"
ERROR_COLOURS = "RdBu_r"
INVALID_GREY = "0.6"
SCALE_PERCENTILES = (1.0, 99.0)
ERROR_LIMIT = 0.5


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """A depth map to draw.

    Attributes:
        title: above the picture.
        depth_m: (H, W) float, metres.
        valid_mask: (H, W) bool, or None where all is valid.
    """

    title: str
    depth_m: np.ndarray
    valid_mask: np.ndarray | None = None

    @property
    def masked(self) -> np.ma.MaskedArray:
        """The depth with invalid pixels masked."""
        invalid = np.zeros(self.depth_m.shape, bool) if self.valid_mask is None else ~self.valid_mask
        return np.ma.array(self.depth_m, mask=invalid)


def draw_panel(path: Path, *, rgb: np.ndarray, maps: Sequence[DepthMap], title: str = "") -> None:
    """Draws a photograph and depth maps side by side, on one scale, into a PNG file.

    Where there are two maps, the first the truth, a third picture shows the signed relative error of the second.

    Args:
        path: the .png file.
        rgb: (H, W, 3) uint8.
        maps: one or more, of the photograph's size.
        title: of the whole panel.
    """
    has_error = len(maps) == 2
    count = 1 + len(maps) + has_error
    aspect = rgb.shape[0] / rgb.shape[1]
    figure = Figure(figsize=(3.4 * count, 3.4 * aspect + 0.9), layout="constrained", dpi=110)
    axes = figure.subplots(1, count, squeeze=False)[0]
    axes[0].imshow(rgb)
    axes[0].set_title("photograph", fontsize=10)
    norm = _depth_norm(maps)
    for axis, depth_map in zip(axes[1:], maps, strict=False):
        _draw_map(axis, depth_map, norm)
    bar = figure.colorbar(axes[1].images[0], ax=list(axes[1 : 1 + len(maps)]), fraction=0.05, pad=0.02)
    bar.set_label("depth, m", fontsize=9)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, min_n_ticks=4))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    bar.ax.yaxis.set_minor_formatter(FuncFormatter(lambda _value, _position: ""))
    if has_error:
        _draw_error(figure, axes[-1], truth=maps[0], prediction=maps[1])
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    if title:
        figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _depth_norm(maps: Sequence[DepthMap]) -> Normalize:
    """One logarithmic scale for all maps: the 1st to the 99th percentile of the first, the truth where there is one."""
    values = maps[0].masked.compressed()
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return LogNorm(0.1, 10.0, clip=True)
    low, high = np.percentile(values, SCALE_PERCENTILES)
    return LogNorm(float(low), float(max(high, low * 1.05)), clip=True)


def _draw_map(axis: Axes, depth_map: DepthMap, norm: Normalize) -> None:
    axis.imshow(depth_map.masked, cmap=colormaps[DEPTH_COLOURS].with_extremes(bad=INVALID_GREY), norm=norm)
    axis.set_title(depth_map.title, fontsize=10)


def _draw_error(figure: Figure, axis: Axes, *, truth: DepthMap, prediction: DepthMap) -> None:
    """Signed relative error: red where the prediction is too far, blue where it is too near."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (prediction.depth_m - truth.depth_m) / truth.depth_m
    invalid = ~np.isfinite(error) if truth.valid_mask is None else ~truth.valid_mask | ~np.isfinite(error)
    drawn = axis.imshow(
        np.ma.array(error, mask=invalid),
        cmap=colormaps[ERROR_COLOURS].with_extremes(bad=INVALID_GREY),
        norm=Normalize(-ERROR_LIMIT, ERROR_LIMIT, clip=True),
    )
    axis.set_title("relative error", fontsize=10)
    bar = figure.colorbar(drawn, ax=axis, fraction=0.05, pad=0.02)
    bar.set_label("too near  -  too far", fontsize=9)
