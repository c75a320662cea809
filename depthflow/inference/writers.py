"""Writes depth maps: float32 .npy, 16-bit PNG with its scale inside, and point clouds."""

from dataclasses import dataclass
from math import radians, tan
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, PngImagePlugin

from depthflow.datasets.camera import Camera

SCALE_KEY = "depth_scale_m"
PNG_MAX = 65535
MILLIMETRE_M = 0.001


@dataclass(frozen=True, kw_only=True)
class Lens:
    """Focal lengths or, for square pixels, the horizontal field of view.

    Attributes:
        fx_px, fy_px: Focal lengths in pixels of the image; None if the field of view is given.
        fov_deg: Degrees between the left and the right border; None if focal lengths are given.
    """

    fx_px: float | None = None
    fy_px: float | None = None
    fov_deg: float | None = None

    def focal_px(self, *, width: int) -> tuple[float, float]:
        """Returns (fx, fy) in pixels for an image of this width."""
        if self.fx_px is not None and self.fy_px is not None:
            return self.fx_px, self.fy_px
        assert self.fov_deg is not None
        focal = width / (2 * tan(radians(self.fov_deg) / 2))
        return focal, focal

    def camera(self, *, height: int, width: int) -> Camera:
        """Returns the camera of an image of this size; its principal point is the centre of the image."""
        fx, fy = self.focal_px(width=width)
        return Camera(width=width, height=height, fx_px=fx, fy_px=fy, cx_px=width / 2, cy_px=height / 2)


def write_npy(path: Path | IO[bytes], depth_m: np.ndarray) -> None:
    """Writes (H, W) float32 metres as .npy."""
    np.save(path, depth_m.astype(np.float32, copy=False))


def write_png16(path: Path | IO[bytes], depth_m: np.ndarray, *, scale_key: str = SCALE_KEY) -> float:
    """Writes a 16-bit grey PNG of metres / scale, with the scale in a text chunk.

    The scale is 0.001, as other programs expect: values are millimetres. Only if the largest depth is over 65.535 m,
    or if the map is not in metres, it is the largest value / 65535: 350 m are kept to 2.7 mm.

    Args:
        path: Path of the .png file, or an open one.
        depth_m: (H, W) float32, metres, finite, >= 0.
        scale_key: Keyword of the chunk. Another than `SCALE_KEY` is for maps that are not in metres.

    Returns:
        The scale.
    """
    largest = float(depth_m.max())
    fits = scale_key == SCALE_KEY and round(largest / MILLIMETRE_M) <= PNG_MAX
    scale_m = MILLIMETRE_M if fits else max(largest, float(np.finfo(np.float32).tiny)) / PNG_MAX
    values = np.round(depth_m.astype(np.float64) / scale_m).clip(0, PNG_MAX).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text(scale_key, repr(scale_m))
    Image.fromarray(values).save(path, "PNG", pnginfo=text)
    return scale_m


def read_png16(path: Path | IO[bytes]) -> np.ndarray:
    """Reads (H, W) float32 metres from a file that `write_png16` wrote."""
    with Image.open(path) as image:
        scale_m = float(image.info[SCALE_KEY])
        return (np.asarray(image, dtype=np.float64) * scale_m).astype(np.float32)


def write_ply(path: Path, depth_m: np.ndarray, rgb: np.ndarray, lens: Lens) -> None:
    """Writes a binary PLY of one coloured point per pixel, in metres: x right, y down, z away from the camera.

    Depth is along z, as in DIODE; the principal point is the centre of the image.

    Args:
        path: Path of the .ply file.
        depth_m: (H, W) float32, metres.
        rgb: (H, W, 3) uint8.
        lens: Lens of the camera.
    """
    height, width = depth_m.shape
    points = np.empty(height * width, np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))
    points["xyz"] = lens.camera(height=height, width=width).unproject(depth_m).reshape(-1, 3)
    points["rgb"] = rgb.reshape(-1, 3)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(points)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
        "end_header\n",
    ]
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        points.tofile(file)
