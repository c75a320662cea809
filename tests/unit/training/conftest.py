"""A small store of real files, and a network of two convolutions, since these tests do not depend on its size."""

import keras
import numpy as np
import pytest

from depthflow.store.write.config import PreprocessConfig
from depthflow.training.collective import WorkerGroup
from tests.stores import make_store

SIZE = 32
TRAIN_SAMPLES, VAL_SAMPLES = 22, 3


def build_small_network(*, dtype="float32", size=SIZE, filters=4, norm="group", scales=1, seed=0, poses=False):
    """Builds a network from uint8 rgb to log-depth, like the U-Nets but traced in one second instead of ten.

    Args:
        poses: Whether it predicts poses of pairs of images, too, as what `training_network` builds.
    """
    keras.utils.set_random_seed(seed)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        exact = keras.config.dtype_policy().variable_dtype
        rgb = keras.Input((size, size, 3), dtype="uint8")
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype=exact, name="small_scale")(rgb)
        x = keras.layers.Conv2D(filters, 3, padding="same", name="small_conv")(x)
        if norm == "batch":
            x = keras.layers.BatchNormalization(name="small_norm")(x)
        else:
            x = keras.layers.GroupNormalization(2, name="small_norm")(x)
        x = keras.layers.ReLU(name="small_relu")(x)
        outputs = [keras.layers.Conv2D(1, 1, dtype=exact, name="log_depth")(x)]
        if scales == 2:
            half = keras.layers.AveragePooling2D(2, name="decoder_half")(x)
            outputs.append(keras.layers.Conv2D(1, 1, dtype=exact, name="log_depth_half")(half))
        if not poses:
            return keras.Model(rgb, outputs if scales > 1 else outputs[0])
        pair = keras.Input((size, size, 6), dtype="uint8")
        x = keras.layers.Rescaling(1 / 255, dtype=exact, name="pose_scale")(pair)
        x = keras.layers.Conv2D(6, 5, strides=4, name="pose_conv")(x)
        x = keras.layers.GlobalAveragePooling2D(dtype=exact, name="pose_mean")(x)
        return keras.Model([rgb, pair], [*outputs, keras.layers.Rescaling(0.1, dtype=exact, name="pose_vector")(x)])
    finally:
        keras.config.set_dtype_policy(previous)


@pytest.fixture(scope="session")
def small_network():
    """Returns `build_small_network`."""
    return build_small_network


@pytest.fixture
def small_train_states(monkeypatch):
    """Gives every train state a small network with its recipe's dtype and scales."""

    def build(recipe):
        return build_small_network(
            dtype=recipe.dtype,
            size=recipe.height,
            scales=recipe.supervised_scales,
            seed=recipe.seed,
            poses=recipe.learns_poses,
        )

    monkeypatch.setattr("depthflow.training.train_state.training_network", build)


@pytest.fixture(scope="session")
def group():
    """Returns a group of one worker, this process."""
    return WorkerGroup(rank=0, size=1)


@pytest.fixture(scope="session")
def real_store(tmp_path_factory, write_triplet):
    """Returns a read-only store of 32 x 32: 22 training samples, indoors and outdoor, and 3 validation samples."""
    root = tmp_path_factory.mktemp("real")
    for k in range(TRAIN_SAMPLES + VAL_SAMPLES):
        split = "train" if k < TRAIN_SAMPLES else "val"
        scene_type = "outdoor" if k % 3 == 0 else "indoors"
        fraction = (0.9, 0.3, 0.05)[k % 3]
        write_triplet(
            root / "tree",
            split=split,
            scene_type=scene_type,
            scene=k // 5,
            scan=k // 5,
            view=k,
            size=(SIZE, SIZE),
            valid_fraction=fraction,
        )
    config = PreprocessConfig(source=(str(root / "tree"),), out=str(root / "store"), height=SIZE, width=SIZE)
    return make_store(config)


@pytest.fixture(scope="session")
def arrays():
    """Returns a function that copies the values of variables."""

    def copies(variables):
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    return copies


@pytest.fixture(scope="session")
def assert_same():
    """Returns a function that asserts that two lists of arrays are equal to the last bit, dtypes included."""

    def check(left, right):
        assert len(left) == len(right)
        for mine, theirs in zip(left, right, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)

    return check
