"""Tiles cover everything, blend without a seam, and take their metres from the whole."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.inference.tiles import OVERLAP, TiledPredictor, tile_slices


@given(st.integers(1, 3000), st.integers(64, 700))
def test_tiles_cover_a_length_and_overlap(length, tile_px):
    slices = tile_slices(length, tile_px=tile_px)
    assert slices[0].start == 0 and slices[-1].stop == length
    assert all(each.stop - each.start == min(length, tile_px) for each in slices)
    for one, other in pairwise(slices):
        assert one.stop - other.start >= OVERLAP * tile_px - 1


class Scene:
    """Knows the depth of every pixel by its colour; each call is off by a factor of its own, as tiles' metres are."""

    output = "metres"

    def __init__(self, detail: bool) -> None:
        self.calls, self._detail = 0, detail

    def __call__(self, rgb, focal=None):
        self.calls += 1
        depth_m = 1.0 + rgb[..., 0].astype(np.float32) / 50
        if self.calls > 1:
            depth_m = (1.7 if self.calls % 2 else 0.6) * depth_m
        elif self._detail:
            depth_m = np.repeat(depth_m.mean(axis=2, keepdims=True), depth_m.shape[2], axis=2)
        return depth_m


def photograph() -> np.ndarray:
    rows, columns = np.mgrid[:150, :210]
    red = 100 + 60 * np.sin(rows / 40) + 40 * np.cos(columns / 25)
    return np.stack([red.astype(np.uint8)] * 3, axis=-1)[None]


def test_metres_are_the_wholes_whatever_the_tiles_say():
    rgb = photograph()
    tiled = TiledPredictor(Scene(detail=False), tile_px=64)(rgb)
    np.testing.assert_allclose(tiled, 1.0 + rgb[..., 0].astype(np.float32) / 50, rtol=1e-4)


def test_detail_is_the_tiles():
    """The whole is blind to columns: what varies within a row can only come from tiles."""
    rgb = photograph()
    scene = Scene(detail=True)
    tiled = TiledPredictor(scene, tile_px=64)(rgb)[0]
    truth = 1.0 + rgb[0, ..., 0].astype(np.float32) / 50
    assert scene.calls > 6
    correlation = np.corrcoef(np.diff(np.log(tiled), axis=1).ravel(), np.diff(np.log(truth), axis=1).ravel())[0, 1]
    assert correlation > 0.5


def test_no_seam_where_tiles_meet():
    tiled = TiledPredictor(Scene(detail=True), tile_px=64)(photograph())[0]
    assert np.abs(np.diff(np.log(tiled), axis=0)).max() < 0.1
    assert np.abs(np.diff(np.log(tiled), axis=1)).max() < 0.1


def test_small_photographs_are_predicted_once():
    scene = Scene(detail=False)
    TiledPredictor(scene, tile_px=256)(photograph())
    assert scene.calls == 1


def test_flat_tiles_take_the_wholes_mean():
    class Flat:
        output = "metres"

        def __call__(self, rgb, focal=None):
            return np.full(rgb.shape[:3], 3.0, np.float32)

    np.testing.assert_allclose(TiledPredictor(Flat(), tile_px=64)(photograph()), 3.0, rtol=1e-5)


def test_tiles_of_relative_depth_are_as_those_of_metres():
    relative = Scene(detail=True)
    relative.output = "relative depth"
    tiled = TiledPredictor(relative, tile_px=64)
    assert tiled.output == "relative depth"
    np.testing.assert_array_equal(tiled(photograph()), TiledPredictor(Scene(detail=True), tile_px=64)(photograph()))


def test_inverse_depth_has_no_logarithm_to_fit():
    class Relative:
        output = "relative inverse depth"

    with pytest.raises(ValueError, match="relative inverse depth"):
        TiledPredictor(Relative(), tile_px=64)
