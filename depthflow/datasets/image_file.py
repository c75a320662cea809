"""Decodes image files of any format: to RGB, and to the values that they hold."""

import contextlib
import struct
import warnings
from io import BytesIO

import cv2
import kornia_rs
import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from depthflow.datasets.npy_file import NPY_START, decode_npy
from depthflow.datasets.reject import RejectError

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_HEADER = struct.Struct(">16sIIBB")
"""Signature and the first chunk's head, width, height, bits per channel, colour type (0 = grey, 2 = RGB)."""
MAX_PIXELS = 2**27
"""Also OpenCV's limit, which depthflow/__init__.py sets."""
_EXIF = (b"Exif", b"EXIF", b"II*\0", b"MM\0*")
"""What an image with EXIF data contains, one of them: the name of the block, or the start of a TIFF file."""
_JPEG_START = b"\xff\xd8\xff"


def decode_rgb(content: bytes) -> np.ndarray:
    """Decodes an image, or an .npy of (H, W, 3) uint8, to (H, W, 3) uint8 RGB.

    Raises:
        RejectError: empty_file or unreadable_image.
    """
    if not content:
        raise RejectError("empty_file", "the image file has no bytes")
    if content.startswith(NPY_START):
        return _decode_rgb_npy(content)
    rgb = _decode_plain_png(content)
    if rgb is not None:
        return rgb
    bgr = decode_with_opencv(content, cv2.IMREAD_COLOR, member="image", reason="unreadable_image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_with_opencv(content: bytes, flags: int, *, member: str, reason: str) -> np.ndarray:
    """Decodes with OpenCV, which reads the size from the header before it allocates anything.

    Args:
        flags: Of `cv2.imdecode`.
        member: What it is, for the message.
        reason: Code of the RejectError that is raised if it cannot be decoded.
    """
    try:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:  # Its header claims more pixels than OpenCV decodes.
        raise RejectError(reason, f"OpenCV rejects the {member}: {error.err or error}") from None
    if found is None:
        raise RejectError(reason, f"the {member}'s {len(content)} bytes cannot be decoded")
    return found


def _decode_rgb_npy(content: bytes) -> np.ndarray:
    try:
        rgb = decode_npy(content, "image")
    except RejectError as error:
        raise RejectError("unreadable_image", error.message) from None
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        what = f"received {rgb.dtype} of {rgb.shape}"
        raise RejectError("unreadable_image", f"an image that is an .npy must be (H, W, 3) uint8, {what}")
    return np.ascontiguousarray(rgb)


def is_turned(content: bytes, rgb: np.ndarray) -> bool:
    """Whether `decode_rgb` applied a rotation or reflection that EXIF data ask for."""
    if content.startswith(NPY_START):
        return False
    if content.startswith(_JPEG_START):
        if b"Exif" not in content:
            return False
        if (orientation := _jpeg_orientation(content)) in range(1, 9):  # A phone's; a second decode takes as long.
            return orientation != 1
    if b"eXIf" not in content if content.startswith(_PNG_START) else not any(mark in content for mark in _EXIF):
        return False  # As almost all are.
    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return stored is None or not np.array_equal(stored, rgb[..., ::-1])


def _jpeg_orientation(content: bytes) -> int | None:
    """Returns the orientation that a JPEG's EXIF data state, or None; not that of XMP data, which OpenCV ignores."""
    exif = Image.Exif()
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):  # Pillow's, for damaged data.
        with Image.open(BytesIO(content)) as image:
            exif.load(image.info.get("exif", b""))
        return exif.get(Base.Orientation)
    return None


def decode_grey_png(content: bytes) -> np.ndarray | None:
    """Decodes an intact 16-bit grey PNG to (H, W) uint16 in two thirds of OpenCV's time; None for anything else."""
    size = _plain_png_size(content, bits=16, colour=0)
    try:
        return None if size is None else kornia_rs.io.decode_image_png_u16(content, size, "mono")[..., 0]
    except Exception:  # It raises plain Exception. OpenCV then decides, and words the message.
        return None


def _decode_plain_png(content: bytes) -> np.ndarray | None:
    """Decodes an intact 8-bit RGB PNG, like DIODE's, in half of OpenCV's time; returns None for anything else."""
    size = None if b"eXIf" in content else _plain_png_size(content, bits=8, colour=2)
    try:  # EXIF data may ask for a rotation, which OpenCV applies.
        return None if size is None else kornia_rs.io.decode_image_png_u8(content, size, "rgb")
    except Exception:
        return None


def _plain_png_size(content: bytes, *, bits: int, colour: int) -> tuple[int, int] | None:
    """Returns the height and width of a PNG of this kind that is whole; None for anything else."""
    header = content[: _PNG_HEADER.size]
    if len(header) < _PNG_HEADER.size or not content.endswith(_PNG_END):
        return None
    start, width, height, *kind = _PNG_HEADER.unpack(header)
    fits = (start, *kind) == (_PNG_START, bits, colour) and width * height <= MAX_PIXELS
    return (height, width) if fits else None
