"""Metrics of the validation split after an epoch, at the stored resolution, reduced over workers as sums and counts."""

import math
from collections.abc import Callable

import cv2
import keras
import numpy as np
import tensorflow as tf

from depthflow.datasets.frames import SCENE_TYPES
from depthflow.metrics import METRIC_NAMES, counted_pixels, dataset_groups, image_metrics, median_scale
from depthflow.models.canonical_camera import CameraName, to_metres
from depthflow.models.network import serving_network
from depthflow.store.read.reader import SampleBatch, SplitReader, worker_pass
from depthflow.store.write.planes import resize_rgb
from depthflow.training.collective import WorkerGroup
from depthflow.training.view_measure import ViewMeasure


class Validator:
    """Computes the split's metrics with all workers.

    Each worker reads its own part of the split; together they read every sample.

    Args:
        view_measure: What is measured of further views, if the objective needs them.
        is_relative: Whether depth is known up to a factor only: each image's prediction is then scaled to the median of
            its truth (Zhou et al. 2017, arXiv:1704.07813, section 4.1).

    Attributes:
        metres_per_unit: What the network's depth is multiplied by.
    """

    def __init__(
        self,
        model: keras.Model,
        reader: SplitReader,
        group: WorkerGroup,
        *,
        max_batch_size: int,
        camera: CameraName = "none",
        view_measure: ViewMeasure | None = None,
        is_relative: bool = False,
    ) -> None:
        self._reader, self._group, self._max_batch_size, self._camera = reader, group, max_batch_size, camera
        self._view_measure, self._is_relative, self.metres_per_unit = view_measure, is_relative, 1.0
        self._of_dataset = dataset_groups(reader.datasets)
        self._names = [*SCENE_TYPES, *dict.fromkeys(self._of_dataset.values())]
        network = serving_network(model)
        self._size = network.input_shape[1:3]
        self._predict = tf.function(
            lambda rgb: network(rgb, training=False)[..., 0], autograph=False, reduce_retracing=True
        )

    def sums(self, *, beat: Callable[[str], None]) -> np.ndarray:
        """Returns this worker's sums over images with a counted pixel; calls `beat` before every batch.

        Returns:
            float64: for each scene type and, if there are several, data set, the number of images and the sum of each
            metric; then the sums of the view measure.
        """
        of_depth = np.zeros((len(self._names), len(METRIC_NAMES) + 2))
        of_views = np.zeros(self._view_measure.size if self._view_measure else 0)
        for batch in worker_pass(
            self._reader, max_batch_size=self._max_batch_size, rank=self._group.rank, num_workers=self._group.size
        ):
            beat("a batch of the validation")
            if self._view_measure:
                log_depth, sums = self._view_measure(batch)
                of_views += sums
            else:
                log_depth = self._log_depth(batch.rgb).astype(np.float64)
            depth_pred = to_metres(log_depth, batch.focal) if self._camera == "canonical" else np.exp(log_depth)
            self._add(of_depth, batch, depth_pred * self.metres_per_unit)
        return np.concatenate([of_depth.ravel(), of_views])

    def _log_depth(self, rgb: np.ndarray) -> np.ndarray:
        """Returns the prediction, resized to the images, (B, H, W) float."""
        height, width = rgb.shape[1:3]
        if self._size in ((height, width), (None, None)):
            return self._predict(tf.constant(rgb)).numpy()
        small = [resize_rgb(image, height=self._size[0], width=self._size[1]) for image in rgb]
        predicted = self._predict(tf.constant(np.stack(small))).numpy()
        return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in predicted])

    def _add(self, sums: np.ndarray, batch: SampleBatch, depth_pred: np.ndarray) -> None:
        """Adds the metrics of a batch's images to the sums of their groups."""
        depth_gt = np.exp(batch.log_depth)
        for k, (scene_type, dataset) in enumerate(zip(batch.scene_types, batch.datasets, strict=True)):
            mask = counted_pixels(depth_gt=depth_gt[k], valid_mask=batch.valid_mask[k])
            if not mask.any():
                continue
            pred, aligned = depth_pred[k], math.nan
            if self._view_measure:
                scaled = pred * median_scale(depth_pred=pred, depth_gt=depth_gt[k], valid_mask=mask)
                aligned = image_metrics(depth_pred=scaled, depth_gt=depth_gt[k], valid_mask=mask)["abs_rel"]
                pred = scaled if self._is_relative else pred
            metrics = image_metrics(depth_pred=pred, depth_gt=depth_gt[k], valid_mask=mask)
            image = [1.0, *(metrics[name] for name in METRIC_NAMES), aligned]
            for group in filter(None, (scene_type, self._of_dataset.get(dataset))):
                sums[self._names.index(group)] += image

    def metrics(self, sums: np.ndarray) -> dict[str, float]:
        """Returns means over all workers' images: val/NAME, and val/GROUP/NAME for scene types and data sets.

        With a view measure, also its metrics and val/abs_rel_aligned, after each image was scaled to its median.
        """
        of_depth, of_views = np.split(self._group.sum(sums), [len(self._names) * (len(METRIC_NAMES) + 2)])
        of_depth = of_depth.reshape(len(self._names), -1)
        whole = of_depth[: len(SCENE_TYPES)].sum(axis=0)
        rows = {"val": whole, **{f"val/{name}": of_depth[k] for k, name in enumerate(self._names)}}
        metrics = {
            f"{prefix}/{name}": float(value / row[0])
            for prefix, row in rows.items()
            if row[0] > 0
            for name, value in zip(METRIC_NAMES, row[1:-1], strict=True)
        }
        if self._view_measure:
            aligned = {"val/abs_rel_aligned": float(whole[-1] / whole[0])} if whole[0] > 0 else {}
            metrics |= {**aligned, **self._view_measure.metrics(of_views)}
        return metrics
