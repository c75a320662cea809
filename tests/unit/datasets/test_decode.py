"""Real bytes to a frame, or to the reason why not."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.frames import DepthEncoding
from depthflow.datasets.image_file import decode_rgb, is_turned
from depthflow.datasets.npy_file import decode_npy
from depthflow.datasets.reject import RejectError

HEIGHT, WIDTH = 4, 6
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DEPTH = np.linspace(1, 24, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
MASK = np.ones((HEIGHT, WIDTH), np.float32)


def png(image: np.ndarray) -> bytes:
    """A PNG of RGB, RGBA or grey values."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", image)[1].tobytes()


def npy(array: np.ndarray, **kwargs) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **kwargs)
    return stream.getvalue()


def npy_of_header(header: str) -> bytes:
    """An .npy, format 1.0, with any text for its header and a few bytes of data."""
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def members(*, rgb=RGB, depth=DEPTH, mask=MASK) -> dict[str, bytes]:
    return {"rgb": png(rgb), "depth": npy(depth), "mask": npy(mask)}


def reason(content: dict[str, bytes]) -> str:
    with pytest.raises(RejectError) as info:
        decode_frame(content)
    assert info.value.message
    return info.value.reason


def changed(array: np.ndarray, value: float, at=(1, 2)) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


# --- whole triplets ---


@pytest.mark.parametrize("channel", [False, True])
def test_a_complete_triplet(channel):
    depth, mask = (DEPTH[..., None], MASK[..., None]) if channel else (DEPTH, MASK)
    frame = decode_frame(members(depth=depth, mask=mask))
    np.testing.assert_array_equal(frame.rgb, RGB)
    np.testing.assert_array_equal(frame.depth_m, DEPTH)
    assert (frame.rgb.dtype, frame.depth_m.dtype, frame.valid_mask.dtype) == (np.uint8, np.float32, np.bool_)
    assert frame.depth_m.shape == frame.valid_mask.shape == (HEIGHT, WIDTH)
    assert frame.valid_mask.all()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_depth_of_any_float_type_becomes_float32(dtype):
    frame = decode_frame(members(depth=DEPTH.astype(dtype)))
    assert frame.depth_m.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(frame.depth_m, DEPTH, rtol=1e-3 if dtype == "<f2" else 1e-7)


def test_fortran_order_is_not_transposed():
    frame = decode_frame(members(depth=np.asfortranarray(DEPTH)))
    np.testing.assert_array_equal(frame.depth_m, DEPTH)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float32, np.float64, np.int64])
def test_masks_of_every_dtype(dtype):
    wanted = np.random.default_rng(1).random((HEIGHT, WIDTH)) > 0.5
    np.testing.assert_array_equal(decode_frame(members(mask=wanted.astype(dtype))).valid_mask, wanted)


@pytest.mark.parametrize(
    ("dtype", "value", "valid"),
    [
        (np.uint8, 255, True),
        (np.uint8, 2, True),
        (np.float64, 0.25, True),
        (np.float32, 1e-6, True),
        (np.int64, 7, True),
        (np.int64, -1, False),
        (np.float64, -0.5, False),
        (np.float32, np.nan, False),
        (np.float32, np.inf, True),
    ],
)
def test_valid_is_any_mask_value_above_zero(dtype, value, valid):
    mask = changed(np.ones((HEIGHT, WIDTH), dtype), value)
    got = decode_frame(members(mask=mask)).valid_mask
    assert got[1, 2] == valid
    assert got.sum() == HEIGHT * WIDTH - (not valid)


@pytest.mark.parametrize("value", [0.0, -0.0, -3.0])
def test_non_positive_depth_is_invalid_but_not_rejected(value):
    got = decode_frame(members(depth=changed(DEPTH, value))).valid_mask
    assert not got[1, 2]
    assert got.sum() == HEIGHT * WIDTH - 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_depth_outside_the_mask_may_be_anything(value):
    got = decode_frame(members(depth=changed(DEPTH, value), mask=changed(MASK, 0))).valid_mask
    assert not got[1, 2]
    assert got.sum() == HEIGHT * WIDTH - 1


