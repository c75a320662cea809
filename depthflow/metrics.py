"""One image's depth metrics in NumPy, and their mean over images.

The definitions are those of Eigen et al. 2014 (arXiv:1406.2283), section 4, and of DIODE's official devkit
(`metrics.py`); `silog` is the KITTI leaderboard's (x 100). Invalid pixels never reach arithmetic.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

METRIC_NAMES = (
    "mae",
    "rmse",
    "abs_rel",
    "sq_rel",
    "log10",
    "rmse_log",
    "rmse_log10",
    "silog",
    "delta1",
    "delta2",
    "delta3",
)
HIGHER_IS_BETTER = frozenset({"delta1", "delta2", "delta3"})
COUNTED_M = (0.001, 100_000.0)
"""Least and greatest ground truth that counts, in metres. No sensor measures beyond it, and one pixel of 1e-40 m or of
1e30 m, which a damaged file may hold, would decide the mean of a whole split."""


def counted_pixels(*, depth_gt: np.ndarray, valid_mask: np.ndarray) -> np.ndarray:
    """Returns the valid pixels whose ground truth is within `COUNTED_M`.

    Args:
        depth_gt: (H, W) float, metres; any value where invalid.
        valid_mask: (H, W) bool.
    """
    least, greatest = COUNTED_M
    return valid_mask & (depth_gt >= least) & (depth_gt <= greatest)


def image_metrics(*, depth_pred: np.ndarray, depth_gt: np.ndarray, valid_mask: np.ndarray) -> dict[str, float]:
    """Every metric of one image, over its valid pixels, in float64.

    Args:
        depth_pred: (H, W) float, metres, > 0 where valid.
        depth_gt: (H, W) float, metres, > 0 where valid; anything elsewhere.
        valid_mask: (H, W) bool; True = counted.

    Returns:
        `METRIC_NAMES` to float: mae, rmse in metres; abs_rel without unit; sq_rel in metres; log10 (mean absolute
        difference of base-10 logarithms), rmse_log (natural), rmse_log10; silog (100 times the standard deviation
        of the natural log ratio); delta1..3 (share of pixels with max(pred/gt, gt/pred) < 1.25^k). All NaN if no
        pixel is valid. A prediction that is not finite or not positive makes the figures it enters NaN or infinite.

    Raises:
        ValueError: if the shapes differ or `valid_mask` is not boolean.
    """
    if not depth_pred.shape == depth_gt.shape == valid_mask.shape:
        raise ValueError(
            "depth_pred, depth_gt and valid_mask must have one shape. "
            f"Received: {depth_pred.shape}, {depth_gt.shape}, {valid_mask.shape}"
        )
    if valid_mask.dtype != np.bool_:
        raise ValueError(f"valid_mask must be bool, True = counted. Received: {valid_mask.dtype}")
    if not valid_mask.any():
        return dict.fromkeys(METRIC_NAMES, float("nan"))
    pred = depth_pred[valid_mask].astype(np.float64)
    gt = depth_gt[valid_mask].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _metrics_of_pixels(pred, gt)


def _metrics_of_pixels(pred: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """Metrics of two vectors of depths in metres, float64."""
    error = pred - gt
    log_ratio = np.log(pred) - np.log(gt)
    mean_square_log = np.mean(log_ratio**2)
    ratio = np.maximum(pred / gt, gt / pred)
    values = {
        "mae": np.mean(np.abs(error)),
        "rmse": np.sqrt(np.mean(error**2)),
        "abs_rel": np.mean(np.abs(error) / gt),
        "sq_rel": np.mean(error**2 / gt),
        "log10": np.mean(np.abs(log_ratio)) / np.log(10.0),
        "rmse_log": np.sqrt(mean_square_log),
        "rmse_log10": np.sqrt(mean_square_log) / np.log(10.0),
        "silog": 100.0 * np.std(log_ratio),
    }
    for power in (1, 2, 3):
        values[f"delta{power}"] = np.mean(ratio < 1.25**power)
    return {name: float(value) for name, value in values.items()}


def dataset_groups(datasets: Iterable[str]) -> dict[str, str]:
    """Returns the group of metrics of each data set, such as dataset tum, or none if there is only one data set.

    MLflow accepts the groups in names of metrics: any other character of a data set's name becomes _.
    """
    names = sorted(set(datasets))
    return {name: f"dataset {re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}" for name in names} if len(names) > 1 else {}


def mean_over_images(images: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The split's figures: the mean over images that have a valid pixel.

    Args:
        images: what `image_metrics` returned, one mapping an image. An image whose figures are all NaN had no valid
            pixel and is left out; a single NaN among numbers is a broken prediction and stays visible in the mean.

    Returns:
        `METRIC_NAMES` to float; NaN where no image counts.
    """
    rows = [[image[name] for name in METRIC_NAMES] for image in images]
    table = np.array(rows, dtype=np.float64).reshape(-1, len(METRIC_NAMES))
    counted = table[~np.isnan(table).all(axis=1)]
    if len(counted) == 0:
        return dict.fromkeys(METRIC_NAMES, float("nan"))
    return dict(zip(METRIC_NAMES, counted.mean(axis=0).tolist(), strict=True))
