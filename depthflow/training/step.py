"""The synchronised step: one worker with batch B and N workers with batch B/N do the same.

Keras 3's fit does not run under MultiWorkerMirroredStrategy (Keras issue 20585). Here the strategy is the all-reduce
and nothing else. Each term of the loss is a sum over this worker's images divided by a count over all workers' images;
one all-reduce sums loss and gradients, and the optimizer, plain Keras, sees the reduced gradient. Clipping, decay,
averages and loss scaling therefore do the same on every worker.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportAssignmentType=false

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from depthflow.models.augmentation import augment, is_augmented
from depthflow.models.losses import Loss
from depthflow.recipe import Recipe
from depthflow.training.collective import WorkerGroup

Planes = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""rgb, log_depth and valid_mask."""


class StepInput(NamedTuple):
    """One worker's part of a batch, with b >= 1 images, which may differ between workers and steps.

    Attributes:
        rgb: (b, H, W, 3) uint8.
        log_depth: (b, H, W) float32.
        valid_mask: (b, H, W) bool.
        draws: (b, D) float32, of `depthflow.models.augmentation.draw`.
        signals: (S,) float32: what this worker has to say to all.
    """

    rgb: tf.Tensor
    log_depth: tf.Tensor
    valid_mask: tf.Tensor
    draws: tf.Tensor
    signals: tf.Tensor


class StepResult(NamedTuple):
    """The same on all workers.

    Attributes:
        loss: scalar, of the whole batch, before the update.
        signals: (S,) float32, summed over workers.
        gradient_norm: scalar, global norm of the whole batch's gradient, before clipping, without the loss scale; not
            finite where a gradient is not.
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
    frozen: Sequence[keras.Variable] = (),
) -> Step:
    """Traces the training step.

    Args:
        model: built outside any strategy scope, equal on all workers.
        optimizer: built on the model's trainable variables, likewise.
        recipe: its loss, augmentation, accumulation_steps and xla.
        group: the workers.
        frozen: trainable variables that this step leaves as they are, without computing their gradients.

    Returns:
        A step that updates model and optimizer.
    """
    gradients_of = _Gradients(model, optimizer, Loss(recipe.loss, scales=recipe.supervised_scales), recipe, frozen)
    augmented, named = is_augmented(recipe), [name for name, _ in recipe.augment]

    def worker_part(batch: StepInput) -> list[tf.Tensor]:
        planes: Planes = (batch.rgb, batch.log_depth, batch.valid_mask)
        if augmented:
            planes = augment(*planes, batch.draws, zoom_depth=recipe.zoom_depth, named=named)
        counts = group.all_reduce([tf.cast(gradients_of.loss.counts(planes[2]), tf.float64)])[0]
        loss, gradients = gradients_of(planes, counts)
        # One dtype, as all_reduce packs them; identity places them on a device, as it insists.
        signals = tf.identity(tf.cast(batch.signals, loss.dtype))
        if recipe.all_reduce_dtype == "full" or group.size == 1:
            return group.all_reduce([loss, signals, *gradients])
        narrow = group.all_reduce([tf.cast(gradient, recipe.all_reduce_dtype) for gradient in gradients])
        wide = [tf.cast(total, gradient.dtype) for total, gradient in zip(narrow, gradients, strict=True)]
        return [*group.all_reduce([loss, signals]), *wide]

    height, width = model.input_shape[1:3]

    @tf.function(
        autograph=False,  # There is nothing to convert, and looking for it takes a third of the first step.
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
    """Loss and gradients of one worker's part of a batch, in `accumulation_steps` parts, one after the other."""

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
        self._parts = recipe.accumulation_steps
        frozen_paths = {variable.path for variable in frozen}
        self._learns = [variable.path not in frozen_paths for variable in model.trainable_variables]
        self._one_part = (
            tf.function(self._forward_backward, autograph=False, jit_compile=True)
            if recipe.xla
            else self._forward_backward
        )

    def __call__(self, planes: Planes, counts: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        if self._parts == 1:
            return self._one_part(*planes, counts)
        images = tf.shape(planes[0])[0]
        loss, gradients = tf.zeros((), self._loss_dtype), [tf.zeros(v.shape, v.dtype) for v in self._variables()]
        for part in range(self._parts):
            rows = slice(images * part // self._parts, images * (part + 1) // self._parts)
            with tf.control_dependencies([loss, *gradients]):  # One part in memory at a time.
                one = [tf.identity(plane[rows]) for plane in planes]
            part_loss, part_gradients = self._one_part(*one, counts)
            loss += part_loss
            gradients = [total + gradient for total, gradient in zip(gradients, part_gradients, strict=True)]
        return loss, gradients

    def in_full(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """With zeros for the variables that stay."""
        computed = iter(gradients)
        variables = self._model.trainable_variables
        return [
            next(computed) if learns else tf.zeros(variable.shape, variable.dtype)
            for variable, learns in zip(variables, self._learns, strict=True)
        ]

    @property
    def _loss_dtype(self) -> str:
        return "float64" if self._model.compute_dtype == "float64" else "float32"

    def _variables(self) -> list[keras.Variable]:
        return [v for v, learns in zip(self._model.trainable_variables, self._learns, strict=True) if learns]

    def _forward_backward(
        self, rgb: tf.Tensor, log_depth: tf.Tensor, valid_mask: tf.Tensor, counts: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            outputs = self._model(rgb, training=True)
            outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
            sums = self.loss.sums(
                [output[..., 0] for output in outputs], log_depth=log_depth, valid_mask=valid_mask, rgb=rgb
            )
            loss = self.loss.value(sums, tf.cast(counts, sums.dtype))
            scaled = self._optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, [variable.value for variable in self._variables()])
