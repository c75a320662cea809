"""A photograph beside its depth maps, all on one colour scale with a bar in metres; invalid pixels are grey.

The colour map is viridis: perceptually uniform, fit for colour-blind readers, and monotonic in black and white print;
and it holds no grey. The scale is logarithmic: near differences matter as far ones do. What print without colours would
lose is drawn twice: invalid pixels are dotted, where a prediction is too near there are stripes, and edges lie on a
pale photograph.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from depthflow.reports.plots import show_text_as_it_is

DEPTH_COLOURS = "viridis_r"
INVERSE_COLOURS = "viridis"
ERROR_COLOURS = "RdBu_r"
INVALID_GREY = "0.6"
EDGE_COLOUR = "#ff6a00"
PALENESS = 0.3
"""How dark a photograph may be under depth edges: they are darker, in black and white print, too."""
SCALE_PERCENTILES = (1.0, 99.0)
ERROR_LIMIT = 0.5
STRIPED_ERROR = -0.1
"""Predictions that are nearer than the truth by this much are striped."""
PATTERN_STEPS = 40
"""Stripes or dots along a picture's longer side, at most."""
PATTERN_STEP_PX = 6
SCALE_TICKS = 5
JPEG_OPTIONS = {"quality": 80, "subsampling": 0}
"""Full resolution of colour too: a mask's border is one pixel sharp."""


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """A depth map to draw.

    Attributes:
        title: above the picture.
        depth_m: (H, W) float, metres.
        valid_mask: (H, W) bool, or None where all is valid.
        quantity: what its scale bar says, for maps that are not metres.
        larger_is_nearer: inverse depth; near is drawn in the same colour either way.
    """

    title: str
    depth_m: np.ndarray
    valid_mask: np.ndarray | None = None
    quantity: str = "depth, m"
    larger_is_nearer: bool = False

    @property
    def masked(self) -> np.ma.MaskedArray:
        """The depth with invalid pixels masked."""
        invalid = np.zeros(self.depth_m.shape, bool) if self.valid_mask is None else ~self.valid_mask
        return np.ma.array(self.depth_m, mask=invalid)


def draw_panel(path: Path, *, rgb: np.ndarray, maps: Sequence[DepthMap], title: str = "") -> None:
    """Draws what `panel_jpeg` draws into a PNG file.

    Args:
        path: the .png file.
        rgb: (H, W, 3) uint8.
        maps: one or more, of the photograph's size.
        title: of the whole panel.
    """
    figure = _panel(rgb, maps, title)
    show_text_as_it_is(figure)
    figure.savefig(path)


def panel_jpeg(*, rgb: np.ndarray, maps: Sequence[DepthMap], title: str = "", upright: bool = False) -> bytes:
    """Draws a photograph and depth maps side by side, on one scale.

    Where there are two maps, the first the truth, a third picture shows the signed relative error of the second.

    Args:
        rgb: (H, W, 3) uint8.
        maps: one or more, of the photograph's size; the truth first, where there is one.
        title: of the whole panel.
        upright: Whether they are one below the other instead.

    Returns:
        A JPEG file.
    """
    return to_jpeg(_panel(rgb, maps, title, upright))


def draw_comparison(path: Path, *, rgb: np.ndarray, maps: Sequence[DepthMap]) -> None:
    """Draws a photograph beside what several models make of it, each on a scale of its own, into a PNG file.

    Args:
        path: the .png file.
        rgb: (H, W, 3) uint8.
        maps: one or more, of the photograph's size.
    """
    figure, axes = row_of_pictures(rgb, 1 + len(maps))
    for axis, depth_map in zip(axes[1:], maps, strict=True):
        norm = _depth_norm([depth_map])
        _draw_map(axis, depth_map, norm)
        _draw_scale_bar(figure, [axis], norm, depth_map.quantity)
    show_text_as_it_is(figure)
    figure.savefig(path)


