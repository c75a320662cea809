"""How many metres the unit of a network's depth is, if it learned depth up to a factor: measured after each epoch.

A network that learns from video with learned poses predicts depth in a unit of its own (Zhou et al. 2017,
arXiv:1704.07813). Depth labels or the true distances between the cameras of some training samples give the factor, as a
median over samples. It is added to the bias of the registered network's head, which predicts metres then.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from depthflow.errors import TrainingError
from depthflow.metrics import counted_pixels, median_scale
from depthflow.models.canonical_camera import to_metres
from depthflow.recipe import Recipe
from depthflow.store.read.epoch import worker_part
from depthflow.store.read.reader import SampleBatch, SplitReader
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import views_of
from depthflow.training.learner import Learner

METRES_PER_UNIT = "train/metres_per_unit"
"""Metric of an epoch."""
SCALE_SAMPLES = 512
"""Largest number of training samples to measure on. A median over so many varies by a few percent of its spread."""


class ScaleMeter:
    """Measures the unit with all workers, each of which reads its own part of the samples.

    Args:
        recipe: Its `scale_from` says what to compare with.
        rows: Row numbers of the training samples that have it: depth, or poses of the views.
        max_batch_size: Samples to read at a time.
    """

    def __init__(
        self,
        learner: Learner,
        reader: SplitReader,
        group: WorkerGroup,
        recipe: Recipe,
        *,
        rows: np.ndarray,
        max_batch_size: int,
    ) -> None:
        self._reader, self._group, self._max_batch_size = reader, group, max_batch_size
        self._scale_from, self._camera = recipe.scale_from, recipe.camera
        self._rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SCALE_SAMPLES)).astype(int))]
        self._depth = tf.function(learner.log_depth, autograph=False, reduce_retracing=True)
        self._poses = tf.function(learner.poses, autograph=False, reduce_retracing=True)

    def logs(self, *, beat: Callable[[str], None]) -> np.ndarray:
        """Returns what this worker has measured; calls `beat` before every batch.

        Returns:
            (2, samples) float64: whether a sample was measured here, and the log of metres per unit.
        """
        logs = np.zeros((2, len(self._rows)))
        mine = np.arange(len(self._rows))[
            worker_part(len(self._rows), rank=self._group.rank, num_workers=self._group.size)
        ]
        measure = self._by_labels if self._scale_from == "median" else self._by_distances
        for start in range(0, len(mine), self._max_batch_size):
            beat("a batch of the measurement of the scale")
            part = mine[start : start + self._max_batch_size]
            found = measure(self._reader.read(self._rows[part]))
            logs[:, part] = np.isfinite(found), np.where(np.isfinite(found), found, 0.0)
        return logs

    def metres_per_unit(self, logs: np.ndarray) -> float:
        """Returns the median over all workers' samples.

        Raises:
            TrainingError: if none could be measured.
        """
        known, values = self._group.sum(logs)
        if not known.any():
            raise TrainingError(
                f"--scale-from {self._scale_from} found no training sample with "
                + ("depth." if self._scale_from == "median" else "cameras at a distance from each other.")
                + " Leave it out: the model then predicts depth up to a factor."
            )
        return float(np.exp(np.median(values[known > 0])))

    def _by_labels(self, samples: SampleBatch) -> np.ndarray:
        """Returns (n,) log of the ratio of the medians of true and predicted depth; NaN without a counted pixel."""
        log_depth = self._depth(tf.constant(samples.rgb)).numpy().astype(np.float64)
        depth_pred = to_metres(log_depth, samples.focal) if self._camera == "canonical" else np.exp(log_depth)
        logs = np.full(len(depth_pred), np.nan)
        for k, (pred, gt) in enumerate(zip(depth_pred, np.exp(samples.log_depth.astype(np.float64)), strict=True)):
            mask = counted_pixels(depth_gt=gt, valid_mask=samples.valid_mask[k])
            if mask.any():
                logs[k] = np.log(median_scale(depth_pred=pred, depth_gt=gt, valid_mask=mask))
        return logs

    def _by_distances(self, samples: SampleBatch) -> np.ndarray:
        """Returns (n,) log of the ratio of the true and predicted lengths of the way past all views; NaN if unknown."""
        assert samples.geometry is not None
        predicted = self._poses(tf.constant(samples.rgb), tf.nest.map_structure(tf.constant, views_of(samples)))
        true_m, units = (
            np.linalg.norm(poses[..., :3, 3].astype(np.float64), axis=-1).sum(axis=-1)
            for poses in (samples.geometry.view_poses, predicted.numpy())
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(true_m / units)
