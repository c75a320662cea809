"""Camera poses of every convention as depthflow's: camera to world, camera axes x right, y down, z forward, metres."""

from collections.abc import Sequence

import numpy as np

from depthflow.datasets.listing import Listing, SourceFile
from depthflow.datasets.text_files import parse_matrix, where

Pose = tuple[float, ...]
"""4 x 4, row by row."""
OPENGL = np.diag([1.0, -1.0, -1.0])
"""Axes of OpenCV's camera, as here, in those of OpenGL's: x right, y up, z backward."""


def finite_poses(matrices: np.ndarray) -> list[Pose | None]:
    """Returns poses; None where one has a NaN or an infinity, by which data sets mark a lost track.

    Args:
        matrices: (N, 4, 4).
    """
    return [tuple(row.tolist()) if np.isfinite(row).all() else None for row in matrices.reshape(-1, 16)]


def as_poses(rotations: np.ndarray, translations_m: np.ndarray) -> list[Pose | None]:
    """Returns poses, None where a value is not finite.

    Args:
        rotations: (N, 3, 3), camera to world.
        translations_m: (N, 3).
    """
    matrices = np.tile(np.eye(4), (len(rotations), 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = rotations, translations_m
    return finite_poses(matrices)


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


def read_poses(listing: Listing, files: Sequence[SourceFile | None]) -> list[Pose | None]:
    """Reads files that hold a camera-to-world matrix each; None where there is no file or no finite pose.

    Raises:
        SourceError: if a file is no 4 x 4 matrix.
    """
    found = [file for file in files if file is not None]
    texts = zip(found, listing.texts(found), strict=True)
    matrices = [parse_matrix(text, size=4, place=where(listing, file)) for file, text in texts]
    poses = dict(zip(found, finite_poses(np.reshape(matrices, (-1, 4, 4))), strict=True))
    return [poses[file] if file else None for file in files]
