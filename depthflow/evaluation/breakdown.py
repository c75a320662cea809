"""Errors by depth and by distance to a depth edge, and the fraction of pixels within each ratio of the truth."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

DEPTH_EDGES_M = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 80.0, 120.0, np.inf])
"""Ranges of true depth; each includes its lower bound."""
EDGE_DISTANCES_PX = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, np.inf])
"""Ranges of distance to the nearest pixel of edge_mask; the first holds the edge pixels."""
NEAR_EDGE_PX = 4.0
"""Pixels less than this from a pixel of edge_mask are near a depth edge. One of EDGE_DISTANCES_PX."""
RATIOS = np.linspace(1.01, 2.0, 100)
"""Ratios at which the delta curve is computed; delta1 is its value at 1.25."""


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Sums over images, float64. Breakdowns can be added.

    Attributes:
        by_depth: (len(DEPTH_EDGES_M) - 1, 3): pixels, sum of |relative error|, sum of relative error.
        by_edge_distance: (len(EDGE_DISTANCES_PX) - 1, 3): as by_depth.
        within_ratio: (len(RATIOS),): sum over images of the fraction of pixels with max(pred/gt, gt/pred) below it.
        images: Number of images with a counted pixel.
    """

    by_depth: np.ndarray
    by_edge_distance: np.ndarray
    within_ratio: np.ndarray
    images: int

    @property
    def edge_abs_rel(self) -> float:
        """Mean |relative error| of the pixels near a depth edge; NaN if there are none."""
        pixels, error, _ = self.by_edge_distance[EDGE_DISTANCES_PX[1:] <= NEAR_EDGE_PX].sum(axis=0)
        return float(error / pixels) if pixels else float("nan")

    def __add__(self, other: "Breakdown") -> "Breakdown":
        return Breakdown(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def image_breakdown(
    *, depth_pred: np.ndarray, depth_gt: np.ndarray, mask: np.ndarray, edge_mask: np.ndarray
) -> Breakdown:
    """Computes the breakdown of one image.

    Args:
        depth_pred, depth_gt: (H, W) float, metres, > 0 where counted.
        mask: (H, W) bool, True = counted.
        edge_mask: (H, W) bool.
    """
    gt, pred = depth_gt[mask].astype(np.float64), depth_pred[mask].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (pred - gt) / gt
        ratio = np.maximum(pred / gt, gt / pred)
    # Distance to the nearest zero pixel of the argument; without edges, more than the image's size.
    distance = cv2.distanceTransform((~edge_mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return Breakdown(
        by_depth=_sums(gt, DEPTH_EDGES_M, error),
        by_edge_distance=_sums(distance[mask], EDGE_DISTANCES_PX, error),
        within_ratio=_less_than_ratios(ratio) / max(1, len(ratio)),
        images=int(mask.any()),
    )


def total(breakdowns: Iterable[Breakdown]) -> Breakdown:
    """Adds breakdowns in the order given."""
    zeros = [np.zeros((len(edges) - 1, 3)) for edges in (DEPTH_EDGES_M, EDGE_DISTANCES_PX)]
    nothing = Breakdown(by_depth=zeros[0], by_edge_distance=zeros[1], within_ratio=np.zeros(len(RATIOS)), images=0)
    return sum(breakdowns, start=nothing)


def _sums(values: np.ndarray, edges: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Returns pixels, sum of |error| and sum of error for each range."""
    place = np.searchsorted(edges, values, side="right") - 1
    weights = (None, np.abs(error), error)
    return np.stack([np.bincount(place, weight, minlength=len(edges) - 1) for weight in weights], axis=1).astype(float)


def _less_than_ratios(ratio: np.ndarray) -> np.ndarray:
    """Counts values below each of RATIOS; a NaN is not. Equal bins take a fifth of the time of a sort."""
    counts, _ = np.histogram(ratio, bins=len(RATIOS) - 1, range=(RATIOS[0], RATIOS[-1]))
    less = np.count_nonzero(ratio < RATIOS[0]) + np.concatenate([[0], np.cumsum(counts)])
    less[-1] -= np.count_nonzero(ratio == RATIOS[-1])  # NumPy's last bin includes its upper edge.
    return less
