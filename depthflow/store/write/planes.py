"""Converts a frame at the source's resolution to the planes that a sample stores. Pure functions on arrays.

The image is area-averaged; depth and masks are point-sampled, so no stored depth is a blend of a near and a far
surface, or of a valid and an invalid pixel.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from depthflow.datasets.camera import Camera


@dataclass(frozen=True, kw_only=True)
class Planes:
    """A sample's arrays at the stored size.

    Attributes:
        rgb: (H, W, 3) uint8.
        log_depth: (H, W) float32, natural log of metres; 0 where invalid.
        valid_mask: (H, W) bool.
        edge_mask: (H, W) bool; True beside a depth jump.
    """

    rgb: np.ndarray
    log_depth: np.ndarray
    valid_mask: np.ndarray
    edge_mask: np.ndarray


def make_planes(
    *,
    rgb: np.ndarray,
    depth_m: np.ndarray,
    valid_mask: np.ndarray,
    height: int,
    width: int,
    edge_relative_jump: float,
    edge_radius_px: int,
    views: tuple[Camera, Camera] | None = None,
) -> Planes:
    """Resizes one frame, takes the log of its valid depths and marks depth edges.

    Args:
        rgb: (h', w', 3) uint8, of any size.
        depth_m: (h, w) float32, metres, finite and > 0 where valid; anything elsewhere.
        valid_mask: (h, w) bool.
        height, width: Stored size in pixels.
        edge_relative_jump, edge_radius_px: See `depth_edges`.
        views: Cameras of the image and of the depth map, if these have different fields of view; the optical centre is
            taken to be the same.
    """
    edges = depth_edges(
        depth_m=depth_m, valid_mask=valid_mask, relative_jump=edge_relative_jump, radius_px=edge_radius_px
    )
    if views:
        sampled, seen = seen_by_depth(*views, shape=valid_mask.shape, height=height, width=width)
        stored_valid = sample_points(valid_mask, sampled) & seen
    else:
        sampled = point_sample_index(valid_mask.shape, height=height, width=width)
        stored_valid = sample_points(valid_mask, sampled)
    stored_depth_m = np.where(stored_valid, sample_points(depth_m, sampled), np.float32(1.0))
    return Planes(
        rgb=resize_rgb(rgb, height=height, width=width),
        log_depth=np.log(stored_depth_m, dtype=np.float32),
        valid_mask=stored_valid,
        edge_mask=sample_points(edges, sampled),
    )


def resize_rgb(rgb: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Resizes an (h, w, 3) uint8 image: area-averaged if it shrinks, otherwise bilinear."""
    if rgb.shape[:2] == (height, width):
        return rgb
    shrinks = height <= rgb.shape[0] and width <= rgb.shape[1]
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def point_sample_index(shape: tuple[int, ...], *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an open mesh of the source pixels that contain the pixel centres of a (height, width) grid.

    Args:
        shape: (h, w) of the source.

    Returns:
        rows (height, 1) and columns (1, width), int64: `plane[rows, columns]` is the sampled plane.
    """
    rows = ((2 * np.arange(height) + 1) * shape[0]) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * shape[1]) // (2 * width)
    return np.ix_(rows, columns)  # type: ignore[return-value]


def sample_points(plane: np.ndarray, index: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns `plane[index]` of an open mesh, in half of the time: whole rows first, then their columns."""
    rows, columns = index
    return plane.take(rows.ravel(), axis=0).take(columns.ravel(), axis=1)


def seen_by_depth(
    image: Camera, depth: Camera, *, shape: tuple[int, ...], height: int, width: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Returns which pixel of the depth map sees what each pixel of a (height, width) image sees.

    Args:
        image, depth: Their cameras, at any resolution.
        shape: (h, w) of the depth map.

    Returns:
        An open mesh as `point_sample_index` returns it, and (height, width) bool: whether the depth map sees it at all.
    """
    stored, own = image.resized(height=height, width=width), depth.resized(height=shape[0], width=shape[1])
    places = []
    for size, axis in ((height, "y"), (width, "x")):
        centre, own_centre = (getattr(camera, f"c{axis}_px") for camera in (stored, own))
        focal, own_focal = (getattr(camera, f"f{axis}_px") for camera in (stored, own))
        places.append(np.floor((np.arange(size) + 0.5 - centre) / focal * own_focal + own_centre).astype(np.int64))
    inside = [(place >= 0) & (place < length) for place, length in zip(places, shape, strict=True)]
    rows, columns = (place.clip(0, length - 1) for place, length in zip(places, shape, strict=True))
    return np.ix_(rows, columns), inside[0][:, None] & inside[1]  # type: ignore[return-value]


def depth_edges(*, depth_m: np.ndarray, valid_mask: np.ndarray, relative_jump: float, radius_px: int) -> np.ndarray:
    """Marks pixels beside a depth jump, where a laser's returns mix two surfaces.

    A jump lies between two valid pixels, direct or diagonal neighbours, whose depths differ by more than
    `relative_jump` of the nearer one. Every pixel within `radius_px` (in a square) of either side is marked.

    Args:
        depth_m: (H, W) float32, metres; anything where invalid.
        valid_mask: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    kernel = np.ones((3, 3), np.uint8)
    valid = valid_mask.view(np.uint8)
    ratio = np.float32(1 + relative_jump)
    depth_or_0 = cv2.copyTo(depth_m, valid)
    depth_or_far = np.full(depth_m.shape, np.float32(1e30))
    cv2.copyTo(depth_m, valid, depth_or_far)
    farthest = cv2.dilate(depth_or_0, kernel)
    nearest = cv2.erode(depth_or_far, kernel)
    # In place, since a new array of this size costs as much as the arithmetic.
    far_beside = cv2.compare(farthest, np.multiply(depth_or_0, ratio, out=depth_or_far), cv2.CMP_GT)
    near_beside = cv2.compare(np.multiply(nearest, ratio, out=nearest), depth_or_0, cv2.CMP_LT)
    jump = cv2.bitwise_and(cv2.bitwise_or(far_beside, near_beside, dst=far_beside), valid)
    if radius_px == 0:
        return jump.view(np.bool_)
    square = np.ones((2 * radius_px + 1, 2 * radius_px + 1), np.uint8)
    return cv2.dilate(jump, square).view(np.bool_)


def depth_figures(planes: Planes) -> dict[str, float | None]:
    """Computes a sample's depth statistics over its stored valid pixels.

    Returns:
        depth_min_m, depth_median_m, depth_max_m in metres; log_depth_mean in natural log of metres, None if no pixel is
        valid; valid_fraction and edge_fraction of all pixels.
    """
    fractions = {
        "valid_fraction": float(np.count_nonzero(planes.valid_mask) / planes.valid_mask.size),
        "edge_fraction": float(np.count_nonzero(planes.edge_mask) / planes.edge_mask.size),
    }
    log_depth = planes.log_depth[planes.valid_mask]
    if log_depth.size == 0:
        return {**dict.fromkeys(("depth_min_m", "depth_median_m", "depth_max_m", "log_depth_mean")), **fractions}
    middle = log_depth.size // 2
    ordered = np.partition(log_depth, middle)
    lower = ordered[middle] if log_depth.size % 2 else ordered[:middle].max()  # A second rank costs twice as much.
    return {
        "depth_min_m": math.exp(log_depth.min()),
        "depth_median_m": float(np.exp([lower, ordered[middle]], dtype=np.float64).mean()),
        "depth_max_m": math.exp(log_depth.max()),
        "log_depth_mean": float(log_depth.mean(dtype=np.float64)),
        **fractions,
    }
