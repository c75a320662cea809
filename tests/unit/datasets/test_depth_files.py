"""Depth files of every format: a pixel at known metres comes out at these metres, and damage is a reject."""

import io
import struct

import cv2
import h5py
import numpy as np
import OpenEXR
import pytest
from PIL import Image

from depthflow.datasets.camera import Camera
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.frames import DepthEncoding, Frame
from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.reject import RejectError
from depthflow.reports.survey import implausible_depths
from depthflow.store.write.sample import SampleLayout, make_sample

SIZE = HEIGHT, WIDTH = 4, 6
METRES = np.arange(1, HEIGHT * WIDTH + 1).reshape(SIZE) / 4
"""No two pixels are alike, so a flipped or transposed map is noticed."""
CAMERA = Camera(width=WIDTH, height=HEIGHT, fx_px=5.0, fy_px=4.0, cx_px=2.5, cy_px=2.0)
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
UNKNOWN, LOW, NOT_FINITE = (1, 2), (2, 0), (3, 5)
"""The pixels with a value that means no depth, with low confidence, and with 0 or a value that is not finite."""


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(array):
    stream = io.BytesIO()
    np.savez_compressed(stream, rgb=RGB, depth=array)
    return stream.getvalue()


def encoded(ending):
    return lambda array: cv2.imencode(ending, array)[1].tobytes()


def pgm(array):
    return b"P5\n# of a sensor\n%d %d\n65535\n" % array.shape[::-1] + array.astype(">u2").tobytes()


def pfm(order, scale="1.0"):
    """Rows from the bottom up; a negative scale means little-endian."""
    sign = "-" if order == "<" else ""
    return lambda array: (
        f"Pf\n{array.shape[1]} {array.shape[0]}\n{sign}{scale}\n".encode() + array[::-1].astype(f"{order}f4").tobytes()
    )


def big_endian_tiff(array):
    stream = io.BytesIO()
    Image.frombytes("I;16B", array.shape[::-1], array.astype(">u2").tobytes()).save(stream, "TIFF")
    assert stream.getvalue().startswith(b"MM\x00*")
    return stream.getvalue()


def exr(array, name="Z", **others):
    stream = io.BytesIO()
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {name: np.ascontiguousarray(array), **others}).write(stream)
    return stream.getvalue()


def hdf5(array):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("dataset", data=array, compression="gzip")
    return stream.getvalue()


FORMATS = {
    "npy-f2": ("f2", npy),
    "npy-f4": ("f4", npy),
    "npy-f4-big": (">f4", npy),
    "npy-f8": ("f8", npy),
    "npy-u2": ("u2", npy),
    "npy-i4": ("i4", npy),
    "npy-channel": ("f4", lambda array: npy(array[..., None])),
    "npy-columns": ("f4", lambda array: npy(np.asfortranarray(array))),
    "npz-f4": ("f4", npz),
    "png": ("u2", encoded(".png")),
    "pgm": ("u2", pgm),
    "pfm": ("f4", pfm("<")),
    "pfm-big": ("f4", pfm(">")),
    "pfm-scale": ("f4", pfm("<", "0.003922")),
    "tiff-u2": ("u2", encoded(".tiff")),
    "tiff-u2-big": ("u2", big_endian_tiff),
    "tiff-f4": ("f4", encoded(".tif")),
    "tiff-f8": ("f8", encoded(".tif")),
    "exr-half": ("f2", exr),
    "exr-float": ("f4", exr),
    "exr-named": ("f4", lambda array: exr(array, name="depth", A=np.ones(SIZE, np.float32))),
    "hdf5-f2": ("f2", hdf5),
    "hdf5-f4": ("f4", hdf5),
    "hdf5-u2": ("u2", hdf5),
}
INTEGERS = [name for name, (dtype, _) in FORMATS.items() if np.dtype(dtype).kind != "f"]


