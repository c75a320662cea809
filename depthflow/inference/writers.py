"""Writing a depth map: float32 .npy in metres, and a 16-bit PNG that carries its scale."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

SCALE_KEY = "depth_scale_m"
PNG_MAX = 65535


def write_npy(path: Path, depth_m: np.ndarray) -> None:
    """(H, W) float32 metres as .npy."""
    np.save(path, depth_m.astype(np.float32, copy=False))


def write_png16(path: Path, depth_m: np.ndarray) -> None:
    """A 16-bit grey PNG: metres = value x scale; the scale is in the file's text chunk and in a .json beside it.

    The scale is the image's largest depth / 65535, so that any range fits: 350 m are kept to 2.7 mm.

    Args:
        path: the .png file.
        depth_m: (H, W) float32, metres, finite and not negative.
    """
    scale_m = max(float(depth_m.max()), float(np.finfo(np.float32).tiny)) / PNG_MAX
    values = np.round(depth_m.astype(np.float64) / scale_m).clip(0, PNG_MAX).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text(SCALE_KEY, repr(scale_m))
    Image.fromarray(values).save(path, pnginfo=text)
    path.with_suffix(".json").write_text(json.dumps({SCALE_KEY: scale_m}))


def read_png16(path: Path) -> np.ndarray:
    """(H, W) float32 metres of a file that `write_png16` wrote."""
    with Image.open(path) as image:
        scale_m = float(image.info[SCALE_KEY])
        return (np.asarray(image, dtype=np.float64) * scale_m).astype(np.float32)
