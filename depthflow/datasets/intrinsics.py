"""Parses the intrinsics that data sets keep in text files."""

from collections.abc import Sequence
from typing import Any

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.text_files import damaged, parse_matrix

_CENTRE_TOLERANCE = 0.05
"""Largest distance of a principal point from the centre of the camera's resolution, relative to that."""


def pinhole(*numbers: float, place: str, size: tuple[float, float] | None = None, line: int = 1) -> Camera | Intrinsics:
    """Returns a camera; raises SourceError for impossible values.

    Args:
        numbers: fx, fy, cx, cy in pixels, the principal point from the image's corner. OpenCV counts from the first
            pixel's centre, 0.5 less.
        size: Width and height; by default those of the image.
    """
    try:
        fields: dict[str, Any] = dict(zip(("fx_px", "fy_px", "cx_px", "cy_px"), numbers, strict=True))
        return Camera(width=int(size[0]), height=int(size[1]), **fields) if size else Intrinsics(**fields)
    except (ValueError, OverflowError) as error:
        raise damaged(place, line, f"intrinsics ({error})", str(numbers)) from None


def matrix_camera(
    text: str, *, place: str, size: int = 3, resolutions: Sequence[tuple[int, int]] = ()
) -> Camera | Intrinsics:
    """Returns the camera whose (size, size) matrix a file holds in OpenCV's convention.

    Args:
        resolutions: (width, height) that the camera may have, as the matrix does not state it; by default, that of the
            image. That whose centre is nearest to the principal point counts, unless it is far off: then the principal
            point is the centre.

    Raises:
        SourceError: if it is no such matrix.
    """
    matrix = parse_matrix(text, size=size, place=place)
    fx, fy, cx, cy = matrix[0], matrix[size + 1], matrix[2] + 0.5, matrix[size + 2] + 0.5
    camera = pinhole(fx, fy, cx, cy, place=place)
    if not resolutions:
        return camera

    def distance(resolution: tuple[int, int]) -> float:
        return max(abs(2 * cx / resolution[0] - 1), abs(2 * cy / resolution[1] - 1))

    nearest = min(resolutions, key=distance)
    if distance(nearest) > _CENTRE_TOLERANCE:
        nearest = round(2 * cx), round(2 * cy)
    return pinhole(fx, fy, cx, cy, size=nearest, place=place)