def test_a_grey_image_and_one_with_alpha_become_rgb():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode_rgb(png(grey)), np.repeat(grey[..., None], 3, axis=2))
    opaque = np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    np.testing.assert_array_equal(decode_rgb(png(opaque)), RGB)


def test_red_is_the_first_channel():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_array_equal(decode_rgb(png(red)), red)


# --- rejects ---


@pytest.mark.parametrize("member", ["rgb", "depth", "mask"])
def test_empty_file(member):
    with pytest.raises(RejectError, match=f"empty_file: the {member} "):
        decode_frame({**members(), member: b""})


@pytest.mark.parametrize("content", [b"x", b"GIF89a", b"\x89PNG\r\n\x1a\n", bytes(500), npy(DEPTH)])
def test_bytes_that_are_not_an_image(content):
    assert reason({**members(), "rgb": content}) == "unreadable_image"


def test_a_truncated_png():
    whole = png(np.random.default_rng(2).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    for length in {*range(1, len(whole), 37), *range(len(whole) - 20, len(whole))}:
        with pytest.raises(RejectError, match="unreadable_image"):
            decode_rgb(whole[:length])


def test_a_png_with_a_flipped_byte_in_its_data():
    whole = bytearray(png(np.random.default_rng(2).integers(0, 256, (24, 32, 3), dtype=np.uint8)))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(RejectError, match="unreadable_image"):
        decode_rgb(bytes(whole))


@pytest.mark.parametrize("member", ["depth", "mask"])
@pytest.mark.parametrize("content", [b"x", b"\x93NUMPY", bytes(500), b"\x93NUMPY\x09\x00" + bytes(200)])
def test_bytes_that_are_not_an_npy(member, content):
    assert reason({**members(), member: content}) == "unreadable_array"


@pytest.mark.parametrize("member", ["depth", "mask"])
def test_a_truncated_npy(member):
    whole = npy(DEPTH)
    for length in range(1, len(whole)):
        with pytest.raises(RejectError, match="unreadable_array"):
            decode_npy(whole[:length], member)


def test_a_picture_is_neither_depth_nor_mask():
    assert reason({**members(), "depth": png(RGB)}) == "wrong_dtype"
    assert reason({**members(), "mask": png(RGB)}) == "wrong_shape"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("member", ["depth", "mask"])
@pytest.mark.parametrize("as_npy", [True, False])
def test_nothing_is_unpickled(tmp_path, member, as_npy):
    array = np.empty((HEIGHT, WIDTH), object)
    array[0, 0] = Bomb(str(tmp_path / "went off"))
    content = npy(array, allow_pickle=True) if as_npy else pickle.dumps(array)
    assert reason({**members(), member: content}) == "unreadable_array"
    assert list(tmp_path.iterdir()) == []
    pickle.loads(pickle.dumps(array))  # The bomb is a real one.
    assert [path.name for path in tmp_path.iterdir()] == ["went off"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.bool_])
def test_integer_depth_is_rejected(dtype):
    assert reason(members(depth=DEPTH.astype(dtype))) == "wrong_dtype"


@pytest.mark.parametrize("dtype", ["U8", "S8", "c8", "M8[s]", "V4"])
@pytest.mark.parametrize("member", ["depth", "mask"])
def test_non_numeric_arrays_are_rejected(member, dtype):
    assert reason(members(**{member: np.zeros((HEIGHT, WIDTH), dtype)})) == "wrong_dtype"


@pytest.mark.parametrize("shape", [(), (24,), (4, 6, 2), (1, 4, 6), (4, 6, 1, 1), (0, 6), (4, 6, 0)])
@pytest.mark.parametrize("member", ["depth", "mask"])
def test_wrong_shape(member, shape):
    assert reason(members(**{member: np.ones(shape, np.float32)})) == "wrong_shape"


@pytest.mark.parametrize(
    "wrong",
    [
        {"rgb": np.zeros((WIDTH, HEIGHT, 3), np.uint8)},
        {"depth": DEPTH.T.copy()},
        {"mask": MASK[:-1]},
        {"depth": DEPTH[:, :-1], "mask": MASK[:, :-1]},
    ],
)
def test_shape_mismatch(wrong):
    assert reason(members(**wrong)) == "shape_mismatch"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_depth_within_the_mask(value):
    assert reason(members(depth=changed(DEPTH, value))) == "non_finite_depth"


