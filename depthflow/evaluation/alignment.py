"""Fitting a prediction to one image's ground truth before its figures, as some protocols do.

What is compared then is the shape of a scene, no longer its metres: a figure with an alignment says nothing of one
without.
"""

import numpy as np

from depthflow.models.interface import Output

MAX_DEPTH_M = 350.0
"""Of DIODE's laser scanner. An aligned inverse depth that is smaller, or not positive, is as far as this."""


def median_aligned(depth_pred: np.ndarray, *, depth_gt: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scaled so that its median over the mask is the truth's (Zhou et al. 2017, arXiv:1704.07813, section 4.1).

    Args:
        depth_pred, depth_gt: (H, W) float, metres.
        mask: (H, W) bool, True = counted.

    Returns:
        (H, W) float64, metres; the prediction as it is where nothing is counted.
    """
    pred = depth_pred.astype(np.float64)
    if not mask.any():
        return pred
    with np.errstate(divide="ignore", invalid="ignore"):
        return pred * (np.median(depth_gt[mask].astype(np.float64)) / np.median(pred[mask]))


def affine_aligned(pred: np.ndarray, *, depth_gt: np.ndarray, mask: np.ndarray, output: Output) -> np.ndarray:
    """Scale and shift by least squares over the mask, in the model's own space, and back to metres.

    The space is the natural log of depth for metres, and inverse depth for relative inverse depth (Ranftl et al. 2020,
    arXiv:1907.01341, equation 4). A prediction that is the same everywhere has no scale: it becomes the truth's mean.

    Args:
        pred: (H, W) float, as the model predicts.
        depth_gt: (H, W) float, metres.
        mask: (H, W) bool, True = counted.
        output: what `pred` is.

    Returns:
        (H, W) float64, metres; NaN everywhere where nothing is counted.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.log(pred.astype(np.float64)) if output == "metres" else pred.astype(np.float64)
        truth = depth_gt[mask].astype(np.float64)
        scale, shift = _least_squares(values[mask], np.log(truth) if output == "metres" else 1.0 / truth)
        aligned = scale * values + shift
        return np.exp(aligned) if output == "metres" else 1.0 / np.maximum(aligned, 1.0 / MAX_DEPTH_M)


def _least_squares(values: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """(scale, shift) that bring values nearest to the target; NaN where there are none."""
    if values.size == 0:
        return np.nan, np.nan
    centred = values - values.mean()
    variance = np.mean(centred**2)
    flat = variance <= (np.finfo(np.float32).eps * np.abs(values).max()) ** 2  # Predictions are float32.
    scale = 0.0 if flat else float(np.mean(centred * (target - target.mean())) / variance)
    return scale, float(target.mean() - scale * values.mean())
