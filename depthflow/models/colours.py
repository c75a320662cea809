"""Changes of an image's colours and sharpness, drawn per image."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false

import math

import keras
import numpy as np
from keras import ops

Tensor = keras.KerasTensor

RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
"""NTSC 1953: brightness and two colour axes. A rotation in the plane of the two turns the hue."""
BLUR_RADIUS_PX = 2


def mean_grey(image: Tensor) -> Tensor:
    """Returns the mean brightness, (B,), of images (B, H, W, 3) float32."""
    return ops.sum(ops.mean(image, axis=(1, 2)) * ops.convert_to_tensor(RGB_TO_YIQ[0], "float32"), axis=-1)


def recoloured(
    image: Tensor, grey: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Changes brightness, contrast, saturation and hue by one affine map of each image's colours.

    Saturation and hue leave greys unchanged, so the mean grey that contrast refers to is the original image's.

    Args:
        image: (B, H, W, 3) float32, 0 to 255.
        grey: (B,) float32, what contrast refers to.
        brightness, contrast, saturation: (B,) float32, factors.
        hue: (B,) float32, in colour circles.
    """

    def mapped() -> Tensor:
        matrix = (brightness * contrast)[:, None, None] * _colour_matrix(saturation, hue)
        offset = brightness * (1 - contrast) * grey
        return ops.einsum("bhwc,bdc->bhwd", image, matrix) + offset[:, None, None, None]

    changes = [ops.not_equal(factor, 1) for factor in (brightness, contrast, saturation)]
    return ops.cond(ops.any(ops.stack([*changes, ops.not_equal(hue, 0)])), mapped, lambda: image)


def _colour_matrix(saturation: Tensor, hue: Tensor) -> Tensor:
    """Returns (B, 3, 3) from RGB to RGB that scales YIQ's plane of I and Q by saturation and turns it by hue."""
    angle = 2 * math.pi * hue
    cosine, sine, zero = saturation * ops.cos(angle), saturation * ops.sin(angle), ops.zeros_like(hue)
    rows = [[zero + 1, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]]
    turned = ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)
    to_yiq, from_yiq = (ops.convert_to_tensor(m, "float32") for m in (RGB_TO_YIQ, np.linalg.inv(RGB_TO_YIQ)))
    return ops.matmul(ops.matmul(from_yiq, turned), to_yiq)


def blurred(image: Tensor, strength: Tensor) -> Tensor:
    """Blends the image by (B,) strength with its 5 x 5 binomial blur, mirrored at the edges."""
    weight = strength[:, None, None, None]
    radius = (BLUR_RADIUS_PX, BLUR_RADIUS_PX)

    def blended() -> Tensor:
        # The binomial kernel is the sum of two neighbours, taken four times per axis.
        total = ops.pad(image, ((0, 0), radius, radius, (0, 0)), mode="symmetric")
        for _ in range(2 * BLUR_RADIUS_PX):
            total = total[:, 1:] + total[:, :-1]
        for _ in range(2 * BLUR_RADIUS_PX):
            total = total[:, :, 1:] + total[:, :, :-1]
        return (1 - weight) * image + (weight / 2 ** (4 * BLUR_RADIUS_PX)) * total

    return ops.cond(ops.any(strength > 0), blended, lambda: image)
