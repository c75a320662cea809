"""The train state: network, optimizer and position in the run, with steps, averaging, snapshots and restoring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import xxhash

from depthflow.errors import TrainingError
from depthflow.models.blocks import adapt
from depthflow.models.network import encoder_variables, set_batch_norm, training_network
from depthflow.recipe import Recipe
from depthflow.store.read.share import Position
from depthflow.training.checkpoint import Snapshot, TrainingProgress, load_checkpoint, values_of
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import TrainingBatch
from depthflow.training.optimizer import build_optimizer
from depthflow.training.step import Step, StepInput, StepResult, build_step


class TrainState:
    """A recipe's network and optimizer on one worker; the same on all workers.

    Args:
        checkpoint: Checkpoint to resume from. None for a new run, in which only worker 0 loads the pre-trained weights
            and the caller must `WorkerGroup.broadcast` the model's weights.

    Raises:
        TrainingError: if the pre-trained weights or the checkpoint cannot be loaded.
    """

    def __init__(self, recipe: Recipe, *, steps_per_epoch: int, group: WorkerGroup, checkpoint: Path | None) -> None:
        self.recipe = recipe
        self.group = group
        self.steps_per_epoch = steps_per_epoch
        loads = group.rank == 0 and checkpoint is None
        self.model = training_network(recipe if loads else recipe.blank())
        adapt(self.model, rank=recipe.lora_rank)
        set_batch_norm(self.model, recipe.batch_norm)
        self.encoder = encoder_variables(self.model)
        if recipe.frozen_epochs == recipe.epochs:  # So the optimizer keeps nothing for it.
            for variable in self.encoder:
                variable.trainable = False
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
        """Starts a step on this worker's part of a batch. Reading the result waits for it."""
        frozen = batch.epoch < self.recipe.frozen_epochs
        if frozen not in self._steps:
            self._steps[frozen] = build_step(
                model=self.model,
                optimizer=self.optimizer,
                recipe=self.recipe,
                group=self.group,
                stored_size=batch.rgb.shape[1:3],
                frozen=self.encoder if frozen else (),
            )
        return self._steps[frozen](
            StepInput(
                rgb=tf.constant(batch.rgb),
                log_depth=tf.constant(batch.log_depth),
                valid_mask=tf.constant(batch.valid_mask),
                draws=tf.constant(batch.draws),
                signals=tf.constant(signals, tf.float32),
                views=tf.nest.map_structure(tf.constant, batch.views),
            )
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replaces the weights by their moving average within the block, if the recipe keeps one."""
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
        """Copies what a checkpoint holds.

        Raises:
            TrainingError: if the weights are not finite, so that no run could continue from them.
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
        """Returns a hash of all weights and of the optimizer's state."""
        digest = xxhash.xxh3_64()
        for variable in (*self.model.weights, *self.optimizer.variables):
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
        return digest.hexdigest()
