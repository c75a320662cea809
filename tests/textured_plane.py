"""Images of a slanted, textured plane from any pose, by ray casting, with exact depth."""

from dataclasses import dataclass

import numpy as np

CAMERA = np.array([44.0, 42.0, 20.3, 11.6])
"""fx, fy, cx, cy."""
SIZE = (24, 40)


@dataclass(frozen=True)
class Plane:
    """z = distance + slope_x x + slope_y y, in metres of the frame's camera."""

    distance: float = 2.0
    slope_x: float = 0.3
    slope_y: float = -0.2


def rotation(axis_angle) -> np.ndarray:
    """Returns the rotation matrix of an axis-angle vector, by OpenCV."""
    import cv2

    return cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0]


def pose_of(axis_angle=(0, 0, 0), translation=(0, 0, 0)) -> np.ndarray:
    """Returns the 4 x 4 pose that takes points of the frame's camera to the view's."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(axis_angle), translation
    return pose


def render(pose: np.ndarray, *, camera=CAMERA, plane=Plane(), size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image (H, W, 3) uint8 and the depth (H, W) float64 that a camera at this pose sees."""
    fx, fy, cx, cy = camera
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=-1)
    turned, origin = rays @ pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
    normal = np.array([-plane.slope_x, -plane.slope_y, 1.0])
    depth = (plane.distance - origin @ normal) / (turned @ normal)
    points = origin + depth[..., None] * turned
    waves = [(9, 4, 0.0), (-5, 11, 1.0), (13, 2, 2.0), (3, -8, 0.5)]
    channels = [sum(np.sin(a * points[..., 0] + b * points[..., 1] + c + k) for a, b, c in waves) for k in range(3)]
    return np.clip(127.5 + 30 * np.stack(channels, axis=-1), 0, 255).round().astype(np.uint8), depth
