"""Reads the poses and the intrinsics that data sets keep in text files."""

import math
from collections.abc import Iterable, Sequence

from depthflow.datasets.camera import Camera
from depthflow.datasets.listing import Listing, SourceFile
from depthflow.datasets.text_files import damaged, parse_matrix, where

Pose = tuple[float, ...]
"""Camera to world, 4 x 4, row by row, in metres."""
_SIZE_TOLERANCE = 0.05
"""Largest distance of a principal point from the centre of the camera's resolution, relative to that."""


def read_poses(listing: Listing, files: Sequence[SourceFile | None]) -> list[Pose | None]:
    """Reads files that hold a camera-to-world matrix each; None where there is no file or no finite pose.

    Raises:
        SourceError: if a file is no 4 x 4 matrix.
    """
    there = [file for file in files if file is not None]
    texts = dict(zip(there, listing.texts(there), strict=True))
    return [file and finite_pose(parse_matrix(texts[file], size=4, place=where(listing, file))) for file in files]


def finite_pose(matrix: Iterable[float]) -> Pose | None:
    """Returns a pose, or None if it has a NaN or an infinity, by which data sets mark a lost track."""
    pose = tuple(matrix)
    return pose if all(map(math.isfinite, pose)) else None


def quaternion_pose(tx: float, ty: float, tz: float, qx: float, qy: float, qz: float, qw: float) -> Pose | None:
    """Returns the pose of a translation and a quaternion of any length; None if that is 0 or not finite."""
    norm = math.hypot(qx, qy, qz, qw)
    if norm == 0:
        return None
    x, y, z, w = (value / norm for value in (qx, qy, qz, qw))
    return finite_pose(
        (
            *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), tx),
            *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), ty),
            *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), tz),
            *(0.0, 0.0, 0.0, 1.0),
        )
    )


def read_intrinsics(listing: Listing, file: SourceFile, size: int, resolutions: Sequence[tuple[int, int]]) -> Camera:
    """Reads a file that holds a (size, size) matrix of intrinsics in OpenCV's convention.

    Args:
        resolutions: (width, height) that the camera may have, as the matrix does not state it. That whose centre is
            nearest to the principal point counts, unless it is far off: then the principal point is the centre.

    Raises:
        SourceError: if it is no such matrix.
    """
    place = where(listing, file)
    matrix = parse_matrix(listing.text(file), size=size, place=place)
    fx, cx, fy, cy = matrix[0], matrix[2], matrix[size + 1], matrix[size + 2]

    def distance(resolution: tuple[int, int]) -> float:
        return max(abs(2 * cx / resolution[0] - 1), abs(2 * cy / resolution[1] - 1))

    try:
        width, height = min(resolutions, key=distance)
        if not distance((width, height)) <= _SIZE_TOLERANCE:
            width, height = round(2 * cx + 1), round(2 * cy + 1)
        return Camera.of_opencv(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy)
    except (ValueError, OverflowError) as error:
        raise damaged(place, 1, f"intrinsics ({error})", f"fx {fx}, fy {fy}, cx {cx}, cy {cy}") from None
