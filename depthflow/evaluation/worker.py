"""The process that holds the models of an evaluation, and computes metrics and breakdowns batch by batch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from depthflow.evaluation.breakdown import Breakdown, image_breakdown
from depthflow.evaluation.protocols import Protocol
from depthflow.evaluation.reprojection import Reprojected, reprojected
from depthflow.metrics import boundary_metrics, image_metrics
from depthflow.models.interface import LoadPredictor, Output, Predictor
from depthflow.store.read.reader import SampleBatch, SplitReader
from depthflow.store.schema import PLANE_DTYPES
from depthflow.store.store import SampleStore


class Evaluated(NamedTuple):
    """One batch: each image's row and breakdown; milliseconds per image, None for the first batch of a process."""

    images: list[tuple[dict[str, Any], Breakdown]]
    image_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Ground truth of an image under the protocol: (H, W) metres, counted pixels, depth edges."""

    depth_gt: np.ndarray
    mask: np.ndarray
    edge_mask: np.ndarray


class EvaluationWorker:
    """Process that holds the models and reads its batches.

    The metrics of one batch are computed while the next is predicted.
    """

    def __init__(self, models: Mapping[str, LoadPredictor], protocol: Protocol, store: SampleStore, split: str) -> None:
        self._load, self._protocol, self._store, self._split = models, protocol, store, split
        self._models: dict[str, Predictor] = {}
        self._starting, self._reading, self._predicting = Lock(), Lock(), Lock()
        self._warm: set[str] = set()

    def _start(self) -> None:
        """Opens the store and loads the models, once: a constructor's error would not reach the driver."""
        with self._starting:
            if not self._models:
                self._reader = SplitReader(self._store, self._split, planes=tuple(PLANE_DTYPES), cache_bytes=0)
                self._models = {name: load() for name, load in self._load.items()}

    def outputs(self) -> dict[str, Output]:
        """Returns what each model predicts, by name."""
        self._start()
        return {name: model.output for name, model in self._models.items()}

    def evaluate(self, rows: list[int]) -> dict[str, Evaluated]:
        """Evaluates one batch with each model, by name."""
        self._start()
        batch = self._read(rows)
        truths = [self._truth(batch, k) for k in range(len(rows))]
        evaluated = {}
        for name, model in self._models.items():
            pred, image_ms = self._predict(name, batch)
            depth_m = [self._metres(model, pred[k], truth) for k, truth in enumerate(truths)]
            images = []
            for k, (row, truth) in enumerate(zip(rows, truths, strict=True)):
                metrics, breakdown = measured(depth_m[k], truth)
                facts = {
                    "row": row,
                    "sample_id": batch.sample_ids[k],
                    "scene_type": batch.scene_types[k],
                    "dataset": batch.datasets[k],
                    "pred_min": float(pred[k].min()),
                    "pred_max": float(pred[k].max()),
                }
                images.append((facts | metrics, breakdown))
            evaluated[name] = Evaluated(images, image_ms)
        return evaluated

    def depth_m(self, rows: list[int]) -> dict[str, dict[int, np.ndarray]]:
        """Predicts one batch: model to row to (H, W) float metres."""
        self._start()
        batch = self._read(rows)
        predicted = {}
        for name, model in self._models.items():
            pred, _ = self._predict(name, batch)
            predicted[name] = {row: self._metres(model, pred[k], self._truth(batch, k)) for k, row in enumerate(rows)}
        return predicted

    def reprojected(self, depth_m: Mapping[int, np.ndarray]) -> dict[int, Reprojected]:
        """Warps the views of some rows by a depth, (H, W) float metres each; rows without a known pose are left out."""
        reader = SplitReader(self._store, self._split, planes=("rgb", *self._store.views), cache_bytes=0)
        found = {}
        for row, one in depth_m.items():
            batch = reader.read([row])
            assert batch.geometry is not None
            found[row] = reprojected(
                batch.rgb[0], one, views=batch.views[0], geometry=batch.geometry, names=batch.view_names
            )
        return {row: one for row, one in found.items() if one is not None}

    def _predict(self, name: str, batch: SampleBatch) -> tuple[np.ndarray, float | None]:
        """Returns the prediction and, except for a model's first batch in this process, milliseconds per image."""
        with self._predicting:
            began = time.monotonic()
            pred = self._models[name](batch.rgb, batch.focal)
            image_ms = (time.monotonic() - began) * 1000 / len(pred)
            was_warm = name in self._warm
            self._warm.add(name)
        return pred, image_ms if was_warm else None

    def _read(self, rows: Sequence[int]) -> SampleBatch:
        with self._reading:
            return self._reader.read(rows)

    def _truth(self, batch: SampleBatch, k: int) -> Truth:
        depth_gt, edge_mask = np.exp(batch.log_depth[k]), batch.edge_mask[k]
        mask = self._protocol.counted(depth_gt=depth_gt, valid_mask=batch.valid_mask[k], edge_mask=edge_mask)
        return Truth(depth_gt=depth_gt, mask=mask, edge_mask=edge_mask)

    def _metres(self, model: Predictor, pred: np.ndarray, truth: Truth) -> np.ndarray:
        return self._protocol.metres(pred, depth_gt=truth.depth_gt, mask=truth.mask, output=model.output)


def measured(depth_pred: np.ndarray, truth: Truth) -> tuple[dict[str, float], Breakdown]:
    """Returns an image's metrics, depth boundaries included, and its breakdown.

    Args:
        depth_pred: (H, W) float, metres, aligned as the protocol says.
        truth: Ground truth of the image.
    """
    planes = {"depth_pred": depth_pred, "depth_gt": truth.depth_gt, "valid_mask": truth.mask}
    breakdown = image_breakdown(depth_pred=depth_pred, **vars(truth))
    return image_metrics(**planes) | boundary_metrics(**planes) | {"edge_abs_rel": breakdown.edge_abs_rel}, breakdown
