"""Decodes depth files of every format that sensors and data sets use, recognised by their first bytes."""

import io
import re
import zipfile
from collections.abc import Callable

import cv2
import numpy as np
import OpenEXR

from depthflow.datasets.hdf5_file import MAGIC, decode_hdf5
from depthflow.datasets.image_file import MAX_PIXELS, decode_grey_png, decode_with_opencv
from depthflow.datasets.npy_file import NPY_START, decode_npy
from depthflow.datasets.reject import RejectError

_DEPTH_NAMES = ("depth", "dataset", "Z", "Y", "R", "arr_0")
"""Names of the array, dataset or channel to read where a file holds several."""
_PFM_SCALE = re.compile(rb"(?<=^Pf)(\s+\d+\s+\d+\s+)([+-]?)[0-9.eE+-]+(?=\s)")
_PICTURES = (b"\x89PNG", b"P5", b"II*\x00", b"MM\x00*")
"""First bytes of PNG, PGM and TIFF."""
_HEADER_BYTES = 256
"""Where the header of a PFM ends at the latest."""


def decode_depth(content: bytes, *, may_have_8_bits: bool = False) -> np.ndarray:
    """Decodes a depth map.

    Args:
        content: A .npy, .npz, 16-bit PNG, PGM, PFM, TIFF, OpenEXR or HDF5 file.
        may_have_8_bits: Whether a picture of 8 bits per pixel is a map, as some are of disparity.

    Returns:
        (H, W) or (H, W, 1) in the file's own dtype and unit.

    Raises:
        RejectError: unreadable_array, wrong_dtype or wrong_shape.
    """
    if (millimetres := decode_grey_png(content)) is not None:
        return millimetres
    if may_have_8_bits and content.startswith(_PICTURES):
        return _picture(content)
    for start, decode in DECODERS:
        if content.startswith(start):
            return decode(content)
    what = f"it begins {content[:8]!r}, and is no .npy, .npz, PNG, PGM, PFM, TIFF, OpenEXR or HDF5 file"
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


def _picture(content: bytes) -> np.ndarray:
    return decode_with_opencv(content, cv2.IMREAD_UNCHANGED, member="depth", reason="unreadable_array")


def _decode_picture(content: bytes) -> np.ndarray:
    depth = _picture(content)
    if depth.dtype == np.uint8:
        raise RejectError("wrong_dtype", "the depth has 8 bits per pixel: it is a picture of depth, not depth")
    return depth


def _decode_pfm(content: bytes) -> np.ndarray:
    """Decodes the values as stored. OpenCV divides them by the header's scale, though only its sign has a meaning.

    Source: Middlebury's stereo benchmark, whose files have a scale of 1/255 and disparities in pixels.
    """
    return _decode_picture(_PFM_SCALE.sub(rb"\1\g<2>1", content[:_HEADER_BYTES], count=1) + content[_HEADER_BYTES:])


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
        found = f"none of the {kind} {', '.join(names[:8])} is named depth" if names else f"the depth has no {kind}"
        raise RejectError("unreadable_array", found)
    return names[0] if len(names) == 1 else known[0]


DECODERS: tuple[tuple[bytes, Callable[[bytes], np.ndarray]], ...] = (
    (NPY_START, lambda content: decode_npy(content, "depth")),
    (b"PK\x03\x04", _decode_npz),
    (b"\x76\x2f\x31\x01", _decode_exr),
    (MAGIC, lambda content: decode_hdf5(content, lambda names: _chosen(names, "2-D datasets"))),
    (b"Pf", _decode_pfm),
    *((start, _decode_picture) for start in _PICTURES),
)
"""First bytes of a file, and its decoder."""
