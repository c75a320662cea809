"""Views warped by a depth, by hand: a wall at two metres, whose pixels a stereo partner sees two further left."""

import numpy as np
import pytest

from depthflow.evaluation.reprojection import Reprojected, reprojected
from depthflow.store.read.geometry import Geometry

HEIGHT, WIDTH, SHIFT_PX = 12, 20, 2
DEPTH_M, FOCAL_PX = 2.0, 10.0
BASELINE_M = SHIFT_PX * DEPTH_M / FOCAL_PX
CAMERA = np.array([[FOCAL_PX, FOCAL_PX, WIDTH / 2, HEIGHT / 2]], np.float32)
WALL = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 2 * SHIFT_PX, 3), np.uint8)
"""What all cameras see, the frame from column SHIFT_PX on."""
FRAME = WALL[:, SHIFT_PX:-SHIFT_PX]
RIGHT, LEFT = WALL[:, 2 * SHIFT_PX :], WALL[:, : -2 * SHIFT_PX]


def pose(x_m: float) -> np.ndarray:
    """That of a camera x_m metres to the right."""
    found = np.eye(4, dtype=np.float32)
    found[0, 3] = -x_m
    return found


def of_views(*places: tuple[str, np.ndarray, np.ndarray], depth_m: np.ndarray | None = None) -> Reprojected | None:
    """What views, as (name, image, pose), show of the frame at a depth, by default the wall's."""
    names, images, poses = zip(*places, strict=True)
    return reprojected(
        FRAME,
        np.full((HEIGHT, WIDTH), DEPTH_M) if depth_m is None else depth_m,
        views=np.stack(images),
        geometry=Geometry(
            camera=CAMERA,
            view_cameras=np.repeat(CAMERA[None], len(names), axis=1),
            view_poses=np.stack(poses)[None],
            time_s=np.zeros(1),
        ),
        names=names,
    )


RIGHT_VIEW = ("right", RIGHT, pose(BASELINE_M))


def test_at_the_true_depth_the_partner_is_the_frame():
    found = of_views(RIGHT_VIEW)
    assert found is not None and list(found.warped) == ["right"]
    np.testing.assert_array_equal(found.warped["right"][:, SHIFT_PX:], FRAME[:, SHIFT_PX:])
    assert not found.warped["right"][:, :SHIFT_PX].any(), "the partner does not show these"
    assert np.isnan(found.error[:, :SHIFT_PX]).all()
    np.testing.assert_allclose(found.error[:, SHIFT_PX + 1 :], 0.0, atol=1e-6)  # But for a window across the border.
    assert found.counted[:, SHIFT_PX + 1 :].all() and not found.counted[:, :SHIFT_PX].any()


def test_at_a_wrong_depth_an_error_is_left():
    found = of_views(RIGHT_VIEW, depth_m=np.full((HEIGHT, WIDTH), DEPTH_M / 2))
    assert found is not None
    assert np.nanmean(found.error) > 0.2 and np.isnan(found.error[:, : 2 * SHIFT_PX]).all()
    assert found.counted.mean() < 0.7


def test_of_two_views_the_better_one_counts_everywhere():
    found = of_views(("previous", LEFT, pose(-BASELINE_M)), ("next", RIGHT, pose(BASELINE_M)))
    assert found is not None and list(found.warped) == ["previous", "next"]
    inner = slice(SHIFT_PX + 1, -SHIFT_PX - 1)
    np.testing.assert_allclose(found.error[:, inner], 0.0, atol=1e-6)
    assert np.isfinite(found.error).all(), "each border is seen by one"


def test_a_view_that_stands_still_leaves_nothing_in_the_auto_mask():
    found = of_views(("previous", FRAME, pose(0.0)))
    assert found is not None and not found.counted.any()
    np.testing.assert_array_equal(found.warped["previous"], FRAME)


def test_views_of_unknown_pose_are_left_out():
    unknown = np.full((4, 4), np.nan, np.float32)
    found = of_views(("previous", LEFT, unknown), ("next", RIGHT, pose(BASELINE_M)))
    assert found is not None and list(found.warped) == ["next"]
    assert of_views(("previous", LEFT, unknown), ("next", RIGHT, unknown)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_pixel_without_a_sane_depth_is_seen_by_no_view(value):
    depth_m = np.full((HEIGHT, WIDTH), DEPTH_M)
    depth_m[5, 10] = value
    found = of_views(RIGHT_VIEW, depth_m=depth_m)
    assert found is not None and np.isnan(found.error[5, 10])
    assert np.isfinite(found.error[:, SHIFT_PX:]).sum() == HEIGHT * (WIDTH - SHIFT_PX) - 1