def sample_panel(
    *,
    rgb: np.ndarray,
    depth: DepthMap | None,
    edge_mask: np.ndarray,
    views: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> bytes:
    """Draws a stored sample: photograph, further views, depth with its bar, the valid mask, and the depth edges.

    Args:
        rgb: (H, W, 3) uint8.
        depth: of the photograph's size; None leaves it out, with masks and edges.
        edge_mask: (H, W) bool.
        views: further views by name, (H, W, 3) uint8 each.

    Returns:
        A JPEG file.
    """
    figure, axes = row_of_pictures(rgb, 1 + len(views) + (3 if depth else 0))
    for axis, (name, image) in zip(axes[1:], views.items(), strict=False):
        axis.imshow(image)
        axis.set_title(name, fontsize=10)
    if depth:
        _draw_depth(figure, [axes[0], *axes[1 + len(views) :]], rgb, depth, edge_mask)
    return to_jpeg(figure)


def _draw_depth(figure: Figure, axes: Sequence[Axes], rgb: np.ndarray, depth: DepthMap, edge_mask: np.ndarray) -> None:
    """Draws depth, valid mask and depth edges into all axes but the first."""
    norm = _depth_norm([depth])
    _draw_map(axes[1], depth, norm)
    _draw_scale_bar(figure, axes[1:2], norm, depth.quantity)
    axes[2].imshow(~np.ma.getmaskarray(depth.masked), cmap="gray", vmin=0, vmax=1)
    axes[2].set_title("valid (white)", fontsize=10)
    pale = 1 - PALENESS * (1 - rgb.mean(axis=-1, keepdims=True) / 255)
    axes[3].imshow(np.where(edge_mask[..., None], to_rgb(EDGE_COLOUR), pale))
    axes[3].set_title("depth edges (orange)", fontsize=10)


def to_jpeg(figure: Figure) -> bytes:
    """Returns a figure as a JPEG file."""
    buffer = io.BytesIO()
    show_text_as_it_is(figure)
    figure.savefig(buffer, format="jpeg", bbox_inches="tight", pad_inches=0.05, pil_kwargs=JPEG_OPTIONS)
    return buffer.getvalue()


def _panel(rgb: np.ndarray, maps: Sequence[DepthMap], title: str, upright: bool = False) -> Figure:
    has_error = len(maps) == 2
    figure, axes = row_of_pictures(rgb, 1 + len(maps) + has_error, upright)
    norm = _depth_norm(maps)
    for axis, depth_map in zip(axes[1:], maps, strict=False):
        _draw_map(axis, depth_map, norm)
    _draw_scale_bar(figure, axes[1 : 1 + len(maps)], norm, maps[0].quantity)
    if has_error:
        _draw_error(figure, axes[-1], truth=maps[0], prediction=maps[1])
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def row_of_pictures(rgb: np.ndarray, count: int, upright: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of pictures side by side, or one below the other, the first of them the photograph."""
    aspect = rgb.shape[0] / rgb.shape[1]
    size = (4.2, (3.4 * aspect + 0.3) * count) if upright else (3.4 * count, 3.4 * aspect + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = list(figure.subplots(*((count, 1) if upright else (1, count)), squeeze=False).ravel())
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].imshow(rgb)
    axes[0].set_title("photograph", fontsize=10)
    return figure, axes


def _depth_norm(maps: Sequence[DepthMap]) -> Normalize:
    """One logarithmic scale for all maps: the 1st to the 99th percentile of the first, the truth where there is one."""
    values = maps[0].masked.compressed()
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return LogNorm(0.1, 10.0)
    low, high = np.percentile(values, SCALE_PERCENTILES)
    if high < 1.05 * low:  # A flat map: a scale that does not suggest a range.
        low, high = low / 1.5, high * 1.5
    return LogNorm(float(low), float(high))


def _draw_scale_bar(figure: Figure, axes: Sequence[Axes], norm: Normalize, quantity: str) -> None:
    """The bar, its two ends always labelled; pointed, since depths beyond the ends are drawn as the ends."""
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), fraction=0.05, pad=0.02, shrink=0.9, extend="both")
    bar.set_label(f"{quantity} (grey, dotted: invalid)", fontsize=9)
    ticks = np.geomspace(norm.vmin or 0.1, norm.vmax or 10.0, SCALE_TICKS)
    bar.ax.yaxis.set_major_locator(FixedLocator(list(ticks)))
    bar.ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _position: f"{value:.2g}" if value < 10 else f"{value:.0f}")
    )
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _draw_map(axis: Axes, depth_map: DepthMap, norm: Normalize) -> None:
    colours = colormaps[INVERSE_COLOURS if depth_map.larger_is_nearer else DEPTH_COLOURS]
    axis.imshow(depth_map.masked, cmap=colours.with_extremes(bad=INVALID_GREY), norm=norm)
    draw_over(axis, np.ma.getmaskarray(depth_map.masked) & dots(depth_map.depth_m.shape), "0.2")
    axis.set_title(depth_map.title, fontsize=10)


def _draw_error(figure: Figure, axis: Axes, *, truth: DepthMap, prediction: DepthMap) -> None:
    """Signed relative error: red where the prediction is too far, blue and striped where it is too near."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (prediction.depth_m - truth.depth_m) / truth.depth_m
    invalid = np.ma.getmaskarray(truth.masked) | np.ma.getmaskarray(prediction.masked) | ~np.isfinite(error)
    drawn = axis.imshow(
        np.ma.array(error, mask=invalid),
        cmap=colormaps[ERROR_COLOURS].with_extremes(bad=INVALID_GREY),
        norm=Normalize(-ERROR_LIMIT, ERROR_LIMIT),
    )
    draw_over(axis, invalid & dots(error.shape), "0.2")
    striped = ~invalid & (error < STRIPED_ERROR) & _stripes(error.shape)
    for colour, tone in (("0.2", error >= -ERROR_LIMIT / 2), ("1.0", error < -ERROR_LIMIT / 2)):
        draw_over(axis, striped & tone, colour)
    axis.set_title("relative error", fontsize=10)
    bar = figure.colorbar(
        drawn, ax=axis, fraction=0.05, pad=0.02, shrink=0.9, extend="both", format=PercentFormatter(1.0)
    )
    bar.set_label("\u2190 too near, striped   too far \u2192", fontsize=9)


def draw_over(axis: Axes, mask: np.ndarray, colour: str) -> None:
    """Fills some pixels of a picture that is there already."""
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = (*to_rgb(colour), 1.0)
    axis.imshow(layer)


def _stripes(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: True on thin diagonals."""
    step, width = _pattern(shape)
    rows, columns = np.indices(shape)
    return (rows + columns) % step < width


def dots(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: True on small squares, every other row of them shifted."""
    step, width = _pattern(shape)
    rows, columns = np.indices(shape)
    shifted = columns + rows // step % 2 * (step // 2)
    return (rows % step < width) & (shifted % step < width)


def _pattern(shape: tuple[int, ...]) -> tuple[int, int]:
    """(step, width) in pixels, so that a pattern looks alike in pictures of any size."""
    step = max(PATTERN_STEP_PX, max(shape) // PATTERN_STEPS)
    return step, max(1, step // 6)
