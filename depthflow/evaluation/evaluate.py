"""The distributed evaluator: reads every sample of a split once and evaluates several models in the same pass."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.util import ActorPool
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from depthflow.datasets.frames import SCENE_TYPES
from depthflow.errors import unwrapped
from depthflow.evaluation.breakdown import Breakdown, total
from depthflow.evaluation.protocols import Protocol, check_output, count_without_depth, rows_of
from depthflow.evaluation.reprojection import Reprojected
from depthflow.evaluation.worker import Evaluated, EvaluationWorker
from depthflow.metrics import dataset_groups, mean_over_images
from depthflow.models.interface import LoadPredictor, Output
from depthflow.observability.gauges import StageGauges
from depthflow.observability.logs import tell
from depthflow.observability.progress import ProgressLine
from depthflow.placement import ANYWHERE, cluster_capacity, plan_pool
from depthflow.store.store import SampleStore

BATCH_SIZE = 8
"""Batches of this size are taken in the store's order, whatever the number of workers."""
BATCHES_AT_ONCE = 2
"""Number of batches in each worker: one is predicted while the metrics of another are computed."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's metrics, and everything that affects them.

    Attributes:
        protocol: Name of the protocol.
        fingerprint: Fingerprint of the store.
        split: Split that was evaluated.
        images: One row per image, sorted by id: row, sample_id, scene_type, dataset, the metrics, and pred_min and
            pred_max over all pixels of the prediction before any alignment.
        output: What the model predicts.
        breakdowns: Each of `image_groups` to the errors by depth and by distance to a depth edge.
        without_depth: Number of samples that were left out because they have no depth to compare with.
        image_ms: Milliseconds per predicted image, resizing included: the median over batches, without the first batch
            of each process; None if there was no other.
    """

    protocol: str
    fingerprint: str
    split: str
    images: tuple[Mapping[str, Any], ...]
    output: Output = "metres"
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    without_depth: int = 0
    image_ms: float | None = None

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics over all images and over each of `image_groups`; NaN for a scene type without images."""
        groups = {name: [self.images[k] for k in places] for name, places in image_groups(self.images).items()}
        return {name: mean_over_images(images) for name, images in {"all": self.images, **groups}.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """Everything that must accompany the metrics wherever they are kept."""
        names = ("protocol", "fingerprint", "split", "output", "samples", "without_depth")
        return {**{name: getattr(self, name) for name in names}, "metrics": self.metrics}

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons not to use these predictions, whatever the metrics: not finite, not positive, or flat."""
        low = np.array([image["pred_min"] for image in self.images])
        high = np.array([image["pred_max"] for image in self.images])
        found = []
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            found.append("some predictions are not finite")
        if self.output != "relative inverse depth" and not (low > 0).all():
            found.append("some predictions are not positive")
        if (high <= low).all():
            found.append("every predicted map is flat")
        return tuple(found)


class Shown(NamedTuple):
    """What a report shows of some rows.

    Attributes:
        depth_m: Model to row to (H, W) float metres, aligned as the protocol says.
        reprojected: Row to how its views, warped by the first model's depth, explain it. Empty without views.
    """

    depth_m: dict[str, dict[int, np.ndarray]]
    reprojected: dict[int, Reprojected]


