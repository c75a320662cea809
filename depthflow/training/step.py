"""The synchronised step: N workers with batch B/N compute the same update as one worker with batch B.

Keras 3's fit does not run under MultiWorkerMirroredStrategy (Keras issue 20585), so the strategy only supplies the
all-reduce. Each loss term is a sum over this worker's images divided by a count over all workers' images. One
all-reduce sums loss and gradients, and a plain Keras optimizer sees the reduced gradient, so clipping, decay, averages
and loss scaling are the same on every worker.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportAssignmentType=false

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf

from depthflow.models.augmentation import augment, is_augmented
from depthflow.models.blocks import rematerialized
from depthflow.models.losses import Loss
from depthflow.recipe import Recipe
from depthflow.training.collective import WorkerGroup

Images = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""rgb, log_depth and valid_mask."""


class StepInput(NamedTuple):
    """One worker's part of a batch: b >= 1 images, a number that may differ between workers and steps.

    Attributes:
        rgb: (b, H, W, 3) uint8, of the stored size.
        log_depth: (b, H, W) float32.
        valid_mask: (b, H, W) bool.
        draws: (b, D) float32, from `depthflow.models.augmentation.draw`.
        signals: (S,) float32, this worker's signals to all workers.
    """

    rgb: tf.Tensor
    log_depth: tf.Tensor
    valid_mask: tf.Tensor
    draws: tf.Tensor
    signals: tf.Tensor


class StepResult(NamedTuple):
    """The result of a step; the same on all workers.

    Attributes:
        loss: Scalar, loss of the whole batch before the update.
        signals: (S,) float32, summed over workers.
        gradient_norm: Scalar, global norm of the whole batch's gradient, before clipping and without the loss scale;
            not finite if a gradient is not.
    """

    loss: tf.Tensor
    signals: tf.Tensor
    gradient_norm: tf.Tensor


Step = Callable[[StepInput], StepResult]


def build_step(
    *,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    recipe: Recipe,
    group: WorkerGroup,
    stored_size: tuple[int, int] | None = None,
    frozen: Sequence[keras.Variable] = (),
) -> Step:
    """Builds the training step, which updates model and optimizer.

    Args:
        model: Network, built outside any strategy scope and equal on all workers.
        optimizer: Optimizer, built on the model's trainable variables and equal on all workers.
        stored_size: Height and width of the images, neither smaller than the network's; None for the network's.
        frozen: Trainable variables that stay unchanged and whose gradients are not computed.
    """
    gradients_of = _Gradients(model, optimizer, Loss(recipe.loss, scales=recipe.supervised_scales), recipe, frozen)
    size, named = tuple(model.input_shape[1:3]), [name for name, _ in recipe.augment]
    height, width = stored_size or size
    augmented = is_augmented(recipe) or size != (height, width)

    def worker_part(batch: StepInput) -> list[tf.Tensor]:
        images: Images = (batch.rgb, batch.log_depth, batch.valid_mask)
        if augmented:
            images = augment(*images, batch.draws, zoom_depth=recipe.zoom_depth, named=named, size=size)
        counts = group.all_reduce([tf.cast(gradients_of.loss.counts(images[2]), tf.float64)])[0]
        loss, gradients = gradients_of(images, counts)
        # all_reduce packs tensors of one dtype, and requires them to be on a device, where the identity places them.
        signals = tf.identity(tf.cast(batch.signals, loss.dtype))
        if recipe.all_reduce_dtype == "full" or group.size == 1:
            return group.all_reduce([loss, signals, *gradients])
        narrow = group.all_reduce([tf.cast(gradient, recipe.all_reduce_dtype) for gradient in gradients])
        wide = [tf.cast(total, gradient.dtype) for total, gradient in zip(narrow, gradients, strict=True)]
        return [*group.all_reduce([loss, signals]), *wide]

    @tf.function(
        autograph=False,  # Nothing needs conversion, and autograph takes a third of the first step.
        input_signature=[
            StepInput(
                rgb=tf.TensorSpec((None, height, width, 3), tf.uint8),
                log_depth=tf.TensorSpec((None, height, width), tf.float32),
                valid_mask=tf.TensorSpec((None, height, width), tf.bool),
                draws=tf.TensorSpec((None, None), tf.float32),
                signals=tf.TensorSpec((None,), tf.float32),
            )
        ],
    )
    def step(batch: StepInput) -> StepResult:
        reduced = group.strategy.run(worker_part, args=(batch,))
        loss, signals, *gradients = (group.strategy.experimental_local_results(value)[0] for value in reduced)
        # Before the update, which may change the loss scale.
        gradient_norm = tf.linalg.global_norm(gradients) / optimizer.scale_loss(tf.ones((), loss.dtype))
        optimizer.apply(gradients_of.in_full(gradients), model.trainable_variables)
        return StepResult(loss, signals, gradient_norm)

    return step


class _Gradients:
    """Loss and gradients of one worker's part of a batch, computed in `accumulation_steps` parts, one at a time."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        recipe: Recipe,
        frozen: Sequence[keras.Variable],
    ) -> None:
        self.loss = loss
        self._model, self._optimizer = model, optimizer
        self._forward = rematerialized(model) if recipe.remat else partial(model, training=True)
        self._parts = recipe.accumulation_steps
        self._frozen_paths = {variable.path for variable in frozen}
        self._variables = [v for v in model.trainable_variables if v.path not in self._frozen_paths]
        self._one_part = (
            tf.function(self._forward_backward, autograph=False, jit_compile=True)
            if recipe.xla
            else self._forward_backward
        )

    def __call__(self, images: Images, counts: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        if self._parts == 1:
            return self._one_part(*images, counts)
        count = tf.shape(images[0])[0]
        loss = tf.zeros((), "float64" if self._model.compute_dtype == "float64" else "float32")
        gradients = [tf.zeros(variable.shape, variable.dtype) for variable in self._variables]
        for part in range(self._parts):
            rows = slice(count * part // self._parts, count * (part + 1) // self._parts)
            with tf.control_dependencies([loss, *gradients]):  # One part in memory at a time.
                one = [tf.identity(tensor[rows]) for tensor in images]
            part_loss, part_gradients = self._one_part(*one, counts)
            loss += part_loss
            gradients = [total + gradient for total, gradient in zip(gradients, part_gradients, strict=True)]
        return loss, gradients

    def in_full(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns one gradient per trainable variable, zero for those that are frozen."""
        computed = iter(gradients)
        return [
            tf.zeros(variable.shape, variable.dtype) if variable.path in self._frozen_paths else next(computed)
            for variable in self._model.trainable_variables
        ]

    def _forward_backward(
        self, rgb: tf.Tensor, log_depth: tf.Tensor, valid_mask: tf.Tensor, counts: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            outputs = self._forward(rgb)
            outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
            sums = self.loss.sums(
                [output[..., 0] for output in outputs], log_depth=log_depth, valid_mask=valid_mask, rgb=rgb
            )
            loss = self.loss.value(sums, tf.cast(counts, sums.dtype))
            scaled = self._optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, [variable.value for variable in self._variables])
