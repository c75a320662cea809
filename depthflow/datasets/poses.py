"""Camera poses of other conventions as depthflow's: camera to world, camera axes x right, y down, z forward, metres."""

import math

import numpy as np

OPENGL = np.diag([1.0, -1.0, -1.0])
"""Axes of OpenCV's camera, as here, in those of OpenGL's: x right, y up, z backward."""


def as_poses(rotations: np.ndarray, translations_m: np.ndarray) -> list[tuple[float, ...] | None]:
    """Returns 4 x 4 matrices row by row; None where a value is not finite.

    Args:
        rotations: (N, 3, 3), camera to world.
        translations_m: (N, 3).
    """
    poses = np.tile(np.eye(4), (len(rotations), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations, translations_m
    rows = poses.reshape(-1, 16).tolist()
    return [tuple(row) if all(map(math.isfinite, row)) else None for row in rows]


def inverted(rotations: np.ndarray, translations_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inverse transforms, such as camera to world of world to camera; shapes as in `as_poses`."""
    back = rotations.transpose(0, 2, 1)
    return back, -(back @ translations_m[:, :, None])[:, :, 0]


def quaternion_rotations(quaternions: np.ndarray) -> np.ndarray:
    """Returns (N, 3, 3) rotations, NaN where a quaternion has no length.

    Args:
        quaternions: (N, 4), x y z w, of any length.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, z, w = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
