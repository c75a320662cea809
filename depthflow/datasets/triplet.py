"""Decodes a triplet's files to arrays, or states why it is rejected."""

import io
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import kornia_rs
import numpy as np

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_HEADER = struct.Struct(">16sIIBB")
"""Signature and the first chunk's head, width, height, bits per channel, colour type (2 = RGB)."""
_MAX_PIXELS = 2**27
"""Also OpenCV's limit, which depthflow/__init__.py sets."""
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class RejectError(Exception):
    """Raised for an input that cannot become a sample.

    Attributes:
        reason: Code by which rejects are counted, such as missing_member or no_valid_pixel. Codes are defined where
            they are raised, and in `CHECKS`.
        message: What was found.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.message)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A decoded triplet at the source's resolution.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth_m: (H, W) float32, metres; anything where invalid.
        called_valid: (H, W) bool, `mask > 0`.
        valid_mask: (H, W) bool, `mask > 0 and depth > 0`; finite too, once `CHECKS` passed.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    called_valid: np.ndarray
    valid_mask: np.ndarray


def decode_triplet(members: Mapping[str, bytes]) -> Frame:
    """Decodes and checks one triplet.

    Args:
        members: Content of the files rgb (a PNG), depth and mask (.npy).

    Raises:
        RejectError: if the input cannot become a sample.
    """
    for member, content in members.items():
        if not content:
            raise RejectError("empty_file", f"the {member} file has no bytes")
    rgb = decode_rgb(members["rgb"])
    if _is_turned(members["rgb"], rgb):
        raise RejectError(
            "turned_image",
            "the image's EXIF orientation turns it, and nothing says whether its depth belongs to the image as stored "
            "or as shown. Store the image as its depth lies, without EXIF data",
        )
    depth_m = _plane(decode_npy(members["depth"], "depth"), "depth")
    mask = _plane(decode_npy(members["mask"], "mask"), "mask")
    if not rgb.shape[:2] == depth_m.shape == mask.shape:
        raise RejectError(
            "shape_mismatch", f"image {rgb.shape[:2]}, depth {depth_m.shape} and mask {mask.shape} differ"
        )
    if not np.issubdtype(depth_m.dtype, np.floating):
        raise RejectError("wrong_dtype", f"depth must be floating point metres, received {depth_m.dtype}")
    depth_m = depth_m.astype(np.float32, copy=False)
    called_valid = mask > 0
    frame = Frame(rgb=rgb, depth_m=depth_m, called_valid=called_valid, valid_mask=called_valid & (depth_m > 0))
    for reason, check in CHECKS.items():
        if problem := check(frame):
            raise RejectError(reason, problem)
    return frame


def _non_finite_depth(decoded: Frame) -> str:
    if np.isfinite(decoded.depth_m).all():
        return ""
    broken = int(np.count_nonzero(decoded.called_valid & ~np.isfinite(decoded.depth_m)))
    return f"{broken} pixels that the mask calls valid are NaN or infinite" if broken else ""


CHECKS: dict[str, Callable[[Frame], str]] = {
    "non_finite_depth": _non_finite_depth,
    "no_valid_pixel": lambda decoded: "" if decoded.valid_mask.any() else "no pixel has mask > 0 and depth > 0",
}
"""Checks of a decoded triplet by reject reason, in order; each returns what is wrong, or an empty string."""


def decode_rgb(content: bytes) -> np.ndarray:
    """Decodes an image to (H, W, 3) uint8 RGB; raises RejectError (empty_file, unreadable_image) if it cannot."""
    if not content:
        raise RejectError("empty_file", "the image file has no bytes")
    rgb = _decode_plain_png(content)
    if rgb is not None:
        return rgb
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # Its header claims more pixels than OpenCV decodes.
        raise RejectError("unreadable_image", f"OpenCV rejects it: {error.err or error}") from None
    if bgr is None:
        raise RejectError("unreadable_image", f"{len(content)} bytes that cannot be decoded as an image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _is_turned(content: bytes, rgb: np.ndarray) -> bool:
    """Whether `decode_rgb` applied a rotation or reflection that EXIF data ask for."""
    if content.startswith(_PNG_START) and b"eXIf" not in content:
        return False  # As almost all are. What other formats keep where is OpenCV's to know.
    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return stored is None or not np.array_equal(stored, rgb[..., ::-1])


def _decode_plain_png(content: bytes) -> np.ndarray | None:
    """Decodes an intact 8-bit RGB PNG, like DIODE's, in half of OpenCV's time; returns None for anything else."""
    header = content[: _PNG_HEADER.size]
    if len(header) < _PNG_HEADER.size or not content.endswith(_PNG_END) or b"eXIf" in content:
        return None  # EXIF data may ask for a rotation, which OpenCV applies.
    start, width, height, depth, colour = _PNG_HEADER.unpack(header)
    if (start, depth, colour) != (_PNG_START, 8, 2) or width * height > _MAX_PIXELS:
        return None
    try:
        return kornia_rs.io.decode_image_png_u8(content, (height, width), "rgb")
    except Exception:  # It raises plain Exception. OpenCV then decides, and words the message.
        return None


def decode_npy(content: bytes, member: str) -> np.ndarray:
    """Returns an .npy file's array as a view of its bytes, without unpickling; raises RejectError(unreadable_array)."""
    try:
        handle = io.BytesIO(content)
        version = np.lib.format.read_magic(handle)
        if version not in _NPY_HEADERS:
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        shape, fortran_order, dtype = _NPY_HEADERS[version](handle)
        if dtype.hasobject:
            raise ValueError("it holds pickled Python objects, which are not loaded")
        values = np.frombuffer(content, dtype, count=math.prod(shape), offset=handle.tell())
        return values.reshape(shape, order="F" if fortran_order else "C")
    except Exception as error:  # NumPy parses a header as Python, which may raise anything.
        raise RejectError("unreadable_array", f"the {member} is not a plain .npy array: {error}") from None


def _plane(array: np.ndarray, member: str) -> np.ndarray:
    """Returns (H, W) of an array of shape (H, W) or (H, W, 1)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or array.size == 0:
        raise RejectError("wrong_shape", f"the {member} must be (H, W) or (H, W, 1), received {array.shape}")
    if array.dtype.kind not in "biuf":
        raise RejectError("wrong_dtype", f"the {member} must be numeric, received {array.dtype}")
    return array
