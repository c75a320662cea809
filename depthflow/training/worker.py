"""What every training worker runs."""

import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import ray.train
import tensorflow as tf
import xxhash
from ray.train.collective import broadcast_from_rank_zero

from depthflow.errors import DepthflowError, TrainingError
from depthflow.models.losses import LOSSES
from depthflow.models.unet import build_unet, set_batch_norm
from depthflow.progress import ProgressLine
from depthflow.samples.epoch import batch_sizes
from depthflow.samples.reader import SplitReader
from depthflow.samples.share import Position
from depthflow.samples.store import open_store
from depthflow.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import read_ahead, training_batches
from depthflow.training.optimizer import build_optimizer
from depthflow.training.step import build_step
from depthflow.training.task import WorkerTask
from depthflow.training.validation import Validator


def train_worker(task: WorkerTask) -> dict[str, str]:
    """Trains this worker's part of the run.

    Returns:
        status ok; or status failed and the error, for what a retry would not mend.
    """
    context = ray.train.get_context()
    tf.get_logger().setLevel("ERROR")
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train reports every epoch's figures in one long line.
    tf.config.threading.set_intra_op_parallelism_threads(task.cpus)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(task.recipe.seed)
    if not tf.config.list_physical_devices("GPU"):  # There it costs speed, and some operations have no such kernel.
        tf.config.experimental.enable_op_determinism()
    group = WorkerGroup(rank=context.get_world_rank(), size=context.get_world_size())
    try:
        run, error = _Run(task, group), ""
    except DepthflowError as caught:
        run, error = None, str(caught)
        print(f"error on worker {group.rank}: {error}", file=sys.stderr, flush=True)
    if group.sum([float(run is None)])[0] > 0 or run is None:
        return {
            "status": "failed",
            "error": error or "Another worker could not start: its message is in the log above.",
        }
    group.share_first_workers(run.model)
    try:
        run.train()
    except TrainingError as caught:  # Raised on all workers alike, since the loss that they see is the reduced one.
        return {"status": "failed", "error": str(caught)}
    return {"status": "ok"}


class _Run:
    """A worker's state: model, optimizer, readers and position. Made without a word to other workers."""

    def __init__(self, task: WorkerTask, group: WorkerGroup) -> None:
        recipe = task.recipe
        store = open_store(task.samples)
        self.task, self.recipe, self.group = task, recipe, group
        self.train_reader = SplitReader(store, "train", cache_bytes=task.cache_bytes, cache_dir=task.cache_dir)
        self.steps_per_epoch = len(batch_sizes(len(self.train_reader), global_batch_size=recipe.global_batch_size))
        # Worker 0 alone loads pre-trained weights: all workers then take over what it has.
        loads = group.rank == 0 and ray.train.get_checkpoint() is None
        self.model = build_unet(recipe if loads else replace(recipe, encoder_weights="none", batch_norm="synchronized"))
        set_batch_norm(self.model, recipe.batch_norm)
        self.optimizer = build_optimizer(recipe, total_steps=recipe.epochs * self.steps_per_epoch)
        self.optimizer.build(self.model.trainable_variables)
        self.progress = self._restore() or Progress(epochs_done=0, steps_done=0, seed=recipe.seed)
        self.step = build_step(model=self.model, optimizer=self.optimizer, pixel_loss=LOSSES[recipe.loss], group=group)
        self.validator = Validator(
            self.model,
            SplitReader(store, "val", cache_bytes=0, cache_dir=task.cache_dir),  # All memory is for training.
            group,
            max_batch_size=max(1, recipe.global_batch_size // group.size),
        )

    def _restore(self) -> Progress | None:
        """Position of the checkpoint that Ray Train offers after a failure, or None for a new run."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            progress = load_checkpoint(Path(folder), model=self.model, optimizer=self.optimizer)
        if progress.seed != self.recipe.seed:
            raise TrainingError(f"The checkpoint is of seed {progress.seed}, the recipe of seed {self.recipe.seed}.")
        return progress

    def train(self) -> None:
        """All epochs that are left, each followed by validation, a log entry and a checkpoint."""
        first = self.progress.epochs_done
        line = ProgressLine("epochs")
        for epoch in range(first, self.recipe.epochs):
            step_losses, speed = self._train_epoch(epoch)
            metrics = {"train/loss": float(np.mean(step_losses)), **speed, **self.validator.figures()}
            self._compare_weights()
            steps_before = self.progress.steps_done
            self.progress = Progress(
                epochs_done=epoch + 1, steps_done=steps_before + self.steps_per_epoch, seed=self.recipe.seed
            )
            self._report(metrics)
            if self.group.rank == 0:  # After the checkpoint: an epoch that is done again is logged once.
                self.task.run_log.metrics(metrics, step=epoch + 1)
                self.task.run_log.series("train/step_loss", step_losses, first_step=steps_before + 1)
                line(epoch + 1, self.recipe.epochs)

    def _train_epoch(self, epoch: int) -> tuple[list[float], dict[str, float]]:
        """One pass over the training split; each step's loss, and the speed."""
        batches = training_batches(
            self.train_reader,
            self.recipe,
            position=Position(seed=self.recipe.seed, epoch=epoch),
            rank=self.group.rank,
            num_workers=self.group.size,
        )
        losses: list[float] = []
        started, waited_s = time.monotonic(), 0.0
        waiting_since = started
        for batch in read_ahead(batches):
            waited_s += time.monotonic() - waiting_since
            loss = float(self.step(tf.constant(batch.rgb), tf.constant(batch.log_depth), tf.constant(batch.valid_mask)))
            if not np.isfinite(loss):
                names = ", ".join(self.train_reader.sample_ids[row] for row in batch.batch_rows)
                raise TrainingError(
                    f"The loss became {loss} in epoch {epoch + 1}, step {len(losses) + 1}, on the samples {names}. "
                    "Lower --learning-rate, set --clip-norm, or look at these samples."
                )
            losses.append(loss)
            waiting_since = time.monotonic()
        seconds = time.monotonic() - started
        return losses, {
            "perf/epoch_s": seconds,
            "perf/images_per_s": len(self.train_reader) / seconds,
            "perf/data_wait_fraction": waited_s / seconds,
        }

    def _compare_weights(self) -> None:
        """All workers must hold the same weights, to the last bit."""
        checksum = xxhash.xxh3_64()
        for weight in self.model.get_weights():
            checksum.update(weight.tobytes())
        mine = checksum.hexdigest()
        first = broadcast_from_rank_zero(mine)
        if self.group.sum([float(first != mine)])[0] > 0:
            raise TrainingError(
                "The workers' weights have drifted apart, which the synchronised step rules out: their machines or "
                "libraries differ. Run pipelines/train.py on nodes of one kind."
            )

    def _report(self, metrics: Mapping[str, float]) -> None:
        """Hands a checkpoint with its figures to Ray Train; every worker calls it, worker 0 brings the files."""
        if self.group.rank != 0:
            ray.train.report(dict(metrics))
            return
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), model=self.model, optimizer=self.optimizer, progress=self.progress)
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))
