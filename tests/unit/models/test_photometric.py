"""Photometric errors: SSIM against plain NumPy, masks and smoothness by hand, and what is out of view."""

import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.photometric import consistency, over_views, photometric_error, reprojection, smoothness, ssim
from depthflow.models.views import Views
from tests.textured_plane import CAMERA, pose_of, render
from tests.unit.models.test_warp import assert_gradients_are_differences


def random_images(seed=0, shape=(2, 6, 7, 3)):
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 1, shape), generator.uniform(0, 1, shape)


def plain_ssim(first, second):
    """SSIM of one image's channel, window by window."""
    height, width = first.shape
    padded = [np.pad(plane, 1, mode="reflect") for plane in (first, second)]
    values = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            x, y = (plane[row : row + 3, column : column + 3].ravel() for plane in padded)
            covariance = np.mean((x - x.mean()) * (y - y.mean()))
            values[row, column] = (2 * x.mean() * y.mean() + 0.01**2) * (2 * covariance + 0.03**2)
            values[row, column] /= (x.mean() ** 2 + y.mean() ** 2 + 0.01**2) * (x.var() + y.var() + 0.03**2)
    return values


def views_of(images, poses, *, dtype=np.float64):
    """Returns the views of one frame."""
    camera = CAMERA[None].astype(dtype)
    images = np.stack(images)[None].astype(dtype) / 255
    return Views(images, camera, np.repeat(camera[:, None], len(poses), axis=1), np.stack(poses)[None].astype(dtype))


def test_ssim_is_that_of_plain_numpy():
    first, second = random_images()
    values = ssim(first, second).numpy()
    for image in range(2):
        for channel in range(3):
            expected = plain_ssim(first[image, ..., channel], second[image, ..., channel])
            np.testing.assert_allclose(values[image, ..., channel], expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_images_have_no_error_to_the_bit(dtype):
    image = random_images(shape=(3, 20, 30, 3))[0].astype(dtype)
    np.testing.assert_array_equal(ssim(image, image), 1)
    np.testing.assert_array_equal(photometric_error(image, image), 0)


def test_photometric_error_by_its_parts():
    first, second = random_images(1)
    expected = 0.85 * np.clip((1 - ssim(first, second).numpy()) / 2, 0, 1) + 0.15 * np.abs(first - second)
    np.testing.assert_allclose(photometric_error(first, second), expected.mean(axis=-1), rtol=1e-12)
    # Of black and white, SSIM is almost 0.
    black_white = photometric_error(np.zeros((1, 4, 4, 3)), np.ones((1, 4, 4, 3)))
    np.testing.assert_allclose(black_white, 0.85 / 2 + 0.15, atol=1e-4)


def test_gradients_of_the_error_are_finite_differences():
    assert_gradients_are_differences(photometric_error, random_images(2))


def test_the_best_view_per_pixel_and_the_mean():
    error, unwarped = np.array([[[[1.0, 5.0]], [[3.0, 2.0]]]]), np.array([[[[9.0, 1.0]], [[2.0, 4.0]]]])
    best, counted = over_views(error, unwarped)
    np.testing.assert_array_equal(best, [[[1, 1]]])
    np.testing.assert_array_equal(counted, [[[True, False]]])
    np.testing.assert_array_equal(over_views(error, unwarped, auto_mask=False)[0], [[[1, 2]]])
    np.testing.assert_array_equal(over_views(error, unwarped, min_reprojection=False)[0], [[[2, 2.5]]])


def test_a_tie_is_masked():
    error = tf.constant([[[[0.5, 0.25]]]])
    with tf.GradientTape() as tape:
        tape.watch(error)
        best, counted = over_views(error, tf.constant([[[[0.5, 0.5]]]]))
    np.testing.assert_array_equal(counted, [[[False, True]]])
    np.testing.assert_array_equal(tape.gradient(best, error), [[[[0, 1]]]])


def test_smoothness_by_hand():
    """Disparity 1, 3 on a black and a white pixel has mean 2: a step of 1 at an edge of 1."""
    disparity = np.ones((1, 2, 2)) * [[[1.0, 3.0]]]
    image = np.zeros((1, 2, 2, 3))
    np.testing.assert_allclose(smoothness(disparity, image), [1], rtol=1e-6)
    image[:, :, 1] = 1
    np.testing.assert_allclose(smoothness(disparity, image), [np.exp(-1)], rtol=1e-6)
    np.testing.assert_allclose(smoothness(7 * disparity, image), [np.exp(-1)], rtol=1e-6)


def test_the_true_depth_and_pose_explain_a_view_best():
    image, depth = render(pose_of())
    poses = [pose_of((0.01, -0.02, 0.01), (0.1, 0.02, -0.05)), pose_of((0, 0.02, 0), (-0.1, 0, 0.05))]
    views = views_of([render(pose)[0] for pose in poses], poses)
    warp = reprojection(depth[None], image[None] / 255, views)
    visible = warp.visible.numpy()
    assert visible.mean() > 0.7
    assert warp.error.numpy()[visible].mean() < 0.1 * warp.unwarped.numpy()[visible].mean()
    assert over_views(warp.error, warp.unwarped)[1].numpy()[visible.all(axis=1)].mean() > 0.95


def test_what_is_out_of_view_takes_the_unwarped_error_without_gradient():
    """Whatever pushes points out of the frame or behind the camera neither lowers the error nor raises the count."""
    image, depth = render(pose_of())
    for translation in ((100, 0, 0), (0, 0, -50)):
        views = views_of([render(pose_of(translation=(0.1, 0, 0)))[0]], [pose_of(translation=translation)])
        log_depth = tf.constant(np.log(depth[None]))
        with tf.GradientTape() as tape:
            tape.watch(log_depth)
            warp = reprojection(tf.exp(log_depth), image[None] / 255, views)
        np.testing.assert_array_equal(warp.visible, False)
        np.testing.assert_array_equal(warp.error, warp.unwarped)
        np.testing.assert_array_equal(tape.gradient(warp.error, log_depth), 0)


def test_consistency_by_hand():
    """At one depth the pair agrees; a partner of twice the disparity differs by fx b / (depth W)."""
    depth, baseline = 2.0, 0.2
    pose = pose_of(translation=(-baseline, 0, 0))
    image = np.zeros((24, 40, 3))
    views = views_of([image], [pose])
    warp = reprojection(np.full((1, 24, 40), depth), image[None], views)
    share = warp.visible.numpy().mean()
    assert 0.8 < share < 1
    for factor, expected in ((1, 0.0), (2, share * CAMERA[0] * baseline / depth / 40)):
        view_disparity = np.full((1, 24, 40), factor / depth)
        value = consistency(warp, view_disparity, views.view_cameras[:, 0], views.poses[:, 0])
        np.testing.assert_allclose(value, [expected], rtol=1e-9, atol=1e-15)
