"""Validation: the metrics of the split, in metres of each image's own lens."""

import math

import keras
import numpy as np
import pytest

from depthflow.metrics import image_metrics
from depthflow.store.read.reader import SplitReader
from depthflow.training.validation import Validator


def constant_network(value, size):
    """Builds a network that predicts this log-depth everywhere."""
    rgb = keras.Input((size, size, 3), dtype="uint8")
    log_depth = keras.layers.Conv2D(
        1, 1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(value)
    )
    return keras.Model(rgb, log_depth(keras.layers.Rescaling(1 / 255)(rgb)))


def test_a_canonical_prediction_is_validated_in_metres(real_store, group):
    """Through 60 degrees across a square image, the relative focal length is 1 / (2 tan 30 degrees)."""

    def abs_rel(log_depth, camera):
        reader = SplitReader(real_store, "val", assume_fov_deg=60.0)
        network = constant_network(log_depth, real_store.height)
        validator = Validator(network, reader, group, max_batch_size=2, camera=camera)
        return validator.metrics(validator.sums(beat=lambda doing: None))["val/abs_rel"]

    focal = 1 / (2 * math.tan(math.radians(30)))
    assert abs_rel(1.0, "canonical") == pytest.approx(abs_rel(1.0 + math.log(focal), "none"), rel=1e-6)
    assert abs_rel(1.0, "canonical") != pytest.approx(abs_rel(1.0, "none"), rel=1e-2)


def test_a_smaller_network_is_validated_at_the_stored_size(real_store, group):
    """It sees images of its own size; what it predicts everywhere is the same at any size."""
    reader = SplitReader(real_store, "val")

    def metrics(size):
        validator = Validator(constant_network(1.0, size), reader, group, max_batch_size=2)
        return validator.metrics(validator.sums(beat=lambda doing: None))

    assert metrics(real_store.height // 2) == pytest.approx(metrics(real_store.height))


def test_each_data_set_is_validated_apart(mixed, group):
    """Four images of diode and three of tum, predicted 1 m everywhere."""
    validator = Validator(constant_network(0.0, None), SplitReader(mixed, "val"), group, max_batch_size=3)
    found = validator.metrics(validator.sums(beat=lambda doing: None))
    batch = SplitReader(mixed, "val").read(range(7))
    errors = [
        image_metrics(depth_pred=np.ones_like(depth), depth_gt=np.exp(depth), valid_mask=mask)["abs_rel"]
        for depth, mask in zip(batch.log_depth, batch.valid_mask, strict=True)
    ]
    for name in ("diode", "tum"):
        of_name = [error for error, dataset in zip(errors, batch.datasets, strict=True) if dataset == name]
        assert found[f"val/dataset {name}/abs_rel"] == pytest.approx(np.mean(of_name), rel=1e-5)
    assert found["val/abs_rel"] == found["val/indoors/abs_rel"] == pytest.approx(np.mean(errors), rel=1e-5)
