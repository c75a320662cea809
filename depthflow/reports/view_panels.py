"""A photograph beside its further views, warped onto it by a predicted depth, and what they leave unexplained."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize

from depthflow.reports.panels import INVALID_GREY, SCALE_PERCENTILES, dots, draw_over, row_of_pictures, to_jpeg

ERROR_COLOURS = "magma"
LEAST_LIMIT = 0.1
"""Largest photometric error on the scale, unless some are larger."""


def views_jpeg(*, rgb: np.ndarray, warped: Mapping[str, np.ndarray], error: np.ndarray, counted: np.ndarray) -> bytes:
    """Draws how the further views of a photograph explain it: each as it was warped, the error left, the auto-mask.

    Args:
        rgb: (H, W, 3) uint8.
        warped: View to (H, W, 3) uint8, black where it does not show a pixel.
        error: (H, W) float, photometric error; NaN where no view shows a pixel.
        counted: (H, W) bool, False where the auto-mask leaves a pixel out.

    Returns:
        A JPEG file.
    """
    figure, axes = row_of_pictures(rgb, 3 + len(warped))
    for axis, (name, image) in zip(axes[1:], warped.items(), strict=False):
        axis.imshow(image)
        axis.set_title(f"{name}, warped", fontsize=10)
    unseen = np.isnan(error)
    largest = LEAST_LIMIT if unseen.all() else max(LEAST_LIMIT, float(np.nanpercentile(error, SCALE_PERCENTILES[1])))
    colours = colormaps[ERROR_COLOURS].with_extremes(bad=INVALID_GREY)
    drawn = axes[-2].imshow(np.ma.array(error, mask=unseen), cmap=colours, norm=Normalize(0.0, largest))
    draw_over(axes[-2], unseen & dots(error.shape), "0.2")
    axes[-2].set_title("photometric error", fontsize=10)
    bar = figure.colorbar(drawn, ax=axes[-2], fraction=0.05, pad=0.02, shrink=0.9, extend="max")
    bar.set_label("0: alike (grey, dotted: unseen)", fontsize=9)
    axes[-1].imshow(counted, cmap="gray", vmin=0, vmax=1)
    axes[-1].set_title("auto-mask (white: counts)", fontsize=10)
    return to_jpeg(figure)
