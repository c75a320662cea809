"""The pose network: its layers, its output at the start, and that it can learn the motion of a camera."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from depthflow.models.pose_network import PAIR, POSE_PREFIX, build_pose_network
from depthflow.recipes import smoke

RECIPE = replace(smoke(), height=32, width=64)


def random_pairs(batch=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, 32, 64, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "float32"), ("float64", "float64"), ("mixed_bfloat16", "float32")]
)
def test_from_uint8_pairs_to_a_vector_near_no_motion(dtype, expected):
    keras.utils.set_random_seed(0)
    network = build_pose_network(replace(RECIPE, dtype=dtype))
    assert [tensor.name for tensor in network.inputs] == [PAIR] and network.inputs[0].dtype == "uint8"
    vectors = keras.ops.convert_to_numpy(network(random_pairs()))
    assert vectors.shape == (3, 6) and vectors.dtype == expected
    assert 0 < np.abs(vectors).max() < 0.02
    assert keras.config.dtype_policy().name == "float32"


def test_layers_are_of_keras_and_named_by_the_prefix(tmp_path):
    network = build_pose_network(RECIPE)
    assert all(layer.name.startswith(POSE_PREFIX) for layer in network.layers if layer.name != PAIR)
    network.save(tmp_path / "pose.keras")
    loaded = keras.saving.load_model(tmp_path / "pose.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(random_pairs()), network(random_pairs()))


def test_the_order_of_the_pair_matters():
    network = build_pose_network(RECIPE)
    pairs = random_pairs()
    assert np.abs(network(pairs) - network(np.concatenate([pairs[..., 3:], pairs[..., :3]], -1))).max() > 0