@pytest.mark.filterwarnings("ignore:overflow")
def test_depth_too_large_for_float32():
    assert reason(members(depth=changed(DEPTH.astype(np.float64), 1e300))) == "non_finite_depth"


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask": np.zeros((HEIGHT, WIDTH), np.float32)},
        {"mask": np.zeros((HEIGHT, WIDTH), np.bool_)},
        {"depth": np.zeros((HEIGHT, WIDTH), np.float32)},
        {"depth": -DEPTH},
        {"depth": np.full((HEIGHT, WIDTH), np.nan, np.float32), "mask": np.zeros((HEIGHT, WIDTH), np.float32)},
        {"depth": changed(np.zeros_like(DEPTH), 5.0), "mask": changed(MASK, 0)},
    ],
)
def test_no_valid_pixel(wrong):
    assert reason(members(**wrong)) == "no_valid_pixel"


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_valid_is_mask_and_positive_pixel_by_pixel(seed, share):
    generator = np.random.default_rng(seed)
    depth = generator.choice(np.array([-1.0, 0.0, 0.5, 7.0], np.float32), (HEIGHT, WIDTH))
    mask = (generator.random((HEIGHT, WIDTH)) < share).astype(np.float32)
    wanted = [[bool(m > 0 and d > 0) for d, m in zip(*rows, strict=True)] for rows in zip(depth, mask, strict=True)]
    if np.any(wanted):
        np.testing.assert_array_equal(decode_frame(members(depth=depth, mask=mask)).valid_mask, wanted)
    else:
        assert reason(members(depth=depth, mask=mask)) == "no_valid_pixel"


# --- without depth ---


def test_depth_may_be_missing():
    decoded = decode_frame({"rgb": png(RGB)}, depth_needed=False)
    np.testing.assert_array_equal(decoded.rgb, RGB)
    assert decoded.depth_m.dtype == np.float32
    assert decoded.valid_mask.shape == decoded.depth_m.shape == (HEIGHT, WIDTH)
    assert not decoded.valid_mask.any()


def test_a_depth_that_is_not_needed_may_be_invalid_but_not_broken():
    nothing = members(depth=np.zeros_like(DEPTH))
    assert not decode_frame(nothing, depth_needed=False).valid_mask.any()
    for wrong, wanted in (({"depth": DEPTH * np.nan}, "non_finite_depth"), ({"depth": DEPTH[:2]}, "shape_mismatch")):
        with pytest.raises(RejectError, match=wanted):
            decode_frame(members(**wrong), depth_needed=False)
    np.testing.assert_array_equal(decode_frame(members(), depth_needed=False).depth_m, DEPTH)


def test_an_image_without_depth_must_fit_its_camera():
    upright = Camera(width=4, height=6, fx_px=5, fy_px=5, cx_px=2, cy_px=3)
    with pytest.raises(RejectError, match="shape_mismatch"):
        decode_frame({"rgb": png(RGB)}, camera=upright, depth_needed=False)


def test_a_turned_image_without_depth_needs_a_camera_that_says_which_way():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(stream, "PNG", exif=exif)
    turned = {"rgb": stream.getvalue()}
    upright = Camera(width=4, height=6, fx_px=5, fy_px=5, cx_px=2, cy_px=3)
    assert decode_frame(turned, camera=upright, depth_needed=False).rgb.shape == (WIDTH, HEIGHT, 3)
    assert decode_frame(turned, depth_needed=False).rgb.shape == (WIDTH, HEIGHT, 3)
    with pytest.raises(RejectError, match=r"turned_image: .*its camera belongs"):
        decode_frame(turned, camera=Intrinsics(fx_px=5, fy_px=5, cx_px=2, cy_px=3), depth_needed=False)


# --- a Kinect's raw disparity ---

DISPARITY = np.tile(np.array([[400, 700, 1090, 2047]], np.uint16), (4, 6))