def frame_of(encoding):
    return Frame(
        sample_id="test/a",
        split="train",
        scene_type="indoors",
        scene="a",
        scan="a",
        members={},
        dataset="test",
        encoding=encoding,
        camera=CAMERA,
    )


def sample_of(encoding, **members):
    layout = SampleLayout(height=HEIGHT, width=WIDTH, edge_relative_jump=0.1, edge_radius_px=0)
    return make_sample(frame_of(encoding), {"rgb": encoded(".png")(RGB), **members}, layout)


def ray_lengths():
    """From a pixel's centre, computed pixel by pixel."""
    found = np.ones(SIZE)
    for y, x in np.ndindex(*SIZE):
        found[y, x] = (1 + ((x + 0.5 - 2.5) / 5) ** 2 + ((y + 0.5 - 2.0) / 4) ** 2) ** 0.5
    return found


@pytest.mark.parametrize("has_confidence", [False, True])
@pytest.mark.parametrize("kind", ["planar", "ray"])
@pytest.mark.parametrize("invalid", [(), (6144.0, 40000.0)])
@pytest.mark.parametrize(
    ("file_format", "units_per_m"),
    [(name, units) for name in FORMATS for units in (1, 256, 1000, 5000) if name not in INTEGERS or units > 1],
)
def test_a_pixel_at_known_metres_comes_out_at_these_metres(file_format, units_per_m, invalid, kind, has_confidence):
    dtype, encode = FORMATS[file_format]
    is_float = np.dtype(dtype).kind == "f"
    distances = METRES * ray_lengths() if kind == "ray" else METRES
    values = (distances * units_per_m if is_float else np.rint(distances * units_per_m)).astype(dtype)
    values[NOT_FINITE] = np.nan if is_float else 0
    expected = np.ones(SIZE, bool)
    expected[NOT_FINITE] = False
    if invalid:
        values[UNKNOWN], expected[UNKNOWN] = invalid[-1], False
    members = {"depth": encode(values)}
    if has_confidence:
        grades = np.full(SIZE, 2, np.uint8)
        grades[LOW], expected[LOW] = 1, False
        members["confidence"] = encoded(".png")(grades)
    encoding = DepthEncoding(units_per_m=units_per_m, invalid=invalid, kind=kind, min_confidence=2)
    sample = sample_of(encoding, **members)
    np.testing.assert_array_equal(sample.planes.valid_mask, expected)
    rounding = {"rtol": 1e-3 if "f2" in np.dtype(dtype).str else 1e-6, "atol": 0 if is_float else 0.5 / units_per_m}
    np.testing.assert_allclose(np.exp(sample.planes.log_depth)[expected], METRES[expected], **rounding)


@pytest.mark.parametrize("file_format", INTEGERS)
def test_integers_without_a_unit_are_rejected(file_format):
    dtype, encode = FORMATS[file_format]
    with pytest.raises(RejectError, match=r"millimetres.*units_per_m") as caught:
        sample_of(DepthEncoding(), depth=encode((METRES * 1000).astype(dtype)))
    assert caught.value.reason == "wrong_dtype"


@pytest.mark.parametrize(("stated", "unit"), [(1.0001, "millimetres"), (1e6, "kilometres"), (1000, "")])
@pytest.mark.parametrize("file_format", ["png", "npy-u2", "tiff-u2", "hdf5-u2"])
def test_a_wrong_unit_of_integers_is_warned_about(file_format, stated, unit):
    """Millimetres that are taken for metres, for micrometres and for what they are."""
    encode = FORMATS[file_format][1]
    sample = sample_of(DepthEncoding(units_per_m=stated), depth=encode((METRES * 1000).astype(np.uint16)))
    warning = implausible_depths([sample.row])
    assert (f"looks like {unit}" in warning) if unit else warning == ""


