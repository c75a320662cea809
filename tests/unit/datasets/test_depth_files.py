"""Depth files of every format: a pixel at known metres comes out at these metres, and damage is a reject."""

import io
import struct

import cv2
import h5py
import numpy as np
import OpenEXR
import pytest
from PIL import Image

from depthflow.datasets.camera import Camera, Intrinsics
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


# --- disparities of a rectified pair ---

DISPARITIES = np.linspace(0.5, 10, METRES.size).reshape(SIZE)


def triangulated(values, *, camera=CAMERA, baseline_m=0.2, right_cx_px=None, rgb=RGB, **encoding):
    members = {"rgb": encoded(".png")(rgb), "depth": values if isinstance(values, bytes) else npy(values)}
    encoding = DepthEncoding(kind="disparity", **encoding)
    return decode_frame(members, encoding, camera=camera, baseline_m=baseline_m, right_cx_px=right_cx_px)


def without(reason, *args, **changes):
    with pytest.raises(RejectError) as info:
        triangulated(*args, **changes)
    assert info.value.reason == reason


@pytest.mark.parametrize("right_cx_px", [None, 2.5, 3.75, 1.75])
@pytest.mark.parametrize("units_per_m", [1, 16])
def test_depth_is_focal_length_times_baseline_by_disparity(units_per_m, right_cx_px):
    doffs_px = (right_cx_px or 2.5) - 2.5
    found = triangulated(DISPARITIES * units_per_m, units_per_m=units_per_m, right_cx_px=right_cx_px)
    in_front = DISPARITIES + doffs_px > 0
    np.testing.assert_array_equal(found.valid_mask, in_front)
    np.testing.assert_allclose(found.depth_m[in_front], 5 * 0.2 / (DISPARITIES + doffs_px)[in_front], rtol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 1), (2, 2), (1, 2)])
def test_disparities_are_pixels_of_the_image_whatever_the_size_of_map_and_camera(sizes):
    image, depth = sizes
    rgb = np.repeat(np.repeat(RGB, image, axis=0), image, axis=1)
    values = np.repeat(np.repeat(DISPARITIES, depth, axis=0), depth, axis=1)
    depth_m = triangulated(values, rgb=rgb, right_cx_px=3.0).depth_m
    np.testing.assert_allclose(depth_m, 5 * image * 0.2 / (values + 0.5 * image), rtol=1e-5)


def test_a_camera_without_a_size_is_that_of_the_image():
    rgb = np.repeat(np.repeat(RGB, 2, axis=0), 2, axis=1)
    camera = Intrinsics(fx_px=10.0, fy_px=8.0, cx_px=5.0, cy_px=4.0)
    depth_m = triangulated(DISPARITIES, rgb=rgb, camera=camera, right_cx_px=6.0).depth_m
    np.testing.assert_allclose(depth_m, 10 * 0.2 / (DISPARITIES + 1), rtol=1e-5)


def test_what_is_no_disparity_is_invalid_and_no_reject():
    values = DISPARITIES.astype(np.float32)
    values[0, :4] = np.nan, np.inf, 0, -1
    values[1, 0] = 77
    found = triangulated(values, invalid=(77,))
    np.testing.assert_array_equal(np.flatnonzero(~found.valid_mask), [0, 1, 2, 3, values.shape[1]])


@pytest.mark.parametrize("encode", [encoded(".png"), encoded(".pgm"), encoded(".tiff"), npy])
def test_disparities_of_8_bits_are_no_picture(encode):
    values = np.rint(DISPARITIES * 4).astype(np.uint8)
    found = triangulated(encode(values), units_per_m=4)
    np.testing.assert_allclose(found.depth_m, 5 * 0.2 / (values / 4), rtol=1e-6)


def test_a_disparity_like_a_kinects_is_believed():
    values = np.full(SIZE, 2047, np.uint16)
    np.testing.assert_allclose(triangulated(values, units_per_m=256).depth_m, 5 * 0.2 * 256 / 2047, rtol=1e-6)


def test_a_disparity_without_camera_or_baseline_is_rejected():
    without("no_camera", DISPARITIES, camera=None)
    without("no_baseline", DISPARITIES, baseline_m=None)
