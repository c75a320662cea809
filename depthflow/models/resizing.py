"""Bilinear interpolation as dense layers of fixed weights: a layer that Keras ships has no aligned corners."""

# Keras types its operations loosely.
# pyright: reportArgumentType=false, reportReturnType=false

import keras
import numpy as np
from keras import layers


def align_corners(
    x: keras.KerasTensor, size: tuple[int, int], *, name: str, dtype: str | None = None
) -> keras.KerasTensor:
    """Resizes (B, h, w, C) bilinearly to (B, H, W, C), with the corners' centres in the corners.

    PyTorch calls this align_corners=True, and the networks of MiDaS and Depth Anything were trained with it.
    """
    for axis, equation in enumerate(("bhwc,hk->bkwc", "bhwc,wk->bhkc")):
        shape = list(x.shape[1:])
        weights = corner_weights(shape[axis], size[axis])
        shape[axis] = size[axis]
        resize = layers.EinsumDense(
            equation, output_shape=tuple(shape), trainable=False, dtype=dtype, name=f"{name}_{'yx'[axis]}"
        )
        x = resize(x)
        resize.set_weights([weights])
    return x


def corner_weights(old: int, new: int) -> np.ndarray:
    """Returns (old, new) float32: each column's weights of the old values, of which at most two are not 0."""
    place = np.arange(new) * ((old - 1) / max(new - 1, 1))
    left = np.minimum(place.astype(int), old - 1)
    right = np.minimum(left + 1, old - 1)
    weights = np.zeros((old, new), np.float32)
    np.add.at(weights, (left, np.arange(new)), 1 - (place - left))
    np.add.at(weights, (right, np.arange(new)), place - left)
    return weights
