"""Metrics of the validation split after an epoch, at the stored resolution, reduced over workers as sums and counts."""

from collections.abc import Callable

import cv2
import keras
import numpy as np
import tensorflow as tf

from depthflow.datasets.frames import SCENE_TYPES
from depthflow.metrics import METRIC_NAMES, counted_pixels, dataset_groups, image_metrics
from depthflow.models.canonical_camera import CameraName, to_metres
from depthflow.models.network import serving_network
from depthflow.store.read.reader import SplitReader, worker_pass
from depthflow.store.write.planes import resize_rgb
from depthflow.training.collective import WorkerGroup


class Validator:
    """Computes the split's metrics with all workers.

    Each worker reads its own part of the split; together they read every sample.
    """

    def __init__(
        self,
        model: keras.Model,
        reader: SplitReader,
        group: WorkerGroup,
        *,
        max_batch_size: int,
        camera: CameraName = "none",
    ) -> None:
        self._reader, self._group, self._max_batch_size, self._camera = reader, group, max_batch_size, camera
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
            (scene types and, if there are several, data sets, 1 + metrics) float64: number of images, then the sum of
            each metric.
        """
        sums = np.zeros((len(self._names), len(METRIC_NAMES) + 1))
        for batch in worker_pass(
            self._reader, max_batch_size=self._max_batch_size, rank=self._group.rank, num_workers=self._group.size
        ):
            beat("a batch of the validation")
            log_depth = self._log_depth(batch.rgb).astype(np.float64)
            depth_pred = to_metres(log_depth, batch.focal) if self._camera == "canonical" else np.exp(log_depth)
            depth_gt = np.exp(batch.log_depth)
            for k, (scene_type, dataset) in enumerate(zip(batch.scene_types, batch.datasets, strict=True)):
                mask = counted_pixels(depth_gt=depth_gt[k], valid_mask=batch.valid_mask[k])
                metrics = image_metrics(depth_pred=depth_pred[k], depth_gt=depth_gt[k], valid_mask=mask)
                if mask.any():
                    image = [1.0, *(metrics[name] for name in METRIC_NAMES)]
                    for group in filter(None, (scene_type, self._of_dataset.get(dataset))):
                        sums[self._names.index(group)] += image
        return sums

    def _log_depth(self, rgb: np.ndarray) -> np.ndarray:
        """Returns the prediction, resized to the images, (B, H, W) float."""
        height, width = rgb.shape[1:3]
        if self._size in ((height, width), (None, None)):
            return self._predict(tf.constant(rgb)).numpy()
        small = [resize_rgb(image, height=self._size[0], width=self._size[1]) for image in rgb]
        predicted = self._predict(tf.constant(np.stack(small))).numpy()
        return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in predicted])

    def metrics(self, sums: np.ndarray | None) -> dict[str, float]:
        """Returns means over all workers' images: val/NAME, and val/GROUP/NAME for scene types and data sets."""
        assert sums is not None
        sums = self._group.sum(sums)
        whole = sums[: len(SCENE_TYPES)].sum(axis=0)
        rows = {"val": whole, **{f"val/{name}": sums[k] for k, name in enumerate(self._names)}}
        return {
            f"{prefix}/{name}": float(value / row[0])
            for prefix, row in rows.items()
            if row[0] > 0
            for name, value in zip(METRIC_NAMES, row[1:], strict=True)
        }
