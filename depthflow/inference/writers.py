"""Writes depth maps: float32 .npy, 16-bit PNG with its scale inside, and point clouds."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, PngImagePlugin

from depthflow.datasets.camera import Camera
from depthflow.models.interface import Output

SCALE_KEY = "depth_scale_m"
SCALE_KEYS: Mapping[Output, str] = {
    "metres": SCALE_KEY,
    "relative depth": "relative_depth_scale",
    "relative inverse depth": "relative_scale",
}
"""Keyword of a PNG's scale, by what the PNG holds."""
PNG_MAX = 65535
MILLIMETRE_M = 0.001


def write_npy(path: Path | IO[bytes], depth_m: np.ndarray) -> None:
    """Writes (H, W) float32 metres as .npy."""
    np.save(path, depth_m.astype(np.float32, copy=False))


def write_png16(path: Path | IO[bytes], depth_m: np.ndarray, *, scale_key: str = SCALE_KEY) -> float:
    """Writes a 16-bit grey PNG of metres / scale, with the scale in a text chunk.

    The scale is 0.001, as other programs expect: values are millimetres. Only if the largest depth is over 65.535 m,
    or if the map is not in metres, it is the largest value / 65535: 350 m are kept to 2.7 mm.

    Args:
        path: Path of the .png file, or an open one.
        depth_m: (H, W) float32, metres, >= 0; NaN, where nothing is predicted, becomes 0.
        scale_key: Keyword of the chunk. Another than `SCALE_KEY` is for maps that are not in metres.

    Returns:
        The scale.
    """
    depth_m = np.nan_to_num(depth_m)
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


def write_ply(path: Path, depth_m: np.ndarray, rgb: np.ndarray, camera: Camera, *, output: Output = "metres") -> None:
    """Writes a binary PLY of one coloured point per pixel, in metres: x right, y down, z away from the camera.

    Depth is along z, as in DIODE. Points of relative depth are as large as it is: the scene up to a factor, which a
    comment in the file says.

    Args:
        path: Path of the .ply file.
        depth_m: (H, W) float32, metres or relative depth; NaN has no point.
        rgb: (H, W, 3) uint8.
        camera: Camera of the image, at its size.
        output: What the depth is.
    """
    shown = np.isfinite(depth_m)
    points = np.empty(np.count_nonzero(shown), np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))
    points["xyz"] = camera.unproject(depth_m)[shown]
    points["rgb"] = rgb[shown]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *[f"comment {output}: metres up to an unknown factor"] * (output != "metres"),
        f"element vertex {len(points)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
        "end_header\n",
    ]
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        points.tofile(file)
