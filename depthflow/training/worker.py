"""What every training worker runs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import keras
import ray.train
import tensorflow as tf

from depthflow.errors import DepthflowError
from depthflow.observability.logs import configure_logging
from depthflow.registry.spool import MetricSpool
from depthflow.store.read.epoch import batch_sizes
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import open_store
from depthflow.training.collective import WorkerGroup
from depthflow.training.kept_checkpoints import KeptCheckpoints, open_checkpoints
from depthflow.training.live_metrics import LiveFigures
from depthflow.training.loop import TrainingLoop
from depthflow.training.node_metrics import NodeMonitor
from depthflow.training.saver import CheckpointSaver
from depthflow.training.task import WorkerTask
from depthflow.training.train_state import TrainState
from depthflow.training.validation import Validator
from depthflow.training.watchdog import Watchdog

T = TypeVar("T")

SPOOL_CLOSE_S = 10.0
"""What is not with MLflow by then is left to the driver."""


def train_worker(task: WorkerTask) -> dict[str, Any]:
    """Trains this worker's part of the run, from the latest checkpoint if there is one.

    Returns:
        status ok; or status failed, the error and its details, for what a retry would not mend.
    """
    watchdog = Watchdog(task.step_timeout_s)
    try:
        context = ray.train.get_context()
        configure_logging(task.run_log.run_id)
        configure_process(task.cpus, seed=task.recipe.seed, xla=task.recipe.xla)
        group = WorkerGroup(rank=context.get_world_rank(), size=context.get_world_size())
        with ExitStack() as stack:
            [spool] = _by_all(group, lambda: [stack.enter_context(_metric_spool(task, group))])
            kept = stack.enter_context(open_checkpoints(task.checkpoints))
            _training_loop(task, group, watchdog, spool, kept).run()
    except DepthflowError as error:  # Raised on all workers alike: none is left waiting for the others.
        return {"status": "failed", "error": str(error), "details": error.details}
    finally:
        watchdog.stop()
    return {"status": "ok"}


def configure_process(cpus: int, *, seed: int, xla: bool = False) -> None:
    """Threads, logs and randomness of a training process; before TensorFlow does anything.

    Operations are made deterministic on CPUs alone: on GPUs it costs speed, and some have no such kernel there. XLA's
    need not be told, and refuses the gradient of max pooling if they are.
    """
    tf.get_logger().setLevel("ERROR")
    logging.getLogger().setLevel(logging.WARNING)
    tf.config.threading.set_intra_op_parallelism_threads(cpus)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(seed)
    if not xla and not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


@contextmanager
def _metric_spool(task: WorkerTask, group: WorkerGroup) -> Iterator[MetricSpool | None]:
    """Worker 0's way to MLflow."""
    if group.rank != 0:
        yield None
        return
    spool = MetricSpool(task.spool, task.run_log)
    try:
        yield spool
    finally:
        spool.close(SPOOL_CLOSE_S)


def _training_loop(
    task: WorkerTask, group: WorkerGroup, watchdog: Watchdog, spool: MetricSpool | None, kept: KeptCheckpoints
) -> TrainingLoop:
    """Each part is made without a word to the others; then all agree that they have it."""
    recipe = task.recipe

    def readers() -> tuple[SplitReader, SplitReader]:
        store = open_store(task.samples)
        return (
            SplitReader(store, "train", cache_bytes=task.cache_bytes, cache_dir=task.cache_dir),
            SplitReader(store, "val", cache_bytes=0, cache_dir=task.cache_dir),  # All memory is for training.
        )

    train_reader, val_reader = _by_all(group, readers)
    steps_per_epoch = len(batch_sizes(len(train_reader), global_batch_size=recipe.global_batch_size))

    def name_of_latest() -> str:
        latest = kept.latest() if group.rank == 0 else None
        return latest.name if latest else ""

    name = group.gather_texts(_by_all(group, name_of_latest))[0]

    def start() -> TrainState:
        checkpoint = kept.fetch(name) if name else None
        return TrainState(recipe, steps_per_epoch=steps_per_epoch, group=group, checkpoint=checkpoint)

    train_state = _by_all(group, start)
    if not name:
        group.share_first_workers(train_state.model.weights)
    return TrainingLoop(
        train_state,
        reader=train_reader,
        steps_per_epoch=steps_per_epoch,
        validator=Validator(
            train_state.model,
            val_reader,
            group,
            max_batch_size=max(1, recipe.global_batch_size // group.size),
        ),
        watchdog=watchdog,
        saver=CheckpointSaver(kept, keep=task.keep_checkpoints) if group.rank == 0 else None,
        spool=spool,
        monitor=NodeMonitor() if ray.train.get_context().get_local_rank() == 0 else None,
        checkpoint_every_steps=task.checkpoint_every_steps,
        draining=lambda: ray.train.get_preemption_info() is not None,
        drain_poll_s=task.drain_poll_s,
        live=LiveFigures(task.run_log.run_id) if group.rank == 0 else None,
    )


def _by_all(group: WorkerGroup, make: Callable[[], T]) -> T:
    """What every worker makes for itself.

    Raises:
        TrainingError: on all workers, if one of them could not.
    """
    try:
        made, error = make(), ""
    except DepthflowError as caught:
        made, error = None, str(caught)
    group.agree(error)
    assert made is not None
    return made
