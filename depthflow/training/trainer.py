"""The driver's side of training: starts Ray Train's workers, waits for them, and returns the best network."""

import math
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from depthflow.errors import TrainingError, unwrapped
from depthflow.models.transformers_folder import is_hub_name
from depthflow.observability.noise import quiet_native_code
from depthflow.parts import is_transformer
from depthflow.placement import TrainingPlan, cluster_capacity, plan_training
from depthflow.recipe import Recipe
from depthflow.registry.runs import RunLog
from depthflow.storage.files import open_files
from depthflow.storage.lock import HEARTBEAT_S
from depthflow.store.read.epoch import batch_sizes
from depthflow.store.store import SampleStore
from depthflow.training.backend import TensorflowConfig
from depthflow.training.config import BEST_METRICS, TrainJob
from depthflow.training.job import JobFolder, WorkerTask

if TYPE_CHECKING:
    import keras

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """The result of a finished run.

    Attributes:
        network: Network of the best checkpoint, from uint8 rgb to log-depth.
        metrics: Metrics of its epoch.
        epoch: The epoch, from 1.
        checkpoint: Folder or URI of the checkpoint.
    """

    network: "keras.Model"
    metrics: dict[str, float]
    epoch: int
    checkpoint: str


def absolute_weights(weights: str, *, encoder: str) -> str:
    """Returns the argument with a path made absolute, since Ray Train changes its workers' directory.

    Raises:
        TrainingError: if it is none of what the encoder takes.
    """
    path, transformer = Path(weights).absolute(), is_transformer(encoder)
    if weights == "none" or (is_hub_name(weights) if transformer else weights == "imagenet"):
        return weights
    if not (path.is_dir() if transformer else path.is_file()):
        kinds = "none, a transformers folder or OWNER/NAME" if transformer else "imagenet, none or a .weights.h5 file"
        raise TrainingError(f"There are no weights at {path}. Pass --weights {kinds}.")
    return str(path)


def check_batches(samples: int, recipe: Recipe, *, num_workers: int) -> None:
    """Checks that every worker has an image in each part of every batch.

    Raises:
        TrainingError: if not, with the flags to change.
    """
    smallest = min(batch_sizes(samples, global_batch_size=recipe.global_batch_size))
    if smallest < num_workers * recipe.accumulation_steps:
        parts = f" in {recipe.accumulation_steps} parts each" if recipe.accumulation_steps > 1 else ""
        raise TrainingError(
            f"{samples} training samples in batches of {recipe.global_batch_size} leave a batch of {smallest} "
            f"for {num_workers} workers{parts}. Raise --global-batch-size, or lower --num-workers or "
            "--accumulation-steps."
        )


def train(recipe: Recipe, job: TrainJob, folder: JobFolder, *, store: SampleStore, run_log: RunLog) -> TrainingOutcome:
    """Trains a recipe on a running Ray, from the job's latest checkpoint if it has one.

    Raises:
        TrainingError: if the run failed.
        PlacementError: if its workers can never be placed.
    """
    plan = plan_training(num_workers=job.num_workers, **cluster_capacity())
    check_batches(store.split_index("train").num_rows, recipe, num_workers=plan.num_workers)
    run_on_workers(worker_task(recipe, job, folder, store=store, run_log=run_log, plan=plan), plan)
    return best_outcome(recipe, folder.checkpoints)


def run_on_workers(task: WorkerTask, plan: TrainingPlan) -> None:
    """Runs the workers, and restarts them when one is lost.

    Raises:
        TrainingError: if they were lost too often, or failed in a way that a retry would not fix.
        LockLostError: if another process has taken over the job.
    """
    filesystem, path = open_files(task.folder.ray).arrow()
    trainer = DataParallelTrainer(
        run_worker,
        train_loop_config={"task": task},
        backend_config=TensorflowConfig(),
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers,
            use_gpu=plan.use_gpu,
            resources_per_worker={"CPU": plan.cpus_per_worker, **({"GPU": 1} if plan.use_gpu else {})},
            label_selector=dict(plan.label_selector) or None,
        ),
        run_config=RunConfig(
            name=f"workers-{uuid.uuid4().hex[:6]}",  # A used name would restore Ray's own state.
            storage_path=path,
            storage_filesystem=filesystem,
            logging_config=LoggingConfig(log_level="ERROR"),
            failure_config=FailureConfig(max_failures=task.job.max_failures),
            worker_runtime_env={"env_vars": tensorflow_environment(task.recipe)},
        ),
    )
    try:
        with unwrapped():
            status: Any = _in_thread(trainer.fit, meanwhile=task.folder.check_lock).return_value
    except TrainingFailedError as error:
        cause = str(error).strip().splitlines()[-1]  # Ray has printed the workers' tracebacks.
        raise TrainingError(f"Training failed after {task.job.max_failures} retries: {cause}") from error
    if status["status"] != "ok":
        raise TrainingError(status["error"], details=status["details"])


def _in_thread(function: Callable[[], T], *, meanwhile: Callable[[], None]) -> T:
    """Runs a function in a thread, since in the main thread Ray Train would replace the handler of Ctrl-C.

    Args:
        meanwhile: Called every few seconds and at the end; what it raises ends the wait.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while wait([future], timeout=HEARTBEAT_S).not_done:
        meanwhile()
    meanwhile()
    return future.result()


def tensorflow_environment(recipe: Recipe) -> dict[str, str]:
    """Returns environment variables that TensorFlow reads when it is imported."""
    return {"TF_ENABLE_ONEDNN_OPTS": str(int(recipe.onednn))}


def worker_task(
    recipe: Recipe, job: TrainJob, folder: JobFolder, *, store: SampleStore, run_log: RunLog, plan: TrainingPlan
) -> WorkerTask:
    """Returns the workers' task. Its paths are absolute, since Ray Train changes its workers' directory."""
    cache_dir = str(Path(job.cache_dir).absolute()) if job.cache_dir else None
    job = replace(job, cache_dir=cache_dir)
    return WorkerTask(recipe=recipe, job=job, store=store, folder=folder, run_log=run_log, cpus=plan.cpus_per_worker)


def run_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Runs in each of Ray Train's workers."""
    from depthflow.training.worker import train_worker  # Imports TensorFlow, only in the workers.

    return train_worker(config["task"])


def best_outcome(recipe: Recipe, checkpoints: str) -> TrainingOutcome:
    """Returns the network of the best checkpoint with the metrics of its epoch.

    Raises:
        TrainingError: if no epoch ended with finite metrics.
    """
    with quiet_native_code():  # It takes seconds.
        from depthflow.models.blocks import adapt
        from depthflow.models.network import serving_network, shift_log_depth, training_network
        from depthflow.training.checkpoint import best, load_checkpoint
        from depthflow.training.scale import METRES_PER_UNIT
    from depthflow.training.kept_checkpoints import open_checkpoints

    with open_checkpoints(checkpoints) as kept:
        kept.refresh()
        found = best(kept.folder)
        if found is None:
            raise TrainingError(
                f"No epoch ended with a finite {' or '.join(BEST_METRICS)}: the predictions overflow. Lower "
                "--learning-rate."
            )
        name, progress = found[0].name, found[1]
        network = training_network(recipe.blank())
        adapt(network, rank=recipe.lora_rank)
        load_checkpoint(kept.fetch(name), model=network)
        shift_log_depth(network, math.log(progress.metrics.get(METRES_PER_UNIT, 1.0)))
    return TrainingOutcome(
        network=serving_network(network),
        metrics=dict(progress.metrics),
        epoch=progress.position.epoch,
        checkpoint=f"{checkpoints}/{name}",
    )
