"""Images and depth as files in a request: what the packaged model takes and returns besides arrays."""

import base64
import binascii
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from depthflow.datasets.reject import RejectError
from depthflow.inference.writers import SCALE_KEYS, write_npy, write_png16
from depthflow.models.interface import ARRAY, Output


def _file(write: Callable[..., Any], depth: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, depth, **options)
    return buffer.getvalue()


OUTPUT_FORMATS: Mapping[str, Callable[[np.ndarray, Output], Any]] = {
    ARRAY: lambda depth, output: depth,
    "npy": lambda depth, output: _file(write_npy, depth),
    "png": lambda depth, output: _file(write_png16, depth, scale_key=SCALE_KEYS[output]),
}
"""Name to a function of (H, W) float32 and what it holds. A file is bytes, which MLflow's server sends as base64."""


def image_bytes(value: object) -> bytes:
    """Returns the bytes of an image file.

    Args:
        value: Bytes, or base64 text.

    Raises:
        RejectError: not_base64 or unreadable_image.
    """
    if isinstance(value, str):
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise RejectError("not_base64", f"the text is not base64 ({error})") from None
    if not isinstance(value, bytes):
        raise RejectError("unreadable_image", f"an image is bytes or base64 text, not {type(value).__name__}")
    return value


def check_images(values: np.ndarray) -> np.ndarray:
    """Returns (B, H, W, 3) uint8 images, converted if they are Python's integers, as from JSON.

    Raises:
        RejectError: wrong_dtype or wrong_shape.
    """
    if values.dtype == object:
        try:
            numbers = np.array(values.tolist())
        except ValueError:
            raise RejectError("wrong_shape", "the images of an array must have one size") from None
        is_byte = numbers.dtype.kind in "iu" and numbers.size and numbers.min() >= 0 and numbers.max() <= 255
        values = numbers.astype(np.uint8) if is_byte else numbers
    if values.dtype != np.uint8:
        raise RejectError("wrong_dtype", f"an array must hold integers from 0 to 255, received {values.dtype}")
    if values.ndim != 4 or values.shape[-1] != 3 or not values.size:
        raise RejectError("wrong_shape", f"an array of images must be (B, H, W, 3), received {values.shape}")
    return values