def image_groups(images: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Returns the places of the images of each scene type and, if there are several, of each data set.

    Args:
        images: See `Evaluation`.
    """
    of_dataset = dataset_groups(image["dataset"] for image in images)
    groups: dict[str, list[int]] = {name: [] for name in (*SCENE_TYPES, *of_dataset.values())}
    for place, image in enumerate(images):
        for name in (image["scene_type"], of_dataset.get(image["dataset"])):
            if name in groups:
                groups[name].append(place)
    return groups


def evaluate_models(
    models: Mapping[str, LoadPredictor],
    *,
    store: SampleStore,
    split: str,
    protocol: Protocol,
    num_workers: int | None,
    shown: Callable[[Evaluation], Sequence[int]] = lambda evaluation: (),
) -> tuple[dict[str, Evaluation], Shown]:
    """Evaluates models on a running Ray, in one pass.

    Args:
        models: Name to the function that loads the model in a worker.
        num_workers: Number of processes that hold the models. None: one per GPU, or one without GPUs.
        shown: Returns the rows whose predictions are wanted, given the evaluation of the first model.

    Returns:
        Name to evaluation, and what the rows of `shown` look like.

    Raises:
        ProtocolError: if the protocol does not allow the store or a model.
        StoreError: if the split is missing.
        PlacementError: if the processes can never be placed.
    """
    plan = plan_pool(num_workers, **cluster_capacity())
    with closing(Evaluator(models, store=store, split=split, protocol=protocol, **vars(plan))) as evaluator:
        evaluations = evaluator.evaluate()
        depth_m = evaluator.depth_m(shown(next(iter(evaluations.values()))))
        return evaluations, Shown(depth_m, evaluator.reprojected(next(iter(depth_m.values()))))


class Evaluator:
    """A pool of processes that hold models and evaluate them over a split, on a running Ray.

    Args:
        models: Name to the function that loads the model in a worker.
        num_workers: Number of processes.
        use_gpu: Whether each process gets a GPU.
        label_selector: Labels of the nodes that may run them.

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
    ) -> None:
        self._names, self._store, self._split, self._protocol = tuple(models), store, split, protocol
        rows = rows_of(protocol, store, split)
        self._without_depth = count_without_depth(protocol, store, split)
        if self._without_depth:
            tell(f"{self._without_depth} samples of {split} have no depth and are not counted; {len(rows)} have.")
        self._batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        count = min(num_workers, len(self._batches))
        # All workers are placed at once: of two evaluators that need the same GPUs, one waits instead of holding some.
        bundle = {"CPU": 1.0, **({"GPU": 1.0} if use_gpu else {})}
        group = placement_group([bundle] * count, bundle_label_selector=[dict(label_selector)] * count)
        # To be called: what a finalizer raises by itself, be it an interruption, is ignored.
        self.close = weakref.finalize(self, _remove, group)
        self.close.atexit = False
        worker_class = ray.remote(  # pyright: ignore[reportCallIssue]  # Missing in Ray's types: max_concurrency.
            num_cpus=1,
            num_gpus=1 if use_gpu else 0,
            max_restarts=2,
            max_task_retries=2,
            max_concurrency=BATCHES_AT_ONCE,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        )(EvaluationWorker)
        self._workers = [worker_class.remote(dict(models), protocol, store, split) for _ in range(count)]

    def evaluate(self) -> dict[str, Evaluation]:
        """Evaluates every model on every sample of the split that the protocol includes.

        Raises:
            ProtocolError: if a model without metres is not aligned by the protocol.
        """
        found: dict[str, list[Evaluated]] = {name: [] for name in self._names}
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
        """Predicts some rows: model to row to (H, W) float metres, aligned as the protocol says."""
        chunks = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        predicted: dict[str, dict[int, np.ndarray]] = {name: {} for name in self._names}
        results: Any = ActorPool(self._workers).map(lambda worker, chunk: worker.depth_m.remote(chunk), chunks)
        with unwrapped():
            for result in results:
                for name, maps in result.items():
                    predicted[name] |= maps
        return predicted

    def reprojected(self, depth_m: Mapping[int, np.ndarray]) -> dict[int, Reprojected]:
        """Warps the views of some rows by a depth: row to what they show, if their poses are known."""
        found: dict[int, Reprojected] = {}
        if not self._store.views:
            return found
        single = [{row: one} for row, one in depth_m.items()]
        results: Any = ActorPool(self._workers).map(lambda worker, one: worker.reprojected.remote(one), single)
        with unwrapped():
            for result in results:
                found |= result
        return found

    def _joined(self, batches: list[Evaluated], output: Output) -> Evaluation:
        """Joins the batches, with images and sums in the order of the sample ids."""
        images = sorted((image for batch in batches for image in batch.images), key=lambda image: image[0]["sample_id"])
        image_ms = [batch.image_ms for batch in batches if batch.image_ms is not None]
        return Evaluation(
            protocol=self._protocol.name,
            fingerprint=self._store.fingerprint,
            split=self._split,
            images=tuple(row for row, _ in images),
            output=output,
            breakdowns={
                name: total(images[place][1] for place in places)
                for name, places in image_groups([row for row, _ in images]).items()
            },
            without_depth=self._without_depth,
            image_ms=median(image_ms) if image_ms else None,
        )


def _remove(group: PlacementGroup) -> None:
    if ray.is_initialized():
        remove_placement_group(group)
