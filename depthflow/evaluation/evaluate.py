"""The distributed evaluator: every sample of a split once, several models side by side in one pass."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.util import ActorPool

from depthflow.diode.layout import SCENE_TYPES
from depthflow.errors import unwrapped
from depthflow.evaluation.protocols import Protocol, check_store
from depthflow.metrics import image_metrics, mean_over_images
from depthflow.progress import ProgressLine
from depthflow.samples.reader import SampleBatch, SplitReader
from depthflow.samples.store import SampleStore, open_store

Predict = Callable[[np.ndarray], np.ndarray]
"""(B, H, W, 3) uint8 photographs to (B, H, W) float32 metres."""

LoadPredict = Callable[[], Predict]
"""Makes a `Predict`, once, in a process that will use it."""

BATCH_SIZE = 8
"""Samples are dealt to batches of this size in the store's order, whatever the number of workers."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's figures, and all that they depend on.

    Attributes:
        protocol: its name.
        fingerprint: the store's.
        split: the split evaluated.
        images: a row an image, sorted by id: row, sample_id, scene_type, the metrics, and pred_min_m,
            pred_max_m over all pixels.
    """

    protocol: str
    fingerprint: str
    split: str
    images: tuple[Mapping[str, Any], ...]

    @property
    def samples(self) -> int:
        """Images evaluated."""
        return len(self.images)

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Metrics over all images, and over each scene type; NaN where there are none of it."""
        groups = {"all": self.images}
        for scene_type in SCENE_TYPES:
            groups[scene_type] = tuple(image for image in self.images if image["scene_type"] == scene_type)
        return {name: mean_over_images(images) for name, images in groups.items()}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why no one should use these predictions, whatever the figures: not finite, not positive, or flat."""
        low = np.array([image["pred_min_m"] for image in self.images])
        high = np.array([image["pred_max_m"] for image in self.images])
        found = []
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            found.append("some predictions are not finite")
        if not (low > 0).all():
            found.append("some predictions are not positive")
        if (high <= low).all():
            found.append("every predicted map is flat")
        return tuple(found)


def evaluate(
    models: Mapping[str, LoadPredict],
    *,
    store: SampleStore,
    split: str,
    protocol: Protocol,
    num_workers: int,
    use_gpu: bool,
) -> dict[str, Evaluation]:
    """Evaluates models over every sample of a split, on a running Ray.

    Args:
        models: name to what loads it in a worker.
        num_workers: processes that hold the models.
        use_gpu: one GPU each.

    Raises:
        ProtocolError: if the protocol does not allow this store.
        StoreError: if the split is missing.
    """
    check_store(protocol, store, split)
    total = store.split_index(split).num_rows
    batches = [list(range(start, min(start + BATCH_SIZE, total))) for start in range(0, total, BATCH_SIZE)]
    as_actor = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0, max_restarts=2, max_task_retries=2)
    worker_class = as_actor(_EvaluationWorker)
    count = min(num_workers, len(batches))
    pool = ActorPool([worker_class.remote(dict(models), store.files.root, split) for _ in range(count)])
    line = ProgressLine("samples evaluated")
    images: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    done = 0
    results: Any = pool.map_unordered(lambda worker, rows: worker.evaluate.remote(rows), batches)
    with unwrapped():
        for result in results:
            for name, rows in result.items():
                images[name].extend(rows)
            done += len(next(iter(result.values())))
            line(done, total)
    return {
        name: Evaluation(
            protocol=protocol.name,
            fingerprint=store.fingerprint,
            split=split,
            images=tuple(sorted(rows, key=lambda image: image["sample_id"])),
        )
        for name, rows in images.items()
    }


class _EvaluationWorker:
    """One process: holds the models and reads its batches itself."""

    def __init__(self, models: Mapping[str, LoadPredict], store_root: str, split: str) -> None:
        self._reader = SplitReader(open_store(store_root), split)
        self._predicts = {name: load() for name, load in models.items()}

    def evaluate(self, rows: list[int]) -> dict[str, list[dict[str, Any]]]:
        """Model to a row an image."""
        batch = self._reader.read(rows)
        return {
            name: list(self._image_rows(rows, batch, predict(batch.rgb))) for name, predict in self._predicts.items()
        }

    def _image_rows(self, rows: list[int], batch: SampleBatch, depth_pred: np.ndarray) -> Iterable[dict[str, Any]]:
        for k, row in enumerate(rows):
            metrics = image_metrics(
                depth_pred=depth_pred[k], depth_gt=np.exp(batch.log_depth[k]), valid_mask=batch.valid_mask[k]
            )
            yield {
                "row": row,
                "sample_id": batch.sample_ids[k],
                "scene_type": batch.scene_types[k],
                "pred_min_m": float(depth_pred[k].min()),
                "pred_max_m": float(depth_pred[k].max()),
                **metrics,
            }
