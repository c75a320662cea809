"""Decodes depth files of every format that sensors and data sets use, recognised by their first bytes."""

import io
import zipfile
from collections.abc import Callable

import cv2
import numpy as np
import OpenEXR

from depthflow.datasets.image_file import decode_grey_png
from depthflow.datasets.npy_file import decode_npy
from depthflow.datasets.reject import RejectError

MAX_PIXELS = 2**27
"""Also OpenCV's limit, which depthflow/__init__.py sets."""
_DEPTH_NAMES = ("depth", "Z", "Y", "R", "arr_0")
"""Names of the array or channel to read where a file holds several."""


def decode_depth(content: bytes) -> np.ndarray:
    """Decodes a depth map.

    Args:
        content: A .npy, .npz, 16-bit PNG, PGM, PFM, TIFF or OpenEXR file.

    Returns:
        (H, W) or (H, W, 1) in the file's own dtype and unit.

    Raises:
        RejectError: unreadable_array, wrong_dtype or wrong_shape.
    """
    if (millimetres := decode_grey_png(content)) is not None:
        return millimetres
    for start, decode in DECODERS:
        if content.startswith(start):
            return decode(content)
    what = f"it begins {content[:8]!r}, and is no .npy, .npz, PNG, PGM, PFM, TIFF or OpenEXR file"
    raise RejectError("unreadable_array", f"the depth cannot be decoded: {what}")


def _decode_npz(content: bytes) -> np.ndarray:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            name = _chosen([name.removesuffix(".npy") for name in archive.namelist()], "arrays")
            if archive.getinfo(f"{name}.npy").file_size > 8 * MAX_PIXELS + 2**16:
                raise RejectError("unreadable_array", f"the array {name} has more than {MAX_PIXELS} pixels")
            return decode_npy(archive.read(f"{name}.npy"), "depth")
    except (OSError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile, RuntimeError) as error:
        raise RejectError("unreadable_array", f"the depth is not a plain .npz file: {error}") from None


def _decode_picture(content: bytes) -> np.ndarray:
    """Decodes with OpenCV, which reads the size from the header before it allocates anything."""
    try:
        depth = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise RejectError("unreadable_array", f"OpenCV rejects the depth: {error.err or error}") from None
    if depth is None:
        raise RejectError("unreadable_array", f"the depth's {len(content)} bytes cannot be decoded")
    if depth.dtype == np.uint8:
        raise RejectError("wrong_dtype", "the depth has 8 bits per pixel: it is a picture of depth, not depth")
    return depth


def _decode_exr(content: bytes) -> np.ndarray:
    try:
        with OpenEXR.File(io.BytesIO(content), header_only=True) as file:  # Sizes before pixels.
            low, high = file.header()["dataWindow"]
        height, width = (int(high[axis]) - int(low[axis]) + 1 for axis in (1, 0))
        if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
            raise RejectError("unreadable_array", f"the depth has {height} x {width} pixels, more than {MAX_PIXELS}")
        with OpenEXR.File(io.BytesIO(content), separate_channels=True) as file:
            channels = file.channels()
            return np.array(channels[_chosen([*channels], "channels")].pixels)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise RejectError("unreadable_array", f"the depth is not a plain OpenEXR file: {error}") from None


def _chosen(names: list[str], kind: str) -> str:
    """Returns the only name, or the one that stands for depth."""
    known = [name for name in _DEPTH_NAMES if name in names]
    if len(names) != 1 and not known:
        raise RejectError("unreadable_array", f"none of the {kind} {', '.join(names[:8])} is named depth")
    return names[0] if len(names) == 1 else known[0]


DECODERS: tuple[tuple[bytes, Callable[[bytes], np.ndarray]], ...] = (
    (b"\x93NUMPY", lambda content: decode_npy(content, "depth")),
    (b"PK\x03\x04", _decode_npz),
    (b"\x76\x2f\x31\x01", _decode_exr),
    *((start, _decode_picture) for start in (b"\x89PNG", b"P5", b"Pf", b"II*\x00", b"MM\x00*")),
)
"""First bytes of a file, and its decoder."""
