"""What every training worker runs."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import keras
import ray.train
import tensorflow as tf

from depthflow.errors import DepthflowError
from depthflow.observability.logs import configure_logging
from depthflow.registry.spool import MetricSpool
from depthflow.store.read.epoch import batch_sizes
from depthflow.store.read.reader import SplitReader
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import planes_of
from depthflow.training.initial_depth import begin_at_likely_depth
from depthflow.training.job import WorkerTask
from depthflow.training.kept_checkpoints import KeptCheckpoints, open_checkpoints
from depthflow.training.learner import Learner
from depthflow.training.loop import TrainingLoop
from depthflow.training.node_metrics import NodeMetrics
from depthflow.training.observers import Observer, ProgressDisplay, RunRecorder, TrainingGauges
from depthflow.training.saver import CheckpointSaver
from depthflow.training.scale import ScaleMeter
from depthflow.training.suitability import measurable
from depthflow.training.train_state import TrainState
from depthflow.training.validation import Validator
from depthflow.training.view_measure import ViewMeasure
from depthflow.training.watchdog import Watchdog

T = TypeVar("T")

SPOOL_CLOSE_S = 10.0
"""How long worker 0 waits for MLflow at the end; the driver logs what is left."""


def train_worker(task: WorkerTask) -> dict[str, Any]:
    """Trains this worker's part of the run, from the latest checkpoint if there is one.

    Returns:
        status "ok"; or status "failed", error and details for a failure that a retry would not fix.
    """
    watchdog = Watchdog(task.job.step_timeout_s)
    try:
        context = ray.train.get_context()
        configure_logging(task.run_log.run_id)
        configure_process(task.cpus, seed=task.recipe.seed, xla=task.recipe.xla)
        group = WorkerGroup(rank=context.get_world_rank(), size=context.get_world_size())
        with ExitStack() as stack:
            kept = stack.enter_context(open_checkpoints(task.folder.checkpoints, task.folder.lock))
            parts = _training_parts(task, group, kept)

            def recorders() -> list[Observer]:
                if group.rank > 0:
                    return []
                spool = MetricSpool(task.folder.spool, task.run_log)
                stack.callback(spool.close, SPOOL_CLOSE_S)
                saver = CheckpointSaver(kept, keep=task.job.keep_checkpoints)
                display = ProgressDisplay(parts.train_state)
                return [RunRecorder(saver, spool), display, TrainingGauges(task.run_log.run_id)]

            node_metrics = NodeMetrics(group, is_sampled_here=context.get_local_rank() == 0)
            TrainingLoop(
                parts.train_state,
                task.job,
                reader=parts.reader,
                validator=parts.validator,
                scale_meter=parts.scale_meter,
                observers=[watchdog, node_metrics, *_on_all(group, recorders)],
                draining=lambda: ray.train.get_preemption_info() is not None,
            ).run()
    except DepthflowError as error:  # Raised on all workers alike: none is left waiting for the others.
        return {"status": "failed", "error": str(error), "details": error.details}
    finally:
        watchdog.stop()
    return {"status": "ok"}


def configure_process(cpus: int, *, seed: int, xla: bool = False) -> None:
    """Sets threads, logging and random seeds of a training process, before TensorFlow does anything.

    Operations are made deterministic only on CPUs: on GPUs this costs speed, and some operations have no deterministic
    kernel there. XLA is deterministic anyway, and has no gradient of max pooling in deterministic mode.
    """
    tf.get_logger().setLevel("ERROR")
    logging.getLogger().setLevel(logging.WARNING)
    tf.config.threading.set_intra_op_parallelism_threads(cpus)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(seed)
    if not xla and not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


class TrainingParts(NamedTuple):
    """What the loop of a worker is made of."""

    train_state: TrainState
    reader: SplitReader
    validator: Validator
    scale_meter: ScaleMeter | None


def _training_parts(task: WorkerTask, group: WorkerGroup, kept: KeptCheckpoints) -> TrainingParts:
    """Makes what the loop needs. Each part is made without communication; then all workers agree that they have it."""
    recipe, job = task.recipe, task.job

    def readers() -> tuple[SplitReader, SplitReader]:
        planes = planes_of(recipe, task.store)
        shared: Any = {"planes": planes, "cache_dir": job.cache_dir, "assume_fov_deg": recipe.assume_fov_deg}
        return (
            SplitReader(task.store, "train", cache_bytes=job.cache_bytes, **shared),
            SplitReader(task.store, "val", cache_bytes=0, **shared),  # Training gets all the memory.
        )

    def name_of_latest() -> str:
        latest = kept.latest() if group.rank == 0 else None
        return latest.name if latest else ""

    train_reader, val_reader = _on_all(group, readers)
    steps_per_epoch = len(batch_sizes(len(train_reader), global_batch_size=recipe.global_batch_size))
    name = group.gather_texts(_on_all(group, name_of_latest))[0]

    def start() -> TrainState:
        checkpoint = kept.fetch(name) if name else None
        train_state = TrainState(recipe, steps_per_epoch=steps_per_epoch, group=group, checkpoint=checkpoint)
        if group.rank == 0 and checkpoint is None and recipe.views_from:
            begin_at_likely_depth(train_state.model, recipe, train_reader)
        return train_state

    train_state = _on_all(group, start)
    if not name:
        group.broadcast(train_state.model.weights)
    max_batch_size = max(1, recipe.global_batch_size // group.size)
    learner = Learner(train_state.model, recipe) if recipe.views_from else None
    validator = Validator(
        train_state.model,
        val_reader,
        group,
        max_batch_size=max_batch_size,
        camera=recipe.camera,
        view_measure=ViewMeasure(learner) if learner else None,
        is_relative=recipe.output == "relative depth",
    )
    scale_meter = None
    if learner and recipe.learns_poses and recipe.scale_from:
        rows = measurable(task.store, recipe.scale_from)
        scale_meter = ScaleMeter(learner, train_reader, group, recipe, rows=rows, max_batch_size=max_batch_size)
    return TrainingParts(train_state, train_reader, validator, scale_meter)


def _on_all(group: WorkerGroup, make: Callable[[], T]) -> T:
    """Returns what this worker makes, once all workers have made theirs.

    Raises:
        TrainingError: on all workers, if one of them failed.
    """
    try:
        made, error = make(), ""
    except DepthflowError as caught:
        made, error = None, str(caught)
    group.agree(error)
    assert made is not None
    return made
