"""Depth files: what is written is what is read."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from depthflow.inference.writers import PNG_MAX, SCALE_KEY, read_png16, write_npy, write_png16


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


def test_png_carries_its_scale_twice(tmp_path):
    path = tmp_path / "room.depth.png"
    write_png16(path, np.array([[131.07, 1.0]], np.float32))
    sidecar = json.loads((tmp_path / "room.depth.json").read_text())
    assert sidecar == {SCALE_KEY: pytest.approx(0.002, rel=1e-6)}
    with Image.open(path) as image:
        assert float(image.info[SCALE_KEY]) == sidecar[SCALE_KEY]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["room.depth.json", "room.depth.png"]


def test_png_is_16_bit_grey_for_other_readers(tmp_path):
    path = tmp_path / "room.depth.png"
    write_png16(path, np.array([[2.0, 1.0]], np.float32))
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values.dtype == np.uint16
    np.testing.assert_array_equal(values, [[PNG_MAX, 32768]])  # 32767.5 rounds to even.


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 2**10, width=32)))
@settings(max_examples=40)
def test_png_is_right_to_half_a_step(tmp_path_factory, depth_m):
    depth_m[0, 0] = max(depth_m[0, 0], np.float32(0.001))
    path = tmp_path_factory.getbasetemp() / "any.depth.png"
    write_png16(path, depth_m)
    half_step_m = float(depth_m.max()) / PNG_MAX / 2
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
