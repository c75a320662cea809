"""The driver's side of training: start Ray Train's workers, wait, and say what came of it."""

import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)

from depthflow.config import Recipe, TrainJob
from depthflow.errors import StoreError, TrainingError
from depthflow.registry.runs import RunLog
from depthflow.samples.epoch import batch_sizes
from depthflow.samples.store import SampleStore
from depthflow.training.task import BEST_METRIC, WorkerTask

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The resources that a run takes.

    Attributes:
        num_workers: data-parallel workers.
        use_gpu: one GPU each.
        cpus_per_worker: CPUs, and threads, of each.
    """

    num_workers: int
    use_gpu: bool
    cpus_per_worker: int


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What a finished run left.

    Attributes:
        network: restored from the checkpoint with the lowest val/abs_rel; uint8 rgb to log-depth.
        metrics: the figures of its epoch.
        checkpoint: that checkpoint's folder.
    """

    network: "keras.Model"
    metrics: dict[str, float]
    checkpoint: str


def plan_training(*, num_workers: int | None, gpus: int, cpus: int) -> TrainingPlan:
    """One worker a GPU where there are GPUs; else two CPU workers, or one on a machine with one CPU.

    Args:
        num_workers: as asked for, or None.
        gpus, cpus: what Ray has.

    Raises:
        TrainingError: if the workers asked for can never be placed.
    """
    if gpus:
        wanted = num_workers or gpus
        if wanted > gpus:
            raise TrainingError(f"{wanted} workers need {wanted} GPUs, one each; Ray has {gpus}. Lower --num-workers.")
        if wanted > cpus:
            raise TrainingError(f"{wanted} workers need {wanted} CPUs, one each; Ray has {cpus}. Lower --num-workers.")
        return TrainingPlan(num_workers=wanted, use_gpu=True, cpus_per_worker=min(8, cpus // wanted))
    wanted = num_workers or max(1, min(2, cpus))
    if wanted > cpus:
        raise TrainingError(f"{wanted} workers need {wanted} CPUs, one each; Ray has {cpus}. Lower --num-workers.")
    return TrainingPlan(num_workers=wanted, use_gpu=False, cpus_per_worker=cpus // wanted)


def check_store(store: SampleStore, recipe: Recipe, plan: TrainingPlan) -> None:
    """Refuses a store that the recipe cannot be trained on, before any worker starts.

    Raises:
        StoreError: if a split is missing, or the samples have another size than the network.
        TrainingError: if a batch would leave a worker without an image.
    """
    train, _ = store.split_index("train"), store.split_index("val")
    if (store.height, store.width) != (recipe.height, recipe.width):
        raise StoreError(
            f"The store {store.files.root} holds samples of {store.height} x {store.width}, the recipe {recipe.name} "
            f"trains at {recipe.height} x {recipe.width}. Preprocess with --height {recipe.height} --width "
            f"{recipe.width}, or train with --height {store.height} --width {store.width}."
        )
    smallest = min(batch_sizes(train.num_rows, global_batch_size=recipe.global_batch_size))
    if smallest < plan.num_workers:
        raise TrainingError(
            f"{train.num_rows} training samples in batches of {recipe.global_batch_size} leave a batch of {smallest} "
            f"for {plan.num_workers} workers. Raise --global-batch-size or lower --num-workers."
        )


def train(recipe: Recipe, job: TrainJob, *, store: SampleStore, run_log: RunLog) -> TrainingOutcome:
    """Trains a recipe on a running Ray.

    Args:
        recipe: what to train.
        job: where, and how often a lost worker is made good.
        store: an opened store that passed `check_store`.
        run_log: the MLflow run to write to.

    Raises:
        TrainingError: if the run failed.
    """
    from ray.train.tensorflow import TensorflowTrainer  # Imports TensorFlow, which takes seconds.

    resources = ray.cluster_resources()
    plan = plan_training(
        num_workers=job.num_workers, gpus=int(resources.get("GPU", 0)), cpus=int(resources.get("CPU", 0))
    )
    check_store(store, recipe, plan)
    task = WorkerTask(recipe=recipe, samples=store.files.root, run_log=run_log, cpus=plan.cpus_per_worker)

    def run_worker(_config: dict[str, Any]) -> dict[str, str]:
        from depthflow.training.worker import train_worker  # Imports TensorFlow, in the worker alone.

        return train_worker(task)

    trainer = TensorflowTrainer(
        run_worker,
        train_loop_config=asdict(recipe),
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers,
            use_gpu=plan.use_gpu,
            resources_per_worker={"CPU": plan.cpus_per_worker, **({"GPU": 1} if plan.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=unique_name(recipe.name),
            storage_path=str(Path(job.storage).absolute()),
            logging_config=LoggingConfig(log_level="ERROR"),
            failure_config=FailureConfig(max_failures=job.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=job.keep_checkpoints,
                checkpoint_score_attribute=BEST_METRIC,
                checkpoint_score_order="min",
            ),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"Training failed after {job.max_failures} retries: {error}") from error
    status: Any = result.return_value
    if status["status"] != "ok":
        raise TrainingError(status["error"])
    kept = [(c, figures) for c, figures in result.best_checkpoints or [] if np.isfinite(figures[BEST_METRIC])]
    if not kept:
        raise TrainingError(
            f"No epoch ended with a finite {BEST_METRIC}: the predictions overflow. Lower --learning-rate."
        )
    best, metrics = min(kept, key=lambda checkpoint_and_figures: checkpoint_and_figures[1][BEST_METRIC])
    return TrainingOutcome(network=restore_network(recipe, best), metrics=metrics, checkpoint=best.path)


def restore_network(recipe: Recipe, checkpoint: Checkpoint) -> "keras.Model":
    """The recipe's network with a checkpoint's weights."""
    from depthflow.models.unet import build_unet  # Imports TensorFlow, which takes seconds.
    from depthflow.training.checkpoint import load_checkpoint

    network = build_unet(replace(recipe, encoder_weights="none"))
    with checkpoint.as_directory() as folder:
        load_checkpoint(Path(folder), model=network)
    return network


def unique_name(recipe_name: str) -> str:
    """A run's name; never one that was used before, since Ray Train resumes a used name without asking."""
    return f"{recipe_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
