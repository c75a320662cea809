"""The geometry of benchmarks/lens.py, on images of planes whose depth under any lens is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from depthflow.datasets.camera import Camera
from tests.benchmark_scripts import loaded

HEIGHT, WIDTH = 480, 640
CAMERA = Camera(width=WIDTH, height=HEIGHT, fx_px=400.0, fy_px=410.0, cx_px=320.0, cy_px=240.0)
FACTORS = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def lens():
    with loaded("lens") as module:
        yield module


def square(depth_m, *, side_m=0.4):
    """A white square of this side, facing the camera; the rest is black and as far."""
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    half_height, half_width = (round(f * side_m / depth_m / 2) for f in (CAMERA.fy_px, CAMERA.fx_px))
    rgb[240 - half_height : 240 + half_height, 320 - half_width : 320 + half_width] = 255
    return rgb


def batch(rgb, depth_m, valid_mask=None):
    """What SplitReader reads, of one sample."""
    log_depth = np.log(np.broadcast_to(depth_m, (HEIGHT, WIDTH)).astype(np.float32))
    mask = np.ones((HEIGHT, WIDTH), bool) if valid_mask is None else valid_mask
    return SimpleNamespace(
        rgb=rgb[None],
        log_depth=log_depth[None],
        valid_mask=mask[None],
        focal=np.array([CAMERA.relative_focal]),
        sample_ids=("a",),
    )


class SizeOfSquare:
    """Knows the white square's side, 0.4 m: its apparent size and the lens, or a guess of it, give its distance."""

    output = "metres"

    def __init__(self, *, own_focal=None):
        self._own_focal = own_focal

    def __call__(self, rgb, focal=None):
        seen = np.sqrt(rgb[..., 0].mean(axis=(1, 2)) / 255)
        depth_m = 0.4 * (self._own_focal if focal is None else focal) / seen
        return np.broadcast_to(depth_m[:, None, None], rgb.shape[:3]).astype(np.float32)


def test_a_predictor_that_knows_the_lens_has_the_same_error_with_each(lens):
    found = lens.lens_figures(SizeOfSquare(), [batch(square(2.0), 2.0), batch(square(3.0), 3.0)], FACTORS)
    for row in found["factors"].values():
        assert row["scale"] == pytest.approx(1.0, abs=0.02)  # A square of whole pixels.
        assert row["abs_rel"] == row["centre/abs_rel"] == pytest.approx(0.0, abs=0.02)


def test_one_that_does_not_is_wrong_by_the_factor(lens):
    own = 0.9 * CAMERA.relative_focal / 0.5  # The reference is half of the image, and takes everything for 10% nearer.
    squares = [batch(square(2.0), 2.0)]
    found = lens.lens_figures(SizeOfSquare(own_focal=own), squares, FACTORS, lens_is_known=False)
    rows = found["factors"].values()
    assert [row["scale"] for row in rows] == pytest.approx([1.8, 0.9, 0.45], rel=0.02)
    assert [row["abs_rel"] for row in rows] == pytest.approx([0.8, 0.1, 0.55], abs=0.02)
    assert [row["change"] for row in rows] == pytest.approx([7.0, 0.0, 4.5], abs=0.2)
    assert found["largest_change"] == max(row["change"] for row in rows)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_slanted_plane_has_the_depth_that_the_other_lens_sees(lens, factor):
    """A floor 1.5 m below the camera that rises to the right: depth is 1.5 / (y + 0.3 x + 1) along each ray."""

    def plane(camera):
        x = (np.arange(camera.width) + 0.5 - camera.cx_px) / camera.fx_px
        y = (np.arange(camera.height) + 0.5 - camera.cy_px) / camera.fy_px
        return 1.5 / (y[:, None] + 0.3 * x + 1)

    view = lens.seen_with(batch(square(2.0), plane(CAMERA)), factor, FACTORS)
    longer = Camera(
        width=320,
        height=240,
        fx_px=CAMERA.fx_px * factor,
        fy_px=CAMERA.fy_px * factor,
        cx_px=160.0,
        cy_px=120.0,
    )
    assert view.depth_m.shape == view.rgb.shape[:3] == (1, 240, 320)
    assert view.focal == pytest.approx(longer.relative_focal)
    np.testing.assert_allclose(view.depth_m[0], plane(longer), rtol=0.01)  # Less than a pixel of the source off.


def test_the_centre_is_what_every_lens_shows(lens):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[180:300, 240:400] = True  # A quarter of both sides: the cut of factor 2.
    views = [lens.seen_with(batch(square(2.0), 2.0, mask), factor, FACTORS) for factor in FACTORS]
    for view in views:
        np.testing.assert_array_equal(view.in_centre, view.valid_mask[0])
    assert [view.in_centre.mean() for view in views] == [1 / 16, 1 / 4, 1.0]


def test_only_the_reference_keeps_its_pixels(lens):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    view = lens.seen_with(batch(noise, 2.0), 1.0, FACTORS)
    np.testing.assert_array_equal(view.rgb[0], noise[120:360, 160:480])


def test_an_unknown_camera_is_refused(lens):
    unknown = batch(square(2.0), 2.0)
    unknown.focal[:] = np.nan
    with pytest.raises(SystemExit, match="camera of some images is unknown"):
        lens.lens_figures(SizeOfSquare(), [unknown], FACTORS)
