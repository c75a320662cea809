"""Images and depth as files in a request."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.reject import RejectError
from depthflow.inference.encoded import OUTPUT_FORMATS, check_images, image_bytes
from depthflow.inference.writers import read_png16

RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def file_of(rgb: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def decode_image(value: object) -> np.ndarray:
    """What the packaged model does with a file."""
    return decode_rgb(image_bytes(value))


def png_that_claims(height: int, width: int) -> bytes:
    """A few bytes that say that they are a huge image."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(
    "wrap", [bytes, lambda c: base64.b64encode(c).decode(), lambda c: base64.encodebytes(c).decode()]
)
def test_an_image_is_bytes_or_base64_with_or_without_line_breaks(wrap):
    np.testing.assert_array_equal(decode_image(wrap(file_of(RGB, "PNG"))), RGB)


def test_a_photo_is_turned_as_its_exif_data_say():
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate by 90 degrees clockwise to show it.
    flat = np.full((24, 40, 3), 255, np.uint8)
    flat[:, :20] = 0
    turned = decode_image(file_of(flat, "JPEG", quality=95, exif=exif))
    assert turned.shape == (40, 24, 3)
    assert turned[:18].max() < 60 and turned[22:].min() > 200


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("photo.jpg", "not_base64"),
        ("bildgröße", "not_base64"),
        ("", "empty_file"),
        (b"", "empty_file"),
        (b"no image", "unreadable_image"),
        (base64.b64encode(b"no image").decode(), "unreadable_image"),
        (file_of(RGB, "PNG")[:40], "unreadable_image"),
        (png_that_claims(2**14, 2**14), "unreadable_image"),
        (None, "unreadable_image"),
        (7, "unreadable_image"),
    ],
)
def test_what_is_no_image_is_rejected_with_a_reason(value, reason):
    with pytest.raises(RejectError) as caught:
        decode_image(value)
    assert caught.value.reason == reason


def test_numbers_from_json_are_the_images_they_were():
    batch = RGB[None]
    assert check_images(batch) is batch
    found = check_images(np.array(batch.tolist(), dtype=object))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, batch)


@pytest.mark.parametrize(
    ("values", "reason", "received"),
    [
        (np.full((1, 2, 2, 3), 256).astype(object), "wrong_dtype", "int64"),
        (np.full((1, 2, 2, 3), -1).astype(object), "wrong_dtype", "int64"),
        (np.full((1, 2, 2, 3), 0.5).astype(object), "wrong_dtype", "float64"),
        (np.array([[[[0, 0, 0]], [[0, 0]]]], dtype=object), "wrong_shape", "one size"),
        (np.zeros((1, 2, 2, 3), np.float32), "wrong_dtype", "float32"),
        (np.zeros((2, 2, 3), np.uint8), "wrong_shape", "(2, 2, 3)"),
        (np.zeros((1, 2, 2, 4), np.uint8), "wrong_shape", "(1, 2, 2, 4)"),
        (np.zeros((0, 2, 2, 3), np.uint8), "wrong_shape", "(0, 2, 2, 3)"),
    ],
)
def test_arrays_that_are_no_images_are_rejected_with_what_was_received(values, reason, received):
    with pytest.raises(RejectError) as caught:
        check_images(values)
    assert caught.value.reason == reason and received in caught.value.message


def test_depth_comes_back_as_it_was():
    depth_m = np.random.default_rng(1).uniform(0.5, 80, (24, 40)).astype(np.float32)
    assert OUTPUT_FORMATS["array"](depth_m, "metres") is depth_m
    np.testing.assert_array_equal(np.load(io.BytesIO(OUTPUT_FORMATS["npy"](depth_m, "metres"))), depth_m)
    png = io.BytesIO(OUTPUT_FORMATS["png"](depth_m, "metres"))
    np.testing.assert_allclose(read_png16(png), depth_m, atol=0.51 * 80 / 65535)


def test_a_png_of_relative_depth_has_no_scale_in_metres():
    depth = np.random.default_rng(1).uniform(0.5, 8, (24, 40)).astype(np.float32)
    with Image.open(io.BytesIO(OUTPUT_FORMATS["png"](depth, "relative depth"))) as png:
        assert {"relative_depth_scale"} == {*png.info}
        values = np.asarray(png, np.float64)
    assert values.max() == 65535
    np.testing.assert_allclose(values / 65535 * depth.max(), depth, atol=8 / 65535)
