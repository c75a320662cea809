"""The synchronised step: one worker with batch B and N workers with batch B/N do the same.

Keras 3's fit does not run under MultiWorkerMirroredStrategy (Keras issue 20585). Here the strategy is the all-reduce
and nothing else: the loss is the sum over this worker's valid pixels divided by the number of valid pixels on all
workers, one all-reduce sums loss and gradients, and the optimizer, plain Keras, sees the reduced gradient. Clipping,
decay and averages therefore do the same on every worker.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable

import keras
import tensorflow as tf

from depthflow.models.losses import PixelLoss, masked_loss_sum
from depthflow.training.collective import WorkerGroup

Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(rgb, log_depth, valid_mask) of this worker's part of a batch to the loss of the whole batch."""


def build_step(
    *, model: keras.Model, optimizer: keras.optimizers.Optimizer, pixel_loss: PixelLoss, group: WorkerGroup
) -> Step:
    """Traces the training step.

    Args:
        model: built outside any strategy scope, equal on all workers.
        optimizer: built on the model's trainable variables, likewise.
        pixel_loss: one of `depthflow.models.losses.LOSSES`.
        group: the workers.

    Returns:
        A step that updates model and optimizer. rgb is (b, H, W, 3) uint8, log_depth (b, H, W) float32, valid_mask
        (b, H, W) bool, with b >= 1, which may differ between workers and steps.
    """
    height, width = model.input_shape[1:3]
    dtype = model.compute_dtype

    def forward_backward(rgb: tf.Tensor, log_depth: tf.Tensor, valid_mask: tf.Tensor) -> list[tf.Tensor]:
        valid_pixels = group.all_reduce([tf.reduce_sum(tf.cast(valid_mask, dtype))])[0]
        with tf.GradientTape() as tape:
            prediction = model(rgb, training=True)[..., 0]
            loss_sum = masked_loss_sum(
                pixel_loss,
                log_depth_pred=prediction,
                log_depth_gt=tf.cast(log_depth, dtype),
                valid_mask=valid_mask,
            )
            loss = loss_sum / tf.maximum(valid_pixels, 1)
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        return group.all_reduce([loss, *gradients])

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, height, width, 3), tf.uint8),
            tf.TensorSpec((None, height, width), tf.float32),
            tf.TensorSpec((None, height, width), tf.bool),
        ]
    )
    def step(rgb: tf.Tensor, log_depth: tf.Tensor, valid_mask: tf.Tensor) -> tf.Tensor:
        reduced = group.strategy.run(forward_backward, args=(rgb, log_depth, valid_mask))
        loss, *gradients = (group.strategy.experimental_local_results(value)[0] for value in reduced)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step
