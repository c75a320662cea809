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
from typing import NamedTuple

import keras
import tensorflow as tf

from depthflow.models.views import Views
from depthflow.recipe import Recipe
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import no_views
from depthflow.training.learner import Learner, Sample


class StepInput(NamedTuple):
    """One worker's part of a batch: b >= 1 images, a number that may differ between workers and steps.

    Attributes:
        rgb: (b, H, W, 3) uint8, of the stored size.
        log_depth: (b, H, W) float32.
        valid_mask: (b, H, W) bool.
        draws: (b, D) float32, from `depthflow.models.augmentation.draw`.
        signals: (S,) float32, this worker's signals to all workers.
        views: Further views of each image; empty if the objective needs none.
    """

    rgb: tf.Tensor
    log_depth: tf.Tensor
    valid_mask: tf.Tensor
    draws: tf.Tensor
    signals: tf.Tensor
    views: Views | tuple[()] = ()


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
    learner = Learner(model, recipe)
    gradients_of = _Gradients(model, optimizer, learner, recipe, frozen)
    size = stored_size or tuple(model.inputs[0].shape[1:3])

    def worker_part(batch: StepInput) -> list[tf.Tensor]:
        sample = learner.augmented(Sample(batch.rgb, batch.log_depth, batch.valid_mask, batch.views), batch.draws)
        counts = group.all_reduce([tf.cast(learner.counts(sample), tf.float64)])[0]
        loss, gradients = gradients_of(sample, counts)
        # all_reduce packs tensors of one dtype, and requires them to be on a device, where the identity places them.
        signals = tf.identity(tf.cast(batch.signals, loss.dtype))
        if recipe.all_reduce_dtype == "full" or group.size == 1:
            return group.all_reduce([loss, signals, *gradients])
        narrow = group.all_reduce([tf.cast(gradient, recipe.all_reduce_dtype) for gradient in gradients])
        wide = [tf.cast(total, gradient.dtype) for total, gradient in zip(narrow, gradients, strict=True)]
        return [*group.all_reduce([loss, signals]), *wide]

    @tf.function(
        autograph=False,  # Nothing needs conversion, and autograph takes a third of the first step.
        input_signature=[_signature(recipe, size)],
    )
    def step(batch: StepInput) -> StepResult:
        reduced = group.strategy.run(worker_part, args=(batch,))
        loss, signals, *gradients = (group.strategy.experimental_local_results(value)[0] for value in reduced)
        # Before the update, which may change the loss scale.
        gradient_norm = tf.linalg.global_norm(gradients) / optimizer.scale_loss(tf.ones((), loss.dtype))
        optimizer.apply(gradients_of.in_full(gradients), model.trainable_variables)
        return StepResult(loss, signals, gradient_norm)

    return step


def _signature(recipe: Recipe, size: tuple[int, int]) -> StepInput:
    """Returns what the step takes: any number of images of this size, with views if the objective needs them."""
    (height, width), views = size, no_views(recipe, size)
    return StepInput(
        rgb=tf.TensorSpec((None, height, width, 3), tf.uint8),
        log_depth=tf.TensorSpec((None, height, width), tf.float32),
        valid_mask=tf.TensorSpec((None, height, width), tf.bool),
        draws=tf.TensorSpec((None, None), tf.float32),
        signals=tf.TensorSpec((None,), tf.float32),
        views=tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), views),
    )


class _Gradients:
    """Loss and gradients of one worker's part of a batch, computed in `accumulation_steps` parts, one at a time."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        learner: Learner,
        recipe: Recipe,
        frozen: Sequence[keras.Variable],
    ) -> None:
        self._model, self._optimizer, self._learner = model, optimizer, learner
        self._parts = recipe.accumulation_steps
        self._frozen_paths = {variable.path for variable in frozen}
        self._variables = [v for v in model.trainable_variables if v.path not in self._frozen_paths]
        self._one_part = (
            tf.function(self._forward_backward, autograph=False, jit_compile=True)
            if recipe.xla
            else self._forward_backward
        )

    def __call__(self, sample: Sample, counts: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        if self._parts == 1:
            return self._one_part(sample, counts)
        count = tf.shape(sample.rgb)[0]
        loss = tf.zeros((), self._model.outputs[0].dtype)
        gradients = [tf.zeros(variable.shape, variable.dtype) for variable in self._variables]
        for part in range(self._parts):
            rows = slice(count * part // self._parts, count * (part + 1) // self._parts)
            with tf.control_dependencies([loss, *gradients]):  # One part in memory at a time.
                one = tf.nest.map_structure(lambda tensor, rows=rows: tf.identity(tensor[rows]), sample)
            part_loss, part_gradients = self._one_part(one, counts)
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

    def _forward_backward(self, sample: Sample, counts: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            sums = self._learner.sums(self._learner.predict(sample, training=True), sample)
            loss = self._learner.value(sums, tf.cast(counts, sums.dtype))
            scaled = self._optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, [variable.value for variable in self._variables])
