"""The canonical camera, by hand: labels, metres, and what a model without a lens falls back on."""

import numpy as np
import pytest

from depthflow.models.augmentation import NEUTRAL, Column, augment
from depthflow.models.canonical_camera import ModelCamera, to_canonical, to_metres

DEPTH_M = np.array([[[1.0, 2.0]], [[1.0, 2.0]]], np.float32)


def test_labels_by_hand():
    """A lens of relative focal length 2 shows what is 4 m away as large as the canonical one shows it at 2 m."""
    labels = to_canonical(np.log(4 * DEPTH_M), np.array([2.0, 0.5]))
    assert labels.dtype == np.float32
    np.testing.assert_allclose(np.exp(labels), [[[2.0, 4.0]], [[8.0, 16.0]]], rtol=1e-6)


def test_metres_invert_labels():
    focal = np.array([0.7, 1.9])
    np.testing.assert_allclose(to_metres(to_canonical(np.log(DEPTH_M), focal), focal), DEPTH_M, rtol=1e-6)


def test_a_zoom_is_a_longer_lens():
    """The label of an image that was zoomed by 2 is that of the same scene through twice the focal length."""
    rgb, valid = np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 8, 8), bool)
    log_depth = np.full((1, 8, 8), np.log(5.0), np.float32)
    draws = NEUTRAL[None].copy()
    draws[0, Column.ZOOM] = 2.0
    _, zoomed, _ = augment(rgb, to_canonical(log_depth, np.array([0.8])), valid, draws, zoom_depth="focal")
    np.testing.assert_allclose(np.asarray(zoomed), to_canonical(log_depth, np.array([1.6])), rtol=1e-6)


def test_metres_of_a_model_of_the_canonical_camera():
    """The median lens of training stands in for one that is unknown."""
    camera = ModelCamera(camera="canonical", median_focal=3.0)
    np.testing.assert_allclose(
        camera.metres(np.log(DEPTH_M), np.array([2.0, np.nan])), [[[2.0, 4.0]], [[3.0, 6.0]]], rtol=1e-6
    )
    np.testing.assert_allclose(camera.metres(np.log(DEPTH_M), None), 3 * DEPTH_M, rtol=1e-6)


def test_a_model_of_any_camera_ignores_the_lens():
    np.testing.assert_allclose(ModelCamera().metres(np.log(DEPTH_M), np.array([2.0, 3.0])), DEPTH_M, rtol=1e-6)


@pytest.mark.parametrize("camera", [ModelCamera(), ModelCamera(camera="canonical", median_focal=0.9)])
def test_json_roundtrip(camera):
    assert ModelCamera.from_json(camera.to_json()) == camera


def test_models_from_before_saved_nothing():
    assert ModelCamera.from_json({}) == ModelCamera()


@pytest.mark.parametrize(
    "saved",
    [{"camera": "canonical"}, {"camera": "pinhole"}, {"median_focal": -1.0}, {"median_focal": "1"}, {"camera": None}],
)
def test_damage_is_rejected(saved):
    with pytest.raises(ValueError, match="a camera is none or canonical"):
        ModelCamera.from_json(saved)
