"""The distributed evaluator: every sample of a split once, several models side by side in one pass."""

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.util import ActorPool
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from depthflow.datasets.diode import SCENE_TYPES
from depthflow.errors import unwrapped
from depthflow.evaluation.breakdown import Breakdown, image_breakdown, total
from depthflow.evaluation.protocols import Protocol, check_output, rows_of
from depthflow.metrics import image_metrics, mean_over_images
from depthflow.models.interface import LoadPredictor, Output, Predictor
from depthflow.observability.gauges import StageGauges
from depthflow.observability.progress import ProgressLine
from depthflow.placement import ANYWHERE
from depthflow.store.read.reader import SampleBatch, SplitReader
from depthflow.store.schema import PLANE_DTYPES
from depthflow.store.store import SampleStore, open_store

BATCH_SIZE = 8
"""Samples are dealt to batches of this size in the store's order, whatever the number of workers."""
BATCHES_AT_ONCE = 2
"""In each worker: one is predicted while the figures of another are computed."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's metrics, and everything that affects them.

    Attributes:
        protocol: its name.
        fingerprint: the store's.
        split: the split evaluated.
        images: a row an image, sorted by id: row, sample_id, scene_type, the metrics, and pred_min, pred_max over all
            pixels of what the model predicts, before any alignment.
        output: what it predicts.
        breakdowns: scene type to where the model errs.
        image_ms: how long a prediction takes, resizing included: the median over batches, of each process's first
            batch apart; None where there was no other.
    """

    protocol: str
    fingerprint: str
    split: str
    images: tuple[Mapping[str, Any], ...]
    output: Output = "metres"
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    image_ms: float | None = None

    @property
    def samples(self) -> int:
        """Images evaluated."""
        return len(self.images)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics over all images, and over each scene type; NaN where there are none of it."""
        groups = {"all": self.images}
        for scene_type in SCENE_TYPES:
            groups[scene_type] = tuple(image for image in self.images if image["scene_type"] == scene_type)
        return {name: mean_over_images(images) for name, images in groups.items()}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why no one should use these predictions, whatever the figures: not finite, not positive, or flat."""
        low = np.array([image["pred_min"] for image in self.images])
        high = np.array([image["pred_max"] for image in self.images])
        found = []
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            found.append("some predictions are not finite")
        if self.output == "metres" and not (low > 0).all():
            found.append("some predictions are not positive")
        if (high <= low).all():
            found.append("every predicted map is flat")
        return tuple(found)


