"""One image's depth metrics in NumPy, and their mean over images.

The definitions are those of Eigen et al. 2014 (arXiv:1406.2283), section 4, and of DIODE's official devkit
(`metrics.py`); `silog` is the KITTI leaderboard's (x 100), and depth boundaries are those of Depth Pro (Bochkovskii et
al. 2024, arXiv:2410.02073). Invalid pixels never reach arithmetic.
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
BOUNDARY_NAMES = ("boundary_f1", "boundary_precision", "boundary_recall", "edge_abs_rel")
"""Metrics of depth boundaries. An image without a boundary in its ground truth has none."""
HIGHER_IS_BETTER = frozenset({"delta1", "delta2", "delta3", *BOUNDARY_NAMES[:3]})
BOUNDARY_RATIOS = np.linspace(1.05, 1.25, 10)
"""Ratios of neighbouring depths above which they are a boundary. Each weighs as much as it is large."""
NEIGHBOURS = ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]))
"""Both pixels of each pair of neighbours: below each other, and beside each other."""
COUNTED_M = (0.001, 100_000.0)
"""Least and greatest ground truth that counts, in metres. No sensor measures beyond it, and one pixel of 1e-40 m or of
1e30 m, which a damaged file may hold, would decide the mean of a whole split."""


def median_scale(*, depth_pred: np.ndarray, depth_gt: np.ndarray, valid_mask: np.ndarray) -> float:
    """Returns what an image's prediction is multiplied by to have the truth's median.

    Args:
        depth_pred: (H, W) float, metres or relative depth.
        depth_gt: (H, W) float, metres.
        valid_mask: (H, W) bool, some True.

    Source: Zhou et al. 2017, arXiv:1704.07813, section 4.1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        truth, pred = (np.median(depth[valid_mask].astype(np.float64)) for depth in (depth_gt, depth_pred))
        return float(truth / pred)


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
    _check_planes(depth_pred, depth_gt, valid_mask)
    if not valid_mask.any():
        return dict.fromkeys(METRIC_NAMES, float("nan"))
    pred = depth_pred[valid_mask].astype(np.float64)
    gt = depth_gt[valid_mask].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _metrics_of_pixels(pred, gt)


def boundary_metrics(*, depth_pred: np.ndarray, depth_gt: np.ndarray, valid_mask: np.ndarray) -> dict[str, float]:
    """How well the depth boundaries of one image are predicted, whatever the scale of the prediction.

    Two neighbours, beside or below each other, are a boundary at the ratio r if one is more than r times as far as the
    other. A predicted boundary is right if the same pixel is the farther one in the ground truth. Precision is the
    share of predicted boundaries that are right, recall the share of true ones that are predicted, F1 their harmonic
    mean; each is a mean over those of `BOUNDARY_RATIOS` at which the ground truth has a boundary, weighted by the
    ratio. Where nothing is predicted, precision is 0.

    Args:
        depth_pred: (H, W) float, metres or any multiple of them, > 0 where valid.
        depth_gt: (H, W) float, metres, > 0 where valid; anything elsewhere.
        valid_mask: (H, W) bool; two neighbours count if both are valid.

    Returns:
        boundary_f1, boundary_precision and boundary_recall, 1 at best. All NaN if the ground truth has no boundary. A
        predicted depth that is NaN or not positive makes no boundary.

    Raises:
        ValueError: if the shapes differ or `valid_mask` is not boolean.

    Source: Bochkovskii et al. 2024, arXiv:2410.02073, whose formula counts all pairs. The authors' code, which the
    ratios and weights are from, averages precision and recall over the four directions instead; there, a direction or
    a ratio without a boundary counts as 0, so that even the truth may have less than 1.
    """
    _check_planes(depth_pred, depth_gt, valid_mask)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        pred, gt = _neighbour_ratios(depth_pred, depth_gt, valid_mask)
        agrees = (pred > 1) == (gt > 1)
        pred, gt = np.maximum(pred, 1 / pred), np.maximum(gt, 1 / gt)
        right, predicted, true = (
            np.array([np.count_nonzero(ratio > r) for r in BOUNDARY_RATIOS])
            for ratio in (np.minimum(pred, gt)[agrees], pred, gt)
        )
        values = 2 * right / (predicted + true), right / np.maximum(predicted, 1), right / true
    if not true.any():
        return dict.fromkeys(BOUNDARY_NAMES[:3], float("nan"))
    counted = true > 0
    weights = BOUNDARY_RATIOS[counted]
    means = (float(np.average(value[counted], weights=weights)) for value in values)
    return dict(zip(BOUNDARY_NAMES[:3], means, strict=True))


def _check_planes(depth_pred: np.ndarray, depth_gt: np.ndarray, valid_mask: np.ndarray) -> None:
    if not depth_pred.shape == depth_gt.shape == valid_mask.shape:
        raise ValueError(
            "depth_pred, depth_gt and valid_mask must have one shape. "
            f"Received: {depth_pred.shape}, {depth_gt.shape}, {valid_mask.shape}"
        )
    if valid_mask.dtype != np.bool_:
        raise ValueError(f"valid_mask must be bool, True = counted. Received: {valid_mask.dtype}")


def _neighbour_ratios(depth_pred: np.ndarray, depth_gt: np.ndarray, valid_mask: np.ndarray) -> np.ndarray:
    """Returns the ratio of the two depths of each pair of neighbours that is a boundary in either map, (2, n) float64.

    Few pairs are, so the rest is left out by one comparison of the maps as they are, a little more generous than the
    least ratio. What is predicted not positive becomes NaN.
    """
    least = BOUNDARY_RATIOS[0] * 0.999
    found = []
    for first, second in NEIGHBOURS:
        candidates = np.zeros_like(valid_mask[first])
        for depth in (depth_pred, depth_gt):
            near, far = np.minimum(depth[first], depth[second]), np.maximum(depth[first], depth[second])
            candidates |= far > near * least
        candidates &= valid_mask[first] & valid_mask[second]
        pairs = [depth[side][candidates] for depth in (depth_pred, depth_gt) for side in (first, second)]
        found.append(np.array(pairs, dtype=np.float64).reshape(2, 2, -1))
    depths = np.concatenate(found, axis=2)
    depths[~(depths > 0)] = np.nan
    return depths[:, 1] / depths[:, 0]


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
        images: what `image_metrics` returned, one mapping an image, and what `boundary_metrics` did, if all have it. An
            image whose figures are all NaN had no valid pixel and is left out; a single NaN among numbers is a broken
            prediction and stays visible in the mean. One of `BOUNDARY_NAMES` that is NaN says that the image has no
            boundary, and is left out, unless the image's abs_rel shows that the prediction is broken.

    Returns:
        `METRIC_NAMES`, and those of `BOUNDARY_NAMES` that every image has, to float; NaN where no image counts.
    """
    rows = list(images)
    names = METRIC_NAMES + tuple(name for name in BOUNDARY_NAMES if rows and all(name in row for row in rows))
    table = np.array([[row[name] for name in names] for row in rows], dtype=np.float64).reshape(-1, len(names))
    table = table[~np.isnan(table[:, : len(METRIC_NAMES)]).all(axis=1)]
    broken = np.isnan(table[:, names.index("abs_rel")])
    means = {}
    for name, values in zip(names, table.T, strict=True):
        counted = values if name in METRIC_NAMES else values[broken | ~np.isnan(values)]
        means[name] = float(counted.mean()) if len(counted) else float("nan")
    return means
