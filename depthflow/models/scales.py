"""Frames, their views and their disparity at the scale of one prediction."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false, reportCallIssue=false

from typing import Literal, NamedTuple

import keras
from keras import ops

from depthflow.models.views import Views

Tensor = keras.KerasTensor

LOG_DEPTH_LIMIT = 20.0
"""Log-depths beyond it, in either direction, are held there, so that depth and disparity stay finite."""


class Frames(NamedTuple):
    """Frames at one scale, in the precision of the arithmetic, images from 0 to 1.

    image, views and disparity (1 / metres) have the size at which images are compared, own_image and own_disparity that
    of the prediction.
    """

    image: Tensor
    views: Views
    disparity: Tensor
    own_image: Tensor
    own_disparity: Tensor


def at_scale(
    rgb: Tensor,
    views: Views,
    log_depth: Tensor,
    *,
    photometric_scale: Literal["full", "own"],
    camera: Literal["none", "canonical"],
) -> Frames:
    """Returns frames and views as they are compared for a prediction, in its precision but at least float32.

    Args:
        rgb: (B, H, W, 3) uint8.
        views: Views of the frames.
        log_depth: (B, H / 2^s, W / 2^s) float, predicted.
        photometric_scale: full: compare images at their size, with disparity enlarged to it. own: at the prediction's.
        camera: canonical: the prediction is the depth of the canonical camera.
    """
    dtype = keras.backend.result_type(log_depth.dtype, "float32")
    image = ops.cast(rgb, dtype) / 255
    views = Views(ops.cast(views.images, dtype) / 255, *(ops.cast(numbers, dtype) for numbers in views[1:]))
    height, width = rgb.shape[1:3]
    log_depth = ops.clip(ops.cast(log_depth, dtype), -LOG_DEPTH_LIMIT, LOG_DEPTH_LIMIT)
    factor = height // log_depth.shape[1]
    own_image = _averaged(image, factor)
    own_disparity = disparity = ops.exp(-log_depth)
    if camera == "canonical":
        focal = ops.sqrt(views.camera[:, 0] / width * (views.camera[:, 1] / height))
        disparity = own_disparity / focal[:, None, None]
    if photometric_scale == "full":
        return Frames(image, views, enlarged(disparity, factor), own_image, own_disparity)
    return Frames(own_image, _shrunk(views, factor), disparity, own_image, own_disparity)


def _shrunk(views: Views, factor: int) -> Views:
    """Returns views 1 / factor the size, with their cameras."""
    size = views.images.shape[2:]
    images = _averaged(ops.reshape(views.images, (-1, *size)), factor)
    return views._replace(
        images=ops.reshape(images, (-1, views.images.shape[1], *images.shape[1:])),
        camera=views.camera / factor,
        view_cameras=views.view_cameras / factor,
    )


def _averaged(image: Tensor, factor: int) -> Tensor:
    """Returns the means of factor x factor pixels of (B, H, W, C)."""
    if factor == 1:
        return image
    height, width, channels = image.shape[1:]
    blocks = ops.reshape(image, (-1, height // factor, factor, width // factor, factor, channels))
    return ops.mean(blocks, axis=(2, 4))


def enlarged(plane: Tensor, factor: int) -> Tensor:
    """Enlarges (B, h, w) bilinearly to (B, h factor, w factor), with the border repeated; factor is 1 or even."""
    if factor == 1:
        return plane
    height, width = plane.shape[1:]
    plane = _enlarged_rows(plane, factor)
    rows = ops.reshape(plane, (-1, width, 1))
    return ops.reshape(_enlarged_rows(rows, factor), (-1, height * factor, width * factor))


def _enlarged_rows(plane: Tensor, factor: int) -> Tensor:
    """Enlarges the second axis of (N, h, C) by an even factor."""
    share = (ops.arange(factor // 2, dtype=plane.dtype) + 0.5) / factor
    share = share[None, None, :, None]
    before = ops.concatenate([plane[:, :1], plane[:, :-1]], axis=1)[:, :, None]
    after = ops.concatenate([plane[:, 1:], plane[:, -1:]], axis=1)[:, :, None]
    here = plane[:, :, None]
    halves = [before + (share + 0.5) * (here - before), here + share * (after - here)]
    return ops.reshape(ops.concatenate(halves, axis=2), (-1, plane.shape[1] * factor, plane.shape[2]))
