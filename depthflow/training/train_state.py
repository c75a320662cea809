"""What is trained: network, optimizer and the place in the run, as one thing to step, average, save and restore."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import xxhash

from depthflow.errors import TrainingError
from depthflow.models.unet import build_unet, encoder_variables, set_batch_norm
from depthflow.recipe import Recipe
from depthflow.store.read.share import Position
from depthflow.training.checkpoint import Snapshot, TrainingProgress, load_checkpoint, values_of
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import TrainingBatch
from depthflow.training.optimizer import build_optimizer
from depthflow.training.step import Step, StepInput, StepResult, build_step


class TrainState:
    """A recipe's network and optimizer on one worker, equal on all.

    Args:
        recipe: what to train.
        steps_per_epoch: of the training split.
        group: the workers.
        checkpoint: to go on from; or None for a new run, whose pre-trained weights worker 0 alone loads: all take
            over what it has by `share_first_workers`.

    Raises:
        TrainingError: if the pre-trained weights or the checkpoint cannot be loaded.
    """

    def __init__(self, recipe: Recipe, *, steps_per_epoch: int, group: WorkerGroup, checkpoint: Path | None) -> None:
        self.recipe = recipe
        self.group = group
        self.steps_per_epoch = steps_per_epoch
        loads = group.rank == 0 and checkpoint is None
        self.model = build_unet(recipe if loads else recipe.blank())
        set_batch_norm(self.model, recipe.batch_norm)
        self.encoder = encoder_variables(self.model)
        self.optimizer = build_optimizer(
            recipe,
            total_steps=recipe.epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            encoder=self.encoder,
        )
        self.optimizer.build(self.model.trainable_variables)
        self.progress = TrainingProgress(position=Position(seed=recipe.seed, epoch=0))
        if checkpoint is not None:
            self.progress = load_checkpoint(checkpoint, model=self.model, optimizer=self.optimizer)
        self._steps: dict[bool, Step] = {}

    def step(self, batch: TrainingBatch, signals: np.ndarray) -> StepResult:
        """One step on this worker's part of a batch; the result is there when it is looked at."""
        frozen = batch.epoch < self.recipe.frozen_encoder_epochs
        if frozen not in self._steps:
            self._steps[frozen] = build_step(
                model=self.model,
                optimizer=self.optimizer,
                recipe=self.recipe,
                group=self.group,
                frozen=self.encoder if frozen else (),
            )
        return self._steps[frozen](
            StepInput(
                rgb=tf.constant(batch.rgb),
                log_depth=tf.constant(batch.log_depth),
                valid_mask=tf.constant(batch.valid_mask),
                draws=tf.constant(batch.draws),
                signals=tf.constant(signals, tf.float32),
            )
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """For the block, the weights are their moving average, where the recipe keeps one."""
        if self.recipe.ema_momentum is None:
            yield
            return
        variables = self.model.trainable_variables
        current = values_of(variables)
        self.optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, current, strict=True):
                variable.assign(value)

    def snapshot(self) -> Snapshot:
        """All that a checkpoint holds.

        Raises:
            TrainingError: if the weights are not finite: the run could not go on from them.
        """
        model = values_of(self.model.weights)
        if not all(np.isfinite(value).all() for value in model):
            raise TrainingError(
                "The weights are not finite after a step whose loss was. Lower --learning-rate or set --clip-norm."
            )
        averaged = None
        if self.recipe.ema_momentum is not None:
            with self.averaged():
                averaged = values_of(self.model.weights)
        return Snapshot(model=model, optimizer=values_of(self.optimizer.variables), averaged=averaged)

    def checksum(self) -> str:
        """Of all weights and of the optimizer's state."""
        digest = xxhash.xxh3_64()
        for variable in (*self.model.weights, *self.optimizer.variables):
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
        return digest.hexdigest()