@pytest.mark.parametrize("encode", [encoded(".png"), encoded(".tif"), encoded(".pgm")])
def test_eight_bits_are_a_picture_of_depth(encode):
    with pytest.raises(RejectError, match="8 bits per pixel") as caught:
        decode_depth(encode(np.full(SIZE, 90, np.uint8)))
    assert caught.value.reason == "wrong_dtype"


def test_a_pgm_of_twelve_bits_keeps_its_values():
    content = pgm((METRES * 100).astype(np.uint16)).replace(b"65535", b"4095")
    np.testing.assert_array_equal(decode_depth(content), METRES * 100)


@pytest.mark.parametrize("encode", [encoded(".png"), encoded(".tif"), encoded(".pgm"), npy])
def test_a_mask_of_eight_bits(encode):
    mask = np.where(METRES > 3, 255, 0).astype(np.uint8)
    decoded = decode_frame({"rgb": encoded(".png")(RGB), "depth": npy(METRES.astype(np.float32)), "mask": encode(mask)})
    np.testing.assert_array_equal(decoded.valid_mask, METRES > 3)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_file_is_a_reject(file_format):
    dtype, encode = FORMATS[file_format]
    whole = encode((METRES * 1000).astype(dtype))
    for length in (len(whole) // 3, len(whole) // 2):
        with pytest.raises(RejectError) as caught:
            decode_depth(whole[:length])
        assert caught.value.reason == "unreadable_array"


def test_what_is_no_depth_file():
    with pytest.raises(RejectError, match=r"no \.npy, \.npz, PNG, PGM, PFM, TIFF, OpenEXR or HDF5 file"):
        decode_depth(b"GIF89a" + bytes(50))


# --- images ---

LOSSLESS = {
    "png": encoded(".png"),
    "tiff": encoded(".tiff"),
    "webp": lambda array: cv2.imencode(".webp", array, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes(),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_an_image_of_each_lossless_format(name):
    np.testing.assert_array_equal(decode_rgb(LOSSLESS[name](RGB[..., ::-1])), RGB)


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_an_image_of_each_lossy_format(ending):
    ramp = np.broadcast_to(np.linspace(20, 200, 32)[:, None, None] * [1, 0.5, 0.2], (32, 48, 3)).astype(np.uint8)
    found = decode_rgb(cv2.imencode(ending, ramp[..., ::-1])[1].tobytes())
    assert np.abs(found.astype(int) - ramp).mean() < 4


def test_an_image_of_sixteen_bits_keeps_its_brightness():
    for ending in (".png", ".tif"):
        content = encoded(ending)(RGB[..., ::-1].astype(np.uint16) * 257)
        np.testing.assert_allclose(decode_rgb(content), RGB, atol=1)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_of_an_image(order):
    rgb = RGB.copy()
    rgb[0, 0] = np.frombuffer(b"II*", np.uint8)  # As a TIFF file and EXIF data begin.
    rgb[0, 1] = 0
    content = npy(np.asarray(rgb, order=order))
    np.testing.assert_array_equal(decode_rgb(content), rgb)
    frame = decode_frame({"rgb": content, "depth": npy(METRES.astype(np.float32))})
    np.testing.assert_array_equal(frame.rgb, rgb)


@pytest.mark.parametrize(
    "array", [RGB.astype(np.uint16), RGB[..., 0], RGB[..., :2], RGB[None], RGB[:0], RGB.astype(np.float32)]
)
def test_another_npy_is_no_image(array):
    with pytest.raises(RejectError, match=r"must be \(H, W, 3\) uint8, received") as caught:
        decode_rgb(npy(array))
    assert caught.value.reason == "unreadable_image"


def test_a_pfm_of_the_header_alone():
    for content in (b"Pf", b"Pf\n6 4\n", b"Pf\n6 4\nx\n" + bytes(96), struct.pack("<2sI", b"Pf", 7)):
        with pytest.raises(RejectError, match="unreadable_array"):
            decode_depth(content)
