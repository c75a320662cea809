"""Checkpoints: going on from one equals not having stopped, bit for bit; what is no whole checkpoint is refused."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from depthflow.errors import TrainingError
from depthflow.models.losses import l1_loss, masked_loss_sum
from depthflow.models.unet import build_unet
from depthflow.recipes import smoke
from depthflow.training.checkpoint import MANIFEST_FILE, MODEL_FILE, Progress, load_checkpoint, save_checkpoint
from depthflow.training.optimizer import build_optimizer

# Batch normalisation and AdamW with a cosine schedule: state that is neither a trainable weight nor the step alone.
RECIPE = replace(
    smoke(), height=32, width=32, decoder_filters=(8, 8, 8, 8, 8), decoder_norm="batch", learning_rate=1e-2
)
STEPS = 4
PROGRESS = Progress(epochs_done=1, steps_done=2, seed=7)


def new_run(recipe=RECIPE, *, seed: int = 0):
    keras.utils.set_random_seed(seed)
    model = build_unet(recipe)
    optimizer = build_optimizer(recipe, total_steps=STEPS)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def train(model, optimizer, steps) -> None:
    """Some steps, each on a batch that its number alone says."""
    for step in steps:
        generator = np.random.default_rng(step)
        rgb = tf.constant(generator.integers(0, 256, (2, 32, 32, 3), np.uint8))
        truth = tf.constant(generator.normal(1.0, 0.5, (2, 32, 32)).astype(np.float32))
        with tf.GradientTape() as tape:
            loss = masked_loss_sum(
                l1_loss,
                log_depth_pred=model(rgb, training=True)[..., 0],
                log_depth_gt=truth,
                valid_mask=tf.ones(truth.shape, tf.bool),
            )
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)


def arrays(variables) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    assert len(left) == len(right)
    for mine, theirs in zip(left, right, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(folder, model's arrays, optimizer's arrays) after two steps."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model, optimizer = new_run()
    train(model, optimizer, range(2))
    save_checkpoint(folder, model=model, optimizer=optimizer, progress=PROGRESS)
    return folder, arrays(model.weights), arrays(optimizer.variables)


def test_brings_everything_back(checkpoint):
    folder, weights, state = checkpoint
    model, optimizer = new_run(seed=1)
    assert not np.array_equal(arrays(model.weights)[0], weights[0])
    assert load_checkpoint(folder, model=model, optimizer=optimizer) == PROGRESS
    assert_same(arrays(model.weights), weights)
    assert_same(arrays(optimizer.variables), state)
    assert int(optimizer.iterations) == 2


def test_going_on_equals_not_stopping(checkpoint):
    model, optimizer = new_run()
    train(model, optimizer, range(STEPS))
    again, its_optimizer = new_run(seed=1)
    load_checkpoint(checkpoint[0], model=again, optimizer=its_optimizer)
    train(again, its_optimizer, range(2, STEPS))
    assert_same(arrays(again.weights), arrays(model.weights))
    assert_same(arrays(its_optimizer.variables), arrays(optimizer.variables))


def test_going_on_without_the_optimizer_is_another_run(checkpoint):
    """Guards the test above: the optimizer's state must matter to it."""
    model, optimizer = new_run()
    train(model, optimizer, range(STEPS))
    again, fresh_optimizer = new_run(seed=1)
    load_checkpoint(checkpoint[0], model=again)
    train(again, fresh_optimizer, range(2, STEPS))
    assert any(not np.array_equal(a, b) for a, b in zip(arrays(again.weights), arrays(model.weights), strict=True))


def test_model_alone(checkpoint):
    folder, weights, _ = checkpoint
    model, _ = new_run(seed=1)
    assert load_checkpoint(folder, model=model) == PROGRESS
    assert_same(arrays(model.weights), weights)


def test_more_than_ten_thousand_would_still_be_in_order(checkpoint):
    """Names are sorted as text, so they must be as wide as the count."""
    with np.load(checkpoint[0] / MODEL_FILE) as saved:
        assert all(len(name) == 5 for name in saved.files)
        assert len(saved.files) == len(checkpoint[1])


def test_holds_no_pickle(checkpoint):
    for path in checkpoint[0].glob("*.npz"):
        with np.load(path, allow_pickle=False) as saved:
            assert all(saved[name].dtype.kind in "iuf" for name in saved.files)


# --- what is refused ---


def test_unfinished_is_refused(checkpoint, tmp_path):
    """The manifest comes last: a folder that a killed run left has none."""
    model, optimizer = new_run(seed=1)
    before = arrays(model.weights)
    for path in checkpoint[0].glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TrainingError, match=rf"{tmp_path} is not a finished checkpoint: it has no {MANIFEST_FILE}"):
        load_checkpoint(tmp_path, model=model, optimizer=optimizer)
    assert_same(arrays(model.weights), before)


def test_manifest_is_written_last(tmp_path):
    """A model that cannot be saved leaves no manifest, so the folder does not count."""
    model, optimizer = new_run()
    (tmp_path / "optimizer.npz").mkdir()
    with pytest.raises(OSError, match=r"optimizer\.npz"):
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, progress=PROGRESS)
    assert not (tmp_path / MANIFEST_FILE).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_norm": "group"}, r"model\.npz holds \d+ arrays where the recipe has \d+"),
        ({"decoder_filters": (8, 8, 8, 8, 16)}, r"model\.npz is of another network: .* has shape"),
    ],
)
def test_another_network_is_refused(checkpoint, changes, message):
    model, _ = new_run(replace(RECIPE, **changes))
    with pytest.raises(TrainingError, match=message):
        load_checkpoint(checkpoint[0], model=model)


def test_another_optimizer_is_refused(checkpoint):
    model, optimizer = new_run(replace(RECIPE, optimizer="sgd", weight_decay=0.0))
    with pytest.raises(TrainingError, match=r"optimizer\.npz holds"):
        load_checkpoint(checkpoint[0], model=model, optimizer=optimizer)


@pytest.mark.parametrize("name", [MANIFEST_FILE, MODEL_FILE])
def test_truncated_file_is_refused(checkpoint, tmp_path, name):
    for path in checkpoint[0].iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.name == name else content)
    with pytest.raises(TrainingError):
        load_checkpoint(tmp_path, model=new_run()[0])