def disparity_reason(depth: bytes, encoding: DepthEncoding | None = None, rgb: bytes = b"") -> str:
    rgb = rgb or png(np.zeros((*DISPARITY.shape, 3), np.uint8))
    with pytest.raises(RejectError) as info:
        decode_frame({"rgb": rgb, "depth": depth}, encoding)
    assert info.value.reason == "raw_disparity"
    return info.value.message


ENCODINGS = (
    DepthEncoding(),
    DepthEncoding(units_per_m=1000),
    DepthEncoding(units_per_m=5000, invalid=(0, 2047)),
    DepthEncoding(units_per_m=1000, packing="sun_rgbd"),
)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("swapped", [False, True])
def test_raw_disparity_is_refused_in_any_type_and_unit(encoding, dtype, swapped):
    values = (DISPARITY.byteswap() if swapped else DISPARITY).astype(dtype)
    message = disparity_reason(npy(values), encoding)
    assert "raw 11-bit disparities" in message
    assert ("bytes swapped" in message) == swapped


@pytest.mark.parametrize("ending", [".pgm", ".png", ".tiff"])
def test_raw_disparity_is_refused_in_any_file(ending):
    assert "bytes swapped" in disparity_reason(cv2.imencode(ending, DISPARITY.byteswap())[1].tobytes())


@pytest.mark.parametrize("wrong", [(2047, 2046), (2047, 2048), (400, 400.5)])
def test_depth_that_is_no_disparity_is_taken(wrong):
    values = DISPARITY.astype(np.float32)
    values[values == wrong[0]] = wrong[1]
    rgb = png(np.zeros((*DISPARITY.shape, 3), np.uint8))
    frame = decode_frame({"rgb": rgb, "depth": npy(values)}, DepthEncoding(units_per_m=1000))
    np.testing.assert_allclose(frame.depth_m, values / 1000)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("as_file", ["pgm", "png", "npy", "swapped back", "int32"])
def test_the_real_kinect_frame_is_refused(shared, encoding, as_file):
    color, depth = (shared / f"frames/single/NYU_{name}" for name in ("color.ppm", "depth.pgm"))
    if not depth.is_file():
        pytest.skip(f"there is no {depth} (DEPTHFLOW_SHARED)")
    values = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)
    content = {
        "pgm": depth.read_bytes(),
        "png": png(values),
        "npy": npy(values),
        "swapped back": png(values.byteswap()),
        "int32": npy(values.astype(np.int32)),
    }[as_file]
    message = disparity_reason(content, encoding, color.read_bytes())
    assert "raw 11-bit disparities" in message
    assert ("bytes swapped" in message) == (as_file != "swapped back")


def test_a_reject_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(RejectError("bad_name", "what was found")))
    assert (type(error), error.reason, error.message) == (RejectError, "bad_name", "what was found")
    assert str(error) == "bad_name: what was found"


# --- what the libraries raise for damaged bytes, each in its own way: one reject, never the end of a run ---


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 6), ",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, True), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000, 6), }",
    ],
)
def test_a_damaged_npy_header(header):
    assert reason({**members(), "depth": npy_of_header(header)}) == "unreadable_array"


def test_a_png_that_claims_to_be_huge():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    assert reason({**members(), "rgb": content}) == "unreadable_image"


# --- the fast ways to decode are the libraries' own ---


@settings(max_examples=60)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999), level=st.integers(0, 9))
def test_a_png_decodes_as_with_opencv(height, width, seed, level):
    generator = np.random.default_rng(seed)
    rgb = generator.integers(0, generator.integers(2, 257), (height, width, 3), dtype=np.uint8)
    content = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
    np.testing.assert_array_equal(decode_rgb(content), rgb)
    np.testing.assert_array_equal(decode_rgb(content + b"behind its end"), rgb)


