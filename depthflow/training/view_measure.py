"""Validation of what is learned from further views: the photometric error, and the direction of learned poses."""

# TensorFlow types its operations loosely.
# pyright: reportReturnType=false, reportAttributeAccessIssue=false

import numpy as np
import tensorflow as tf

from depthflow.store.read.geometry import Geometry
from depthflow.store.read.reader import SampleBatch
from depthflow.training.feed import views_of
from depthflow.training.learner import Learner, Sample

DIRECTION_BINS = 360
"""Half a degree each: the median of angles that add up over workers is that of their histogram."""


class ViewMeasure:
    """Sums over samples, which add up over workers; `size` is their number."""

    size = 4 + DIRECTION_BINS

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._predict = tf.function(self._predicted, autograph=False, reduce_retracing=True)

    def __call__(self, samples: SampleBatch) -> tuple[np.ndarray, np.ndarray]:
        """Returns the predicted log-depth (n, H, W) float64 and the sums (size,) float64 of some samples."""
        rgb, log_depth, valid_mask = map(tf.constant, (samples.rgb, samples.log_depth, samples.valid_mask))
        views = tf.nest.map_structure(tf.constant, views_of(samples))
        log_depth, photometric, poses = self._predict(Sample(rgb, log_depth, valid_mask, views))
        assert samples.geometry is not None
        angles = direction_errors_deg(poses.numpy(), samples.geometry) if self._learner.learns_poses else np.empty(0)
        bins = np.histogram(angles, bins=DIRECTION_BINS, range=(0.0, 180.0))[0]
        sums = [len(samples.rgb), photometric.numpy().astype(np.float64).sum(), len(angles), angles.sum(), *bins]
        return log_depth.numpy().astype(np.float64), np.array(sums, np.float64)

    def metrics(self, sums: np.ndarray) -> dict[str, float]:
        """Returns val/photometric and, of learned poses whose truth is known, val/pose_direction_deg and its median."""
        images, photometric, number, angles, *bins = sums
        metrics = {"val/photometric": float(photometric / images)}
        if number:
            half = int(np.searchsorted(np.cumsum(bins), number / 2))
            metrics["val/pose_direction_deg"] = float(angles / number)
            metrics["val/pose_direction_median_deg"] = (half + 0.5) * 180.0 / DIRECTION_BINS
        return metrics

    def _predicted(self, sample: Sample) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        outputs = self._learner.predict(sample, training=False)
        poses = sample.views.poses if outputs.poses is None else outputs.poses
        return outputs.predictions[0], self._learner.photometric(outputs, sample), poses


def direction_errors_deg(poses: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Returns the angles between the predicted and the true direction to each view, in degrees.

    Args:
        poses: (n, V, 4, 4) float, predicted.

    Returns:
        (m,) float64 of the m views whose pose is known and whose camera is elsewhere.
    """
    true, predicted = (p[..., :3, 3].astype(np.float64).reshape(-1, 3) for p in (geometry.view_poses, poses))
    lengths = np.linalg.norm(true, axis=-1) * np.linalg.norm(predicted, axis=-1)
    known = lengths > 0  # Not if NaN.
    cosines = (true * predicted).sum(-1)[known] / lengths[known]
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
