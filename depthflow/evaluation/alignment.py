"""Alignment of a prediction to an image's ground truth before its metrics are computed.

Aligned metrics compare the shape of a scene, not its metres, and cannot be compared with metrics without alignment.
"""

import numpy as np

from depthflow.metrics import median_scale
from depthflow.models.interface import Output

MAX_DEPTH_M = 350.0
"""Range of DIODE's laser scanner. An aligned inverse depth that is smaller or not positive becomes this depth."""


def median_aligned(depth_pred: np.ndarray, *, depth_gt: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scales the prediction to the truth's median over the mask (Zhou et al. 2017, arXiv:1704.07813, section 4.1).

    Args:
        depth_pred: (H, W) float, metres or relative depth.
        depth_gt: (H, W) float, metres.
        mask: (H, W) bool, True = counted.

    Returns:
        (H, W) float64, metres; the prediction unchanged if no pixel is counted.
    """
    pred = depth_pred.astype(np.float64)
    if not mask.any():
        return pred
    with np.errstate(invalid="ignore"):
        return pred * median_scale(depth_pred=pred, depth_gt=depth_gt, valid_mask=mask)


def affine_aligned(pred: np.ndarray, *, depth_gt: np.ndarray, mask: np.ndarray, output: Output) -> np.ndarray:
    """Fits scale and shift by least squares over the mask in the model's own space, and converts to metres.

    The space is inverse depth for relative inverse depth (Ranftl et al. 2020, arXiv:1907.01341, equation 4), and else
    the natural log of depth. A constant prediction has no scale: it becomes the truth's mean.

    Args:
        pred: (H, W) float, as predicted by the model.
        depth_gt: (H, W) float, metres.
        mask: (H, W) bool, True = counted.
        output: What `pred` holds.

    Returns:
        (H, W) float64, metres; all NaN if no pixel is counted.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        is_inverse = output == "relative inverse depth"
        values = pred.astype(np.float64) if is_inverse else np.log(pred.astype(np.float64))
        truth = depth_gt[mask].astype(np.float64)
        scale, shift = _least_squares(values[mask], 1.0 / truth if is_inverse else np.log(truth))
        aligned = scale * values + shift
        return 1.0 / np.maximum(aligned, 1.0 / MAX_DEPTH_M) if is_inverse else np.exp(aligned)


def _least_squares(values: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Returns the (scale, shift) that bring the values nearest to the target; NaN if there are none."""
    if values.size == 0:
        return np.nan, np.nan
    centred = values - values.mean()
    variance = np.mean(centred**2)
    flat = variance <= (np.finfo(np.float32).eps * np.abs(values).max()) ** 2  # Predictions are float32.
    scale = 0.0 if flat else float(np.mean(centred * (target - target.mean())) / variance)
    return scale, float(target.mean() - scale * values.mean())
