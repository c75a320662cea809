"""Further views of a frame's scene: a stereo partner, or neighbours in time. Their images, cameras and poses.

Shape suffixes: B frames, V views per frame.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import ops

from depthflow.models.warp import inverse_pose, pose_matrix

Tensor = keras.KerasTensor

EARLIER = ("previous",)
"""Views that were taken before the frame."""


class Views(NamedTuple):
    """The views of a batch of frames, after augmentation. Any value, even NaN, where a frame has no views.

    Attributes:
        images: (B, V, H, W, 3) uint8.
        camera: (B, 4) float: fx, fy, cx, cy of the frame, in pixels of (H, W).
        view_cameras: (B, V, 4) float, likewise of the views.
        poses: (B, V, 4, 4) float: takes points of the frame's camera to the view's camera, metres. NaN where unknown.
    """

    images: Tensor
    camera: Tensor
    view_cameras: Tensor
    poses: Tensor


def view_pairs(rgb: Tensor, images: Tensor, names: Sequence[str]) -> Tensor:
    """Returns the input of the pose network: each frame with each of its views, the earlier image first.

    Args:
        rgb: (B, H, W, 3) uint8.
        images: (B, V, H, W, 3) uint8.
        names: V names of views, such as previous and next.

    Returns:
        (B * V, H, W, 6) uint8: all pairs of the first frame, then those of the second.

    Source: Godard et al. 2019, arXiv:1806.01260: pairs are in temporal order.
    """
    views = ops.unstack(images, len(names), axis=1)
    pairs = [
        ops.concatenate([view, rgb] if name in EARLIER else [rgb, view], axis=-1)
        for name, view in zip(names, views, strict=True)
    ]
    return ops.reshape(ops.stack(pairs, axis=1), (-1, *ops.shape(rgb)[1:3], 6))


def learned_poses(vectors: Tensor, names: Sequence[str]) -> Tensor:
    """Returns the poses of views from what the pose network predicts for `view_pairs`.

    A prediction takes points of the earlier camera to the later one. So it is the pose of a later view, and the
    inverse of the pose of an earlier one.

    Args:
        vectors: (B * V, 6) float: axis-angle and translation.
        names: V names of views.

    Returns:
        (B, V, 4, 4) of the dtype of vectors, as `Views.poses`.
    """
    motions = ops.unstack(ops.reshape(pose_matrix(vectors), (-1, len(names), 4, 4)), len(names), axis=1)
    poses = [inverse_pose(motion) if name in EARLIER else motion for name, motion in zip(names, motions, strict=True)]
    return ops.stack(poses, axis=1)


def window_camera(camera: Tensor, *, size: tuple[int, int], zoom: Tensor, mirrored: Tensor, centre: Tensor) -> Tensor:
    """Returns the cameras of images whose part about a centre is enlarged to the whole, and mirrored.

    Args:
        camera: (B, N, 4) float: fx, fy, cx, cy.
        size: Height and width of the images in pixels.
        zoom: (B,) float.
        mirrored: (B,) float, 1 if mirrored from left to right, else 0.
        centre: (B, 2) float, y and x as fractions of the size.
    """
    zoom, mirrored, centre = (ops.cast(draw, camera.dtype) for draw in (zoom, mirrored, centre))
    fx, fy, cx, cy = ops.unstack(camera, 4, axis=2)
    turned = zoom * (1 - 2 * mirrored)
    # In this order a neutral draw changes no bit.
    cx = cx * turned[:, None] + (0.5 * size[1] - centre[:, 1] * size[1] * turned)[:, None]
    cy = cy * zoom[:, None] + (0.5 * size[0] - centre[:, 0] * size[0] * zoom)[:, None]
    return ops.stack([fx * zoom[:, None], fy * zoom[:, None], cx, cy], axis=2)


def mirrored_poses(poses: Tensor, *, mirrored: Tensor, scale: Tensor | None = None) -> Tensor:
    """Returns M P M of poses P, with M = diag(-1, 1, 1, 1) where mirrored, and translations multiplied by a scale.

    Args:
        poses: (B, V, 4, 4) float.
        mirrored: (B,) float, 0 or 1.
        scale: (B,) float.
    """
    sign = 1 - 2 * ops.cast(mirrored, poses.dtype)
    one = ops.ones_like(sign)
    signs = ops.stack([sign, one, one, one], axis=1)
    factors = signs[:, :, None] * signs[:, None, :]
    if scale is not None:
        scale = ops.cast(scale, poses.dtype)
        columns = ops.stack([one, one, one, scale], axis=1)[:, None, :]
        rows = ops.convert_to_tensor([True, True, True, False])[None, :, None]
        factors = factors * ops.where(rows, columns, ops.ones_like(columns))
    return poses * factors[:, None]


def swapped(rgb: Tensor, views: Views) -> tuple[Tensor, Views]:
    """Returns the only views of frames, (B, H, W, 3) uint8, as frames, with the frames as their views."""
    return views.images[:, 0], Views(
        images=rgb[:, None],
        camera=views.view_cameras[:, 0],
        view_cameras=views.camera[:, None],
        poses=inverse_pose(views.poses[:, 0])[:, None],
    )
