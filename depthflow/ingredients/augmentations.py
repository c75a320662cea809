"""Augmentations that a recipe may name in --augment, besides the flip, zoom, colour and blur that have own flags."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from depthflow.ingredients.later import Later

if TYPE_CHECKING:
    import keras
    from keras import ops

    Tensor = keras.KerasTensor
else:
    ops, Tensor = Later("keras.ops"), Any


class Batch(NamedTuple):
    """What an augmentation changes.

    Attributes:
        rgb: (B, H, W, 3) float32, 0 to 255; it is rounded and cut to these when all augmentations are done.
        log_depth: (B, H, W) float, natural log of metres; 0 where invalid.
        valid_mask: (B, H, W) bool.
    """

    rgb: Tensor
    log_depth: Tensor
    valid_mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for a sample, and what that makes of a batch.

    Attributes:
        help: what its amount, from 0 to 1, means; for --help.
        draw: from the amount and (n, columns) float64, uniform in [0, 1), to as many values, which must leave the
            sample as it is where they are 0. What is uniform depends on name, seed, epoch and sample id alone.
        apply: a batch with (B, columns) float32 of these values.
        columns: how many.
    """

    help: str
    draw: Callable[[float, np.ndarray], np.ndarray]
    apply: Callable[[Batch, Tensor], Batch]
    columns: int = 1


def with_gamma(batch: Batch, exponent: Tensor) -> Batch:
    """rgb to the power 2^exponent, of values in [0, 1]. Source: Godard et al. 2017, arXiv:1609.03677, section 4.

    Args:
        batch: to change.
        exponent: (B, 1) float32; an image whose exponent is 0 is returned to the last bit.
    """
    power = 2 ** exponent[:, :, None, None]
    curved = 255 * (ops.maximum(batch.rgb, 0) / 255) ** power
    return batch._replace(rgb=ops.where(ops.equal(power, 1), batch.rgb, curved))


AUGMENTATIONS: dict[str, Augmentation] = {
    "gamma": Augmentation(
        help="brightness^(2^g), g up to so much either way",
        draw=lambda amount, uniform: amount * (2 * uniform - 1),
        apply=with_gamma,
    ),
}
