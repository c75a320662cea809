"""Frames at the scale of a prediction: enlarged disparity, averaged images, cameras to match."""

import keras
import numpy as np
import pytest

from depthflow.models.scales import LOG_DEPTH_LIMIT, at_scale, enlarged
from tests.unit.models.test_views import SIZE, random_views


def scaled(log_depth, *, photometric_scale="full", camera="none"):
    views = random_views(batch=len(log_depth))
    return views, at_scale(views.images[:, 1], views, log_depth, photometric_scale=photometric_scale, camera=camera)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_enlarged_is_keras_bilinear_resize(factor):
    plane = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    expected = keras.ops.image.resize(plane[..., None], (3 * factor, 5 * factor), interpolation="bilinear")[..., 0]
    np.testing.assert_allclose(enlarged(plane, factor), expected, atol=1e-6)


def test_full_compares_images_at_their_size():
    log_depth = np.random.default_rng(1).normal(size=(2, SIZE[0] // 4, SIZE[1] // 4)).astype(np.float32)
    views, frames = scaled(log_depth)
    np.testing.assert_allclose(frames.own_disparity, np.exp(-log_depth), rtol=1e-6)
    np.testing.assert_array_equal(frames.disparity, enlarged(frames.own_disparity, 4))
    np.testing.assert_array_equal(frames.views.camera, views.camera.astype(np.float32))
    np.testing.assert_allclose(frames.image, views.images[:, 1] / 255, rtol=1e-6)
    assert frames.own_image.shape == (2, SIZE[0] // 4, SIZE[1] // 4, 3)


def test_own_averages_images_and_shrinks_cameras():
    log_depth = np.zeros((2, SIZE[0] // 2, SIZE[1] // 2))
    views, frames = scaled(log_depth, photometric_scale="own")
    expected = views.images.reshape(2, 2, SIZE[0] // 2, 2, SIZE[1] // 2, 2, 3).mean(axis=(3, 5)) / 255
    np.testing.assert_allclose(frames.views.images, expected, rtol=1e-12)
    np.testing.assert_allclose(frames.image, expected[:, 1], rtol=1e-12)
    np.testing.assert_array_equal(frames.views.view_cameras, views.view_cameras / 2)
    np.testing.assert_array_equal(frames.disparity, 1)


def test_the_canonical_cameras_prediction_becomes_metres():
    views, frames = scaled(np.zeros((2, *SIZE)), camera="canonical")
    fx, fy, *_ = views.camera[0]
    np.testing.assert_allclose(frames.disparity, 1 / np.sqrt(fx * fy / (SIZE[0] * SIZE[1])), rtol=1e-12)
    np.testing.assert_array_equal(frames.own_disparity, 1)


def test_disparity_stays_finite():
    _, frames = scaled(np.stack([np.full(SIZE, 1e9), np.full(SIZE, -1e9)]))
    np.testing.assert_allclose(frames.disparity[:, 0, 0], np.exp([-LOG_DEPTH_LIMIT, LOG_DEPTH_LIMIT]))
