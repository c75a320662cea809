"""Depth files: what is written is what is read."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from depthflow.inference.lens import centred
from depthflow.inference.writers import PNG_MAX, SCALE_KEY, read_png16, write_npy, write_ply, write_png16


def test_png_keeps_near_and_far(tmp_path):
    """350 m and 1 cm in one image: half a step is 2.7 mm."""
    depth_m = np.array([[350.0, 0.01, 1.0], [10.0, 349.999, 0.0]], np.float32)
    path = tmp_path / "room.depth.png"
    write_png16(path, depth_m)
    read = read_png16(path)
    scale_m = 350.0 / 65535
    assert read.dtype == np.float32
    assert read.shape == depth_m.shape
    np.testing.assert_allclose(read, depth_m, rtol=1e-7, atol=scale_m / 2)
    assert read[0, 0] == 350.0 and read[1, 2] == 0.0


def test_png_carries_its_scale(tmp_path):
    path = tmp_path / "room.depth.png"
    scale_m = write_png16(path, np.array([[131.07, 1.0]], np.float32))
    assert scale_m == pytest.approx(0.002, rel=1e-6)
    with Image.open(path) as image:
        assert float(image.info[SCALE_KEY]) == scale_m


@pytest.mark.parametrize(
    ("key", "depth_m", "values"),
    [
        (SCALE_KEY, [2.0, 1.0006], [2000, 1001]),
        (SCALE_KEY, [65.535, 0.0004], [PNG_MAX, 0]),
        (SCALE_KEY, [65.536, 32.768], [PNG_MAX, 32768]),  # 32767.5 rounds to even.
        ("relative_scale", [2.0, 1.0], [PNG_MAX, 32768]),
    ],
    ids=["millimetres", "the farthest", "too far", "no metres"],
)
def test_png_is_millimetres_for_other_readers_where_they_fit(tmp_path, key, depth_m, values):
    path = tmp_path / "room.depth.png"
    scale = write_png16(path, np.array([depth_m], np.float32), scale_key=key)
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, [values])
    assert (scale == 0.001) is (key == SCALE_KEY and depth_m[0] <= 65.535)
    with Image.open(path) as image:
        assert float(image.info[key]) == scale


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 2**10, width=32)))
@settings(max_examples=40)
def test_png_is_right_to_half_a_step(tmp_path_factory, depth_m):
    depth_m[0, 0] = max(depth_m[0, 0], np.float32(0.001))
    path = tmp_path_factory.getbasetemp() / "any.depth.png"
    half_step_m = write_png16(path, depth_m) / 2
    assert half_step_m <= max(0.0005, float(depth_m.max()) / PNG_MAX / 2)
    np.testing.assert_allclose(read_png16(path), depth_m, rtol=2e-7, atol=half_step_m)


@pytest.mark.parametrize("value", [0.0, 0.5, 300.0])
def test_flat_maps(tmp_path, value):
    path = tmp_path / "flat.depth.png"
    write_png16(path, np.full((2, 3), value, np.float32))
    np.testing.assert_array_equal(read_png16(path), np.full((2, 3), value, np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_npy_is_float32_metres(tmp_path, dtype):
    depth_m = np.array([[0.1, 350.0], [1.5, np.pi]], dtype)
    path = tmp_path / "room.depth.npy"
    write_npy(path, depth_m)
    read = np.load(path, allow_pickle=False)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, depth_m.astype(np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["room.depth.npy"]


# --- point clouds ---


def read_ply(path) -> np.ndarray:
    """The vertices of a binary PLY, by its own header."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(name, kinds[kind]) for word, kind, name in (line.split() for line in lines[3:]) if word == "property"]
    vertices = np.frombuffer(body, np.dtype(fields))
    assert lines[2] == f"element vertex {len(vertices)}"
    return vertices


def test_points_lie_where_the_lens_saw_them(tmp_path):
    """Projected again, each point falls on the middle of its pixel, and keeps its colour and depth."""
    draws = np.random.default_rng(0)
    depth_m = draws.uniform(0.5, 300, (6, 8)).astype(np.float32)
    rgb = draws.integers(0, 256, (6, 8, 3), np.uint8)
    write_ply(tmp_path / "cloud.ply", depth_m, rgb, centred(7.0, 9.0, height=6, width=8))
    points = read_ply(tmp_path / "cloud.ply").reshape(6, 8)
    rows, columns = np.mgrid[:6, :8]
    np.testing.assert_allclose(7.0 * points["x"] / points["z"] + 4, columns + 0.5, rtol=1e-5)
    np.testing.assert_allclose(9.0 * points["y"] / points["z"] + 3, rows + 0.5, rtol=1e-5)
    np.testing.assert_array_equal(points["z"], depth_m)
    np.testing.assert_array_equal(np.stack([points[c] for c in ("red", "green", "blue")], axis=-1), rgb)


def test_points_of_relative_depth_say_so(tmp_path):
    """Their shape is that of the scene; nobody can take their lengths for metres."""
    depth = np.ones((2, 2), np.float32)
    for output in ("metres", "relative depth"):
        write_ply(
            tmp_path / output, depth, np.zeros((2, 2, 3), np.uint8), centred(2, 2, height=2, width=2), output=output
        )
    metres, relative = ((tmp_path / output).read_bytes() for output in ("metres", "relative depth"))
    said = b"comment relative depth: metres up to an unknown factor\n"
    assert relative.replace(said, b"") == metres != relative


def test_what_is_not_believed_is_marked(tmp_path):
    """NaN stays NaN in npy, is 0 in png, and has no point."""
    depth_m = np.array([[1.0, np.nan], [np.nan, 2.0]], np.float32)
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    write_npy(tmp_path / "a.npy", depth_m)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), depth_m)
    write_png16(tmp_path / "a.png", depth_m)
    np.testing.assert_allclose(read_png16(tmp_path / "a.png"), [[1.0, 0.0], [0.0, 2.0]])
    write_ply(tmp_path / "a.ply", depth_m, rgb, centred(2.0, 2.0, height=2, width=2))
    points = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(points["z"], [1.0, 2.0])
    assert points["red"].tolist() == [0, 9]