def test_a_png_with_a_flipped_bit_is_rejected_or_unchanged():
    whole = png(np.random.default_rng(2).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    image, refused = decode_rgb(whole), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        try:
            np.testing.assert_array_equal(decode_rgb(bytes(damaged)), image)
        except RejectError:
            refused += 1
    assert refused > len(whole) - 20  # What follows the pixels may be anything.


@settings(max_examples=60)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999), level=st.integers(0, 9))
def test_a_depth_png_decodes_as_with_opencv(height, width, seed, level):
    generator = np.random.default_rng(seed)
    depth = generator.integers(0, generator.integers(2, 65537), (height, width), dtype=np.uint16)
    content = cv2.imencode(".png", depth, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
    for one in (content, with_orientation(content, 6), content + b"behind its end"):
        np.testing.assert_array_equal(decode_depth(one), depth)


def test_a_depth_png_with_a_flipped_bit_is_rejected_or_unchanged():
    depth = np.random.default_rng(3).integers(0, 65536, (9, 7), dtype=np.uint16)
    whole, refused = png(depth), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        try:
            np.testing.assert_array_equal(decode_depth(bytes(damaged)), depth)
        except RejectError:
            refused += 1
    assert refused > len(whole) - 20


def with_orientation(whole: bytes, orientation: int) -> bytes:
    """The PNG with EXIF data that ask for one of eight rotations and reflections; 1 is for none."""
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0, 0, 0, 0, 0])
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    return whole[:33] + chunk + whole[33:]


def test_exif_rotation_is_applied():
    turned = with_orientation(png(RGB), 6)
    np.testing.assert_array_equal(decode_rgb(turned), np.rot90(RGB, -1))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("side", [HEIGHT, WIDTH])
def test_a_frame_whose_image_is_to_be_turned_is_rejected(orientation, side):
    """A square one or half a turn would fit its depth either way, so the shapes do not tell."""
    frame = members(rgb=RGB[:, :side], depth=DEPTH[:, :side], mask=MASK[:, :side])
    with pytest.raises(RejectError, match="EXIF") as caught:
        decode_frame({**frame, "rgb": with_orientation(frame["rgb"], orientation)})
    assert caught.value.reason == "turned_image"


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_an_image_of_another_format_is_turned_where_opencv_turns_it(kind, endian, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif.endian = endian
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(file, kind, exif=exif)
    content = np.frombuffer(file.getvalue(), np.uint8)
    stored = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    shown = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert is_turned(file.getvalue(), decode_rgb(file.getvalue())) == (not np.array_equal(stored, shown))
    assert is_turned(file.getvalue(), decode_rgb(file.getvalue())) == (2 <= orientation <= 8)


@pytest.mark.parametrize("kept", range(0, 30, 3))
def test_a_jpeg_with_damaged_exif_data_is_turned_where_opencv_turns_it(kept):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 3
    Image.fromarray(RGB).save(file, "jpeg", exif=exif.tobytes()[:kept])
    content = np.frombuffer(file.getvalue(), np.uint8)
    stored = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    rgb = decode_rgb(file.getvalue())
    assert is_turned(file.getvalue(), rgb) == (not np.array_equal(stored, rgb[..., ::-1]))


def test_a_jpeg_whose_comment_speaks_of_exif_is_not_turned():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "jpeg", comment=b"Exif\0\0II*\0")
    assert not is_turned(file.getvalue(), decode_rgb(file.getvalue()))


def test_a_frame_with_exif_data_for_an_upright_image_is_taken():
    np.testing.assert_array_equal(decode_frame({**members(), "rgb": with_orientation(png(RGB), 1)}).rgb, RGB)


npy_arrays = st.builds(
    lambda shape, dtype, order, seed: np.asarray(
        np.random.default_rng(seed).integers(0, 99, shape).astype(dtype), order=order
    ),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from(["<f4", ">f4", "<f8", "<f2", "|u1", "<i8", "|b1", "<c8"]),
    st.sampled_from("CF"),
    st.integers(0, 99),
)


@given(array=npy_arrays, version=st.sampled_from([(1, 0), (2, 0), (3, 0)]), behind=st.sampled_from([b"", b"xyz"]))
def test_an_npy_decodes_as_with_numpy(array, version, behind):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    got = decode_npy(stream.getvalue() + behind, "depth")
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(got, array)


