"""Losses on log-depth, over valid pixels only, as a sum: who calls divides by the number of valid pixels.

Data-parallel workers see masks of unequal size, so a loss is sum / count with both taken over all workers; the mean
of each worker's mean would be another number. An invalid pixel is replaced before any arithmetic: its loss and its
gradient are exactly zero, whatever the prediction or the ground truth there.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from collections.abc import Callable

import keras
from keras import ops

PixelLoss = Callable[[keras.KerasTensor], keras.KerasTensor]
"""From log-depth differences, any shape, to each pixel's loss."""

HUBER_WEIGHT = 0.1
HUBER_DELTA = 1.0


def tutorial_loss(difference: keras.KerasTensor) -> keras.KerasTensor:
    """Squared error + 0.1 Huber (delta 1) of each pixel: the tutorial's. Huber 1964, doi:10.1214/aoms/1177703732."""
    square = ops.square(difference)
    size = ops.abs(difference)
    huber = ops.where(size <= HUBER_DELTA, 0.5 * square, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
    return square + HUBER_WEIGHT * huber


def l1_loss(difference: keras.KerasTensor) -> keras.KerasTensor:
    """Absolute error of each pixel."""
    return ops.abs(difference)


LOSSES: dict[str, PixelLoss] = {"tutorial": tutorial_loss, "l1": l1_loss}


def masked_loss_sum(
    pixel_loss: PixelLoss,
    *,
    log_depth_pred: keras.KerasTensor,
    log_depth_gt: keras.KerasTensor,
    valid_mask: keras.KerasTensor,
) -> keras.KerasTensor:
    """Sum of a pixel loss over valid pixels.

    Args:
        pixel_loss: one of `LOSSES`.
        log_depth_pred: (B, H, W) float, natural log of metres.
        log_depth_gt: (B, H, W) float; anything, NaN included, where invalid.
        valid_mask: (B, H, W) bool.

    Returns:
        A scalar; 0, with zero gradients, if no pixel is valid.
    """
    difference = ops.where(valid_mask, log_depth_pred, 0.0) - ops.where(valid_mask, log_depth_gt, 0.0)
    return ops.sum(pixel_loss(difference))