class Evaluator:
    """A pool of processes that hold models and evaluate them over a split, on a running Ray.

    Args:
        models: name to what loads it in a worker.
        num_workers: processes that hold the models.
        use_gpu: one GPU each.
        label_selector: of the nodes that may have them.
        python: the interpreter of these processes; None for Ray's own.

    Raises:
        ProtocolError: if the protocol does not allow this store.
        StoreError: if the split is missing.
    """

    def __init__(
        self,
        models: Mapping[str, LoadPredictor],
        *,
        store: SampleStore,
        split: str,
        protocol: Protocol,
        num_workers: int,
        use_gpu: bool,
        label_selector: Mapping[str, str] = ANYWHERE,
        python: str | None = None,
    ) -> None:
        self._names, self._store, self._split, self._protocol = tuple(models), store, split, protocol
        rows = rows_of(protocol, store, split)
        self._batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        count = min(num_workers, len(self._batches))
        room = _room_for(count, use_gpu=use_gpu, label_selector=label_selector)
        weakref.finalize(self, _give_back, room).atexit = False
        worker_class = ray.remote(  # pyright: ignore[reportCallIssue]  # Ray's types know no max_concurrency.
            num_cpus=1,
            num_gpus=1 if use_gpu else 0,
            max_restarts=2,
            max_task_retries=2,
            max_concurrency=BATCHES_AT_ONCE,
            scheduling_strategy=PlacementGroupSchedulingStrategy(room),
            runtime_env={"py_executable": python} if python else {},
        )(_EvaluationWorker)
        self._workers = [worker_class.remote(dict(models), protocol, store.files.root, split) for _ in range(count)]

    def evaluate(self) -> dict[str, Evaluation]:
        """Every model over every sample of the split that the protocol takes.

        Raises:
            ProtocolError: if the protocol gives a model without metres none.
        """
        found: dict[str, list[_Evaluated]] = {name: [] for name in self._names}
        pool = ActorPool(self._workers * BATCHES_AT_ONCE)
        line, done, total_rows = ProgressLine("samples evaluated"), 0, sum(map(len, self._batches))
        gauges = StageGauges("evaluation", total=total_rows)
        with unwrapped():
            outputs: Any = ray.get(self._workers[0].outputs.remote())
            for name, output in outputs.items():
                check_output(self._protocol, output, model=name)
            results: Any = pool.map_unordered(lambda worker, rows: worker.evaluate.remote(rows), self._batches)
            for result in results:
                for name, evaluated in result.items():
                    found[name].append(evaluated)
                done += len(next(iter(result.values())).images)
                line(done, total_rows)
                gauges(done, rejects=0)
        return {name: self._joined(evaluated, outputs[name]) for name, evaluated in found.items()}

    def depth_m(self, rows: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        """What the models predict for some rows: model to row to (H, W) float metres, aligned as the protocol says."""
        chunks = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        predicted: dict[str, dict[int, np.ndarray]] = {name: {} for name in self._names}
        results: Any = ActorPool(self._workers).map(lambda worker, chunk: worker.depth_m.remote(chunk), chunks)
        with unwrapped():
            for result in results:
                for name, maps in result.items():
                    predicted[name] |= maps
        return predicted

    def _joined(self, batches: list["_Evaluated"], output: Output) -> Evaluation:
        """All images' rows in the order of their ids, in which sums are taken, too."""
        images = sorted((image for batch in batches for image in batch.images), key=lambda image: image[0]["sample_id"])
        image_ms = [batch.image_ms for batch in batches if batch.image_ms is not None]
        return Evaluation(
            protocol=self._protocol.name,
            fingerprint=self._store.fingerprint,
            split=self._split,
            images=tuple(row for row, _ in images),
            output=output,
            breakdowns={
                scene_type: total(breakdown for row, breakdown in images if row["scene_type"] == scene_type)
                for scene_type in SCENE_TYPES
            },
            image_ms=median(image_ms) if image_ms else None,
        )


class _Evaluated(NamedTuple):
    """What a model gives for a batch: each image's row and breakdown; milliseconds an image, None if not warm."""

    images: list[tuple[dict[str, Any], Breakdown]]
    image_ms: float | None


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """One image's ground truth under the protocol: (H, W) metres, counted pixels, depth edges."""

    depth_gt: np.ndarray
    mask: np.ndarray
    edge_mask: np.ndarray


def _room_for(count: int, *, use_gpu: bool, label_selector: Mapping[str, str]) -> PlacementGroup:
    """Room for all workers at once: of two evaluators that need the same GPUs, one waits, and neither holds a part."""
    bundle = {"CPU": 1.0, **({"GPU": 1.0} if use_gpu else {})}
    return placement_group([bundle] * count, bundle_label_selector=[dict(label_selector)] * count)


def _give_back(room: PlacementGroup) -> None:
    if ray.is_initialized():
        remove_placement_group(room)


class _EvaluationWorker:
    """One process: holds the models and reads its batches itself.

    While one batch is predicted, the figures of the one before are computed.
    """

    def __init__(self, models: Mapping[str, LoadPredictor], protocol: Protocol, store_root: str, split: str) -> None:
        self._protocol = protocol
        self._reader = SplitReader(open_store(store_root), split, planes=tuple(PLANE_DTYPES), cache_bytes=0)
        self._models = {name: load() for name, load in models.items()}
        self._reading, self._predicting = Lock(), Lock()
        self._warm: set[str] = set()

    def outputs(self) -> dict[str, Output]:
        """Model to what it predicts."""
        return {name: model.output for name, model in self._models.items()}

    def evaluate(self, rows: list[int]) -> dict[str, _Evaluated]:
        """Model to what it gives for the batch."""
        batch = self._read(rows)
        truths = [self._truth(batch, k) for k in range(len(rows))]
        evaluated = {}
        for name, model in self._models.items():
            pred, image_ms = self._predict(name, batch)
            depth_m = [self._metres(model, pred[k], truth) for k, truth in enumerate(truths)]
            images = [
                (
                    {
                        "row": row,
                        "sample_id": batch.sample_ids[k],
                        "scene_type": batch.scene_types[k],
                        "pred_min": float(pred[k].min()),
                        "pred_max": float(pred[k].max()),
                        **image_metrics(depth_pred=depth_m[k], depth_gt=truth.depth_gt, valid_mask=truth.mask),
                    },
                    image_breakdown(depth_pred=depth_m[k], **vars(truth)),
                )
                for k, (row, truth) in enumerate(zip(rows, truths, strict=True))
            ]
            evaluated[name] = _Evaluated(images, image_ms)
        return evaluated

    def depth_m(self, rows: list[int]) -> dict[str, dict[int, np.ndarray]]:
        """Model to row to (H, W) float metres."""
        batch = self._read(rows)
        predicted = {}
        for name, model in self._models.items():
            pred, _ = self._predict(name, batch)
            predicted[name] = {row: self._metres(model, pred[k], self._truth(batch, k)) for k, row in enumerate(rows)}
        return predicted

    def _predict(self, name: str, batch: SampleBatch) -> tuple[np.ndarray, float | None]:
        """The prediction, and milliseconds an image unless it was the model's first in this process."""
        with self._predicting:
            began = time.monotonic()
            pred = self._models[name](batch.rgb)
            image_ms = (time.monotonic() - began) * 1000 / len(pred)
            was_warm = name in self._warm
            self._warm.add(name)
        return pred, image_ms if was_warm else None

    def _read(self, rows: Sequence[int]) -> SampleBatch:
        with self._reading:
            return self._reader.read(rows)

    def _truth(self, batch: SampleBatch, k: int) -> _Truth:
        depth_gt, edge_mask = np.exp(batch.log_depth[k]), batch.edge_mask[k]
        mask = self._protocol.counted(depth_gt=depth_gt, valid_mask=batch.valid_mask[k], edge_mask=edge_mask)
        return _Truth(depth_gt=depth_gt, mask=mask, edge_mask=edge_mask)

    def _metres(self, model: Predictor, pred: np.ndarray, truth: _Truth) -> np.ndarray:
        return self._protocol.metres(pred, depth_gt=truth.depth_gt, mask=truth.mask, output=model.output)