@settings(max_examples=300)
@given(
    place=st.integers(0, 175), value=st.one_of(st.integers(0, 255), st.sampled_from(b"()[]{}\\',:<>fiuOS0123456789 "))
)
def test_a_damaged_npy_decodes_as_with_numpy_or_is_rejected(place, value):
    content = bytearray(npy(DEPTH[:3, :4]))
    content[place] = value
    try:
        wanted = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception:  # NumPy raises many, and no list of them is promised.
        with pytest.raises(RejectError, match="unreadable_array"):
            decode_npy(bytes(content), "depth")
        return
    got = decode_npy(bytes(content), "depth")
    assert (got.dtype, got.shape, got.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


# --- what decodes to more than memory holds ---

_SIDE = 30_000


def huge_png(*, colour: int) -> bytes:
    """A PNG of 30,000 x 30,000 pixels, as its header has it, without most of them."""
    rows = zlib.compress(bytes(10_000), 1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, colour, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def huge_jpeg() -> bytes:
    """A JPEG whose start-of-frame segment has 30,000 x 30,000 pixels."""
    content = bytearray(cv2.imencode(".jpg", RGB)[1].tobytes())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", _SIDE, _SIDE)
    return bytes(content)


def huge_bmp() -> bytes:
    """A BMP whose header has 30,000 x 30,000 pixels."""
    content = bytearray(cv2.imencode(".bmp", RGB)[1].tobytes())
    content[18:26] = struct.pack("<ii", _SIDE, _SIDE)
    return bytes(content)


def huge_tiff() -> bytes:
    """A TIFF whose directory has 30,000 x 30,000 pixels."""
    content = bytearray(cv2.imencode(".tiff", RGB)[1].tobytes())
    directory = struct.unpack("<I", content[4:8])[0]
    for entry in range(struct.unpack("<H", content[directory : directory + 2])[0]):
        place = directory + 2 + 12 * entry
        tag = struct.unpack("<H", content[place : place + 2])[0]
        if tag in (256, 257):
            content[place + 2 : place + 12] = struct.pack("<HII", 4, 1, _SIDE)
    return bytes(content)


def huge_webp() -> bytes:
    """A lossless WebP whose header has 16,384 x 16,384 pixels, the format's most."""
    content = bytearray(cv2.imencode(".webp", RGB, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    start = content.index(b"VP8L") + 9
    bits = struct.unpack("<I", content[start : start + 4])[0]
    content[start : start + 4] = struct.pack("<I", bits >> 28 << 28 | 16383 << 14 | 16383)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [huge_png(colour=2), huge_png(colour=6), huge_jpeg(), huge_bmp(), huge_tiff(), huge_webp()],
    ids=["png", "rgba-png", "jpeg", "bmp", "tiff", "webp"],
)
def test_an_image_of_too_many_pixels_is_rejected_before_it_is_decoded(content):
    """A PNG of 2.6 MB took 5.2 GB. In a process of its own, which measures its memory."""
    script = (
        "import sys, resource\n"
        "from depthflow.datasets.image_file import decode_rgb\n"
        "from depthflow.datasets.reject import RejectError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode_rgb(sys.stdin.buffer.read())\n"
        "except RejectError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, timeout=60, check=True)
    *said, grown_kib = done.stdout.decode().splitlines()
    assert said[0].startswith("unreadable_image: ") and "CV_IO_MAX_IMAGE_PIXELS" in said[0], said
    assert int(grown_kib) < 100_000


@pytest.mark.parametrize("shape", ["(4294967296, 4294967296)", "(2**60,)", "(1000000000,)", "(-1, 10)", "(10**30, 2)"])
def test_an_npy_of_an_impossible_shape_is_rejected(shape):
    content = npy_of_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n")
    with pytest.raises(RejectError, match="the depth is not a plain"):
        decode_npy(content, "depth")


@pytest.mark.parametrize("which", ["camera", "depth_camera"])
def test_a_camera_of_another_shape_is_refused(which):
    turned = Camera(width=HEIGHT * 8, height=WIDTH * 8, fx_px=50, fy_px=50, cx_px=4, cy_px=4)
    with pytest.raises(RejectError, match=f"its camera, {WIDTH * 8} x {HEIGHT * 8}, differ in aspect"):
        decode_frame(members(), **{which: turned})
    decode_frame(members(), **{which: Camera(width=WIDTH * 8, height=HEIGHT * 8, fx_px=50, fy_px=50, cx_px=4, cy_px=4)})
