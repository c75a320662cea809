"""Views: pairs in temporal order, poses of what is learned, and cameras and poses after a mirrored zoom."""

import numpy as np
import pytest

from depthflow.models.views import Views, learned_poses, mirrored_poses, swapped, view_pairs, window_camera
from depthflow.models.warp import pose_matrix, project
from tests.textured_plane import CAMERA, SIZE, pose_of

NAMES = ("previous", "next")
FLIP, ZOOM = np.array([1.0, 0.0, 1.0]), np.array([1.5, 1.2, 1.0])
CENTRE = np.array([[0.6, 0.4], [0.45, 0.52], [0.5, 0.5]])
"""Fractions of height and width."""


def random_views(seed=0, batch=3, views=2):
    generator = np.random.default_rng(seed)
    poses = [[pose_of(*generator.normal(0, 0.05, (2, 3))) for _ in range(views)] for _ in range(batch)]
    return Views(
        images=generator.integers(0, 256, (batch, views, *SIZE, 3), dtype=np.uint8),
        camera=np.tile(CAMERA, (batch, 1)),
        view_cameras=np.tile(CAMERA * [1.1, 1.2, 0.9, 1.0], (batch, views, 1)),
        poses=np.array(poses),
    )


def test_pairs_are_in_temporal_order():
    rgb = np.full((2, *SIZE, 3), [[[[1]]], [[[2]]]], np.uint8)
    images = np.stack([rgb + 10, rgb + 20], axis=1)
    pairs = view_pairs(rgb, images, NAMES).numpy()
    assert pairs.shape == (4, *SIZE, 6) and pairs.dtype == np.uint8
    np.testing.assert_array_equal(pairs[:, 0, 0, ::3], [[11, 1], [1, 21], [12, 2], [2, 22]])
    np.testing.assert_array_equal(view_pairs(rgb, images[:, 1:], ["next"])[:, 0, 0, ::3], [[1, 21], [2, 22]])


def test_the_motion_from_earlier_to_later_is_inverted_for_the_previous_view():
    vectors = np.random.default_rng(0).normal(0, 0.3, (4, 6))
    poses, motions = learned_poses(vectors, NAMES).numpy(), pose_matrix(vectors).numpy()
    np.testing.assert_allclose(poses[:, 0] @ motions[::2], np.tile(np.eye(4), (2, 1, 1)), atol=1e-12)
    np.testing.assert_array_equal(poses[:, 1], motions[1::2])


@pytest.mark.parametrize("scale", [None, 1 / ZOOM])
def test_points_lie_at_the_moved_places_after_a_mirrored_zoom(scale):
    """A point's place in the frame and in its view move alike, as the enlarged part of an image does."""
    views, depth = random_views(), np.random.default_rng(1).uniform(1, 9, (3, *SIZE))
    window = {"size": SIZE, "zoom": ZOOM, "mirrored": FLIP, "centre": CENTRE}
    camera = window_camera(views.camera[:, None], **window)[:, 0]
    view_cameras = window_camera(views.view_cameras, **window)
    poses = mirrored_poses(views.poses, mirrored=FLIP, scale=scale)
    zoom_x = (ZOOM * (1 - 2 * FLIP))[:, None, None]

    def moved(x, y):
        centre_y, centre_x = (CENTRE * SIZE).T[:, :, None, None]
        moved_x, moved_y = (x - centre_x) * zoom_x / SIZE[1], (y - centre_y) * ZOOM[:, None, None] / SIZE[0]
        return SIZE[1] * (0.5 + moved_x), SIZE[0] * (0.5 + moved_y)

    fx, fy, cx, cy = views.camera.T[:, :, None, None]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    points = np.stack([(x - cx) / fx * depth, (y - cy) / fy * depth, depth, np.ones_like(depth)], axis=-1)
    factor = 1 if scale is None else scale[:, None, None]
    for view in range(2):
        expected = moved(*project(depth, views.camera, views.view_cameras[:, view], views.poses[:, view])[:2])
        # The point in the coordinates of the mirrored and scaled world.
        mirror = np.stack([1 - 2 * FLIP, np.ones(3), np.ones(3)], axis=1)[:, None, None]
        world = points[..., :3] * mirror * np.asarray(factor)[..., None]
        seen = np.einsum("bij,bhwj->bhwi", np.asarray(poses[:, view]), np.concatenate([world, points[..., 3:]], -1))
        fx, fy, cx, cy = np.asarray(view_cameras)[:, view].T[:, :, None, None]
        np.testing.assert_allclose(fx * seen[..., 0] / seen[..., 2] + cx, expected[0], rtol=1e-8)
        np.testing.assert_allclose(fy * seen[..., 1] / seen[..., 2] + cy, expected[1], rtol=1e-8)
    fx, fy, cx, cy = np.asarray(camera).T[:, :, None, None]
    np.testing.assert_allclose(fx * world[..., 0] / world[..., 2] + cx, moved(x, y)[0], rtol=1e-9)
    np.testing.assert_allclose(fy * world[..., 1] / world[..., 2] + cy, moved(x, y)[1], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neutral_draws_change_no_bit_and_unknown_poses_stay_unknown(dtype):
    views = random_views()
    one, zero, middle = np.ones(3, np.float32), np.zeros(3, np.float32), np.full((3, 2), 0.5, np.float32)
    camera = views.view_cameras.astype(dtype)
    moved = window_camera(camera, size=SIZE, zoom=one, mirrored=zero, centre=middle)
    np.testing.assert_array_equal(moved, camera)
    poses = views.poses.astype(dtype)
    poses[1] = np.nan
    np.testing.assert_array_equal(mirrored_poses(poses, mirrored=zero, scale=one), poses)
    assert np.isnan(mirrored_poses(poses, mirrored=one)[1]).all()


def test_a_partner_sees_the_frame_as_its_view():
    views = random_views(views=1)
    rgb = np.zeros((3, *SIZE, 3), np.uint8)
    partner, back = swapped(rgb, views)
    np.testing.assert_array_equal(partner, views.images[:, 0])
    np.testing.assert_array_equal(back.camera, views.view_cameras[:, 0])
    np.testing.assert_allclose(back.poses[:, 0], np.linalg.inv(views.poses[:, 0]), atol=1e-12)
    again, forth = swapped(partner, back)
    np.testing.assert_array_equal(again, rgb)
    np.testing.assert_array_equal(forth.view_cameras, views.view_cameras)
