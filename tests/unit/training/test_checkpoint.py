"""Checkpoints: going on from one equals not having stopped, bit for bit; what is no whole checkpoint does not count."""

import contextlib
import json
import math
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from depthflow.errors import TrainingError
from depthflow.models.augmentation import NEUTRAL
from depthflow.recipes import smoke
from depthflow.storage.durable import TEMPORARY_PREFIX
from depthflow.store.read.share import Position
from depthflow.training.checkpoint import (
    AVERAGED_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    Snapshot,
    TrainingProgress,
    annotate_checkpoint,
    best,
    checkpoints,
    latest_whole,
    load_checkpoint,
    prune,
    read_progress,
    values_of,
    write_checkpoint,
)
from depthflow.training.feed import TrainingBatch
from depthflow.training.optimizer import build_optimizer
from depthflow.training.train_state import TrainState
from tests.full_disk import files_at_most

STEPS = 6
RECIPE = replace(
    smoke(),
    height=32,
    width=32,
    decoder_filters=(8,) * 5,
    horizontal_flip=False,
    max_zoom=1.0,
    colour_jitter=0.0,
    blur=0.0,
    learning_rate=1e-2,
)
PROGRESS = TrainingProgress(
    position=Position(seed=7, epoch=1, step=2), steps_done=3, loss_sum=1 / 3, metrics={"val/abs_rel": 0.25}
)


@pytest.fixture
def new_run(small_network):
    """A network with batch normalisation and AdamW with a cosine: state beyond trainable weights and the step."""

    def make(recipe=RECIPE, *, seed=0, **changes):
        model = small_network(**{"dtype": recipe.dtype, "norm": "batch", "seed": seed, **changes})
        optimizer = build_optimizer(recipe, total_steps=STEPS, steps_per_epoch=STEPS, encoder=[])
        optimizer.build(model.trainable_variables)
        return model, optimizer

    return make


def train(model, optimizer, steps) -> None:
    """Some steps, each on a batch that its number alone says; of step 2 the gradients overflow if they are scaled."""
    for step in steps:
        generator = np.random.default_rng(step)
        rgb = tf.constant(generator.integers(0, 256, (2, 32, 32, 3), np.uint8))
        truth = tf.constant(generator.normal(1.0, 0.5, (2, 32, 32)).astype(np.float32))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(model(rgb, training=True)[..., 0] - truth))
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in model.trainable_variables])
        if step == 2 and isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            gradients[0] = gradients[0] * np.inf
        optimizer.apply(gradients, model.trainable_variables)


def snapshot_of(model, optimizer) -> Snapshot:
    return Snapshot(model=values_of(model.weights), optimizer=values_of(optimizer.variables))


@pytest.fixture
def checkpoint(new_run, tmp_path):
    """(folder, snapshot) of a run after three steps."""
    model, optimizer = new_run()
    train(model, optimizer, range(3))
    snapshot = snapshot_of(model, optimizer)
    return write_checkpoint(tmp_path / "checkpoints", snapshot, PROGRESS), snapshot


# --- going on ---


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_momentum": 0.9}, {"optimizer": "sgd"}, {"dtype": "mixed_float16", "ema_momentum": 0.9}],
    ids=["adamw", "average", "sgd", "average and loss scaling"],
)
def test_going_on_equals_not_stopping(new_run, arrays, assert_same, tmp_path, changes):
    recipe = replace(RECIPE, **changes)
    model, optimizer = new_run(recipe)
    train(model, optimizer, range(3))
    folder = write_checkpoint(tmp_path, snapshot_of(model, optimizer), PROGRESS)
    train(model, optimizer, range(3, STEPS))
    again, its_optimizer = new_run(recipe, seed=1)
    assert load_checkpoint(folder, model=again, optimizer=its_optimizer) == PROGRESS
    train(again, its_optimizer, range(3, STEPS))
    assert_same(arrays(again.weights), arrays(model.weights))
    assert_same(arrays(its_optimizer.variables), arrays(optimizer.variables))
    scaled = recipe.dtype == "mixed_float16"
    assert int(optimizer.iterations) == (STEPS - 1 if scaled else STEPS), "the step that overflowed was left out"


def test_brings_everything_back(checkpoint, new_run, arrays, assert_same):
    folder, snapshot = checkpoint
    model, optimizer = new_run(seed=1)
    assert not np.array_equal(arrays(model.weights)[0], snapshot.model[0])
    assert load_checkpoint(folder, model=model, optimizer=optimizer) == PROGRESS
    assert_same(arrays(model.weights), list(snapshot.model))
    assert_same(arrays(optimizer.variables), list(snapshot.optimizer))
    assert int(optimizer.iterations) == 3


def test_going_on_without_the_optimizer_is_another_run(checkpoint, new_run, arrays):
    """Guards the tests above: the optimizer's state must matter to them."""
    runs = [new_run(seed=1), new_run(seed=1)]
    for k, (model, optimizer) in enumerate(runs):
        load_checkpoint(checkpoint[0], model=model, optimizer=optimizer if k else None)
        train(model, optimizer, range(3, STEPS))
    first, second = (arrays(model.weights) for model, _ in runs)
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_snapshot_is_not_touched_by_later_steps(new_run):
    model, optimizer = new_run()
    snapshot = snapshot_of(model, optimizer)
    before = [value.copy() for value in (*snapshot.model, *snapshot.optimizer)]
    train(model, optimizer, range(2))
    for value, was in zip((*snapshot.model, *snapshot.optimizer), before, strict=True):
        np.testing.assert_array_equal(value, was)


def test_names_are_as_wide_as_the_count(checkpoint):
    """They are sorted as text."""
    with np.load(checkpoint[0] / MODEL_FILE) as saved:
        assert all(len(name) == 5 for name in saved.files)
        assert len(saved.files) == len(checkpoint[1].model)


def test_holds_no_pickle(checkpoint):
    assert {path.name for path in checkpoint[0].iterdir()} == {MODEL_FILE, OPTIMIZER_FILE, MANIFEST_FILE}
    for path in checkpoint[0].glob("*.npz"):
        with np.load(path, allow_pickle=False) as saved:
            assert all(saved[name].dtype.kind in "iuf" for name in saved.files)


# --- the average ---


def batch_of(seed=0):
    generator = np.random.default_rng(seed)
    return TrainingBatch(
        rgb=generator.integers(0, 256, (4, 32, 32, 3), np.uint8),
        log_depth=generator.normal(1.0, 0.5, (4, 32, 32)).astype(np.float32),
        valid_mask=generator.random((4, 32, 32)) < 0.5,
        draws=np.tile(NEUTRAL, (4, 1)),
        epoch=0,
        batch_rows=np.arange(4),
        next_position=Position(seed=0, epoch=0, step=1),
    )


@pytest.mark.parametrize(
    ("dtype", "is_real"), [("float32", True), ("mixed_float16", False)], ids=["U-Net", "loss scaling"]
)
def test_without_an_optimizer_a_network_gets_the_average(request, group, arrays, assert_same, tmp_path, dtype, is_real):
    """And with one what the run had, average included."""
    if not is_real:
        request.getfixturevalue("small_train_states")
    keras.utils.set_random_seed(0)
    recipe = replace(RECIPE, ema_momentum=0.9, dtype=dtype, schedule="constant")
    train_state = TrainState(recipe, steps_per_epoch=5, group=group, checkpoint=None)
    seen = []
    for seed in range(3):
        train_state.step(batch_of(seed), np.zeros(1, np.float32))
        seen.append(arrays(train_state.model.trainable_variables))
    expected = [0.9 * (0.9 * one + 0.1 * two) + 0.1 * three for one, two, three in zip(*seen, strict=True)]
    trained, checksum = arrays(train_state.model.weights), train_state.checksum()

    with train_state.averaged():
        averaged = arrays(train_state.model.weights)
        for mine, wanted in zip(arrays(train_state.model.trainable_variables), expected, strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)
    assert_same(arrays(train_state.model.weights), trained)

    folder = write_checkpoint(
        tmp_path, train_state.snapshot(), TrainingProgress(position=Position(seed=0, epoch=0, step=3))
    )
    assert train_state.checksum() == checksum, "a snapshot leaves the run as it is"
    assert (folder / AVERAGED_FILE).is_file()
    again = TrainState(recipe, steps_per_epoch=5, group=group, checkpoint=folder)
    assert again.checksum() == checksum
    assert_same(arrays(again.model.weights), trained)
    load_checkpoint(folder, model=again.model)
    assert_same(arrays(again.model.weights), averaged)


def test_the_average_is_put_back_after_an_error_too(group, small_train_states, arrays, assert_same):
    train_state = TrainState(replace(RECIPE, ema_momentum=0.5), steps_per_epoch=5, group=group, checkpoint=None)
    trained = arrays(train_state.model.weights)
    with contextlib.suppress(OSError), train_state.averaged():
        assert not np.array_equal(arrays(train_state.model.weights)[0], trained[0])
        raise OSError
    assert_same(arrays(train_state.model.weights), trained)


def test_without_an_average_there_is_none_to_save(group, small_train_states, arrays, assert_same):
    train_state = TrainState(RECIPE, steps_per_epoch=5, group=group, checkpoint=None)
    assert train_state.snapshot().averaged is None
    trained = arrays(train_state.model.weights)
    with train_state.averaged():
        assert_same(arrays(train_state.model.weights), trained)


# --- progress ---

figures = st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False), max_size=4)
counts = st.integers(0, 2**40)


@given(seed=counts, epoch=counts, step=counts, steps_done=counts, loss_sum=st.floats(allow_nan=False), metrics=figures)
def test_progress_comes_back_from_json(seed, epoch, step, steps_done, loss_sum, metrics):
    """To the last bit: a mean that is taken up in the middle of an epoch is the same."""
    progress = TrainingProgress(
        position=Position(seed=seed, epoch=epoch, step=step), steps_done=steps_done, loss_sum=loss_sum, metrics=metrics
    )
    assert TrainingProgress.from_json(progress.to_json()) == progress


def test_nan_comes_back_from_json():
    progress = TrainingProgress.from_json(replace(PROGRESS, metrics={"val/abs_rel": math.nan}).to_json())
    assert math.isnan(progress.metrics["val/abs_rel"])
    assert progress.score == math.inf


@pytest.mark.parametrize(
    ("epoch", "step", "steps_done", "metrics", "awaits"),
    [
        (0, 0, 0, {}, False),  # Nothing is done yet.
        (0, 3, 3, {}, False),
        (1, 0, 6, {}, True),
        (1, 0, 6, {"val/abs_rel": 0.5}, False),
        (1, 0, 6, {"val/abs_rel": math.nan}, False),
        (1, 2, 8, {}, False),
    ],
)
def test_the_end_of_an_epoch_awaits_its_metrics(epoch, step, steps_done, metrics, awaits):
    position = Position(seed=0, epoch=epoch, step=step)
    assert TrainingProgress(position=position, steps_done=steps_done, metrics=metrics).awaits_validation == awaits


# --- what does not count ---


def test_half_written_folders_do_not_count(checkpoint, tmp_path):
    """Of a run that was killed: one that has its manifest but not its name, and one that has its name alone."""
    root, folder = tmp_path / "checkpoints", checkpoint[0]
    shutil.copytree(folder, root / f"{TEMPORARY_PREFIX}step-00000009")
    (root / "step-00000010").mkdir()
    shutil.copy(folder / MODEL_FILE, root / "step-00000010" / MODEL_FILE)
    assert checkpoints(root) == [folder]
    assert latest_whole(root) == folder
    found = best(root)
    assert found is not None and found[0] == folder
    with pytest.raises(TrainingError, match=rf"step-00000010 is not a finished checkpoint: it has no {MANIFEST_FILE}"):
        read_progress(root / "step-00000010")


def test_an_unfinished_one_leaves_the_network_alone(checkpoint, new_run, arrays, assert_same):
    (checkpoint[0] / MANIFEST_FILE).unlink()
    model, optimizer = new_run(seed=1)
    before = arrays(model.weights)
    with pytest.raises(TrainingError, match="is not a finished checkpoint"):
        load_checkpoint(checkpoint[0], model=model, optimizer=optimizer)
    assert_same(arrays(model.weights), before)


def test_there_may_be_none(tmp_path):
    for root in (tmp_path, tmp_path / "absent"):
        assert checkpoints(root) == []
        assert latest_whole(root) is None
        assert best(root) is None
        prune(root, keep=1)


def test_they_are_in_the_order_of_time(tmp_path):
    for steps in (100_000, 9, 10, 0):
        write_checkpoint(tmp_path, Snapshot(model=[], optimizer=[]), replace(PROGRESS, steps_done=steps))
    assert [read_progress(path).steps_done for path in checkpoints(tmp_path)] == [0, 9, 10, 100_000]


def test_one_of_the_same_name_is_replaced(tmp_path):
    for value in (1.0, 2.0):
        folder = write_checkpoint(tmp_path, Snapshot(model=[np.array(value)], optimizer=[]), PROGRESS)
    with np.load(folder / MODEL_FILE) as saved:
        assert saved["00000"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS.name]


# --- damage ---


@pytest.fixture
def two(tmp_path):
    """A folder with two small whole checkpoints: (root, earlier, later)."""
    snapshot = Snapshot(model=[np.arange(20.0)], optimizer=[np.arange(3)], averaged=[np.ones(20)])
    earlier, later = (write_checkpoint(tmp_path, snapshot, replace(PROGRESS, steps_done=k)) for k in (3, 6))
    assert latest_whole(tmp_path) == later
    return tmp_path, earlier, later


@pytest.mark.parametrize("name", [MODEL_FILE, OPTIMIZER_FILE, AVERAGED_FILE])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_passed_over(two, name, share, caplog):
    root, earlier, later = two
    content = (later / name).read_bytes()
    (later / name).write_bytes(content[: int(share * len(content))])
    assert latest_whole(root) == earlier
    assert f"Passing over the checkpoint {later}" in caplog.text


@pytest.mark.parametrize("name", [MODEL_FILE, OPTIMIZER_FILE, AVERAGED_FILE])
def test_a_flipped_bit_of_a_value_is_passed_over(two, name):
    root, earlier, later = two
    path = later / name
    with np.load(path) as saved:
        value = saved["00000"].tobytes()
    content = path.read_bytes()
    place = content.index(value) + len(value) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    assert latest_whole(root) == earlier


def test_no_flipped_byte_is_taken_for_whole_with_other_values(two):
    """Wherever it is: it is passed over, or harms nothing that is read."""
    root, earlier, later = two
    path = later / MODEL_FILE
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (0xFF if place % 2 else 0x01)]) + content[place + 1 :]
        )
        taken = latest_whole(root)
        assert taken in (earlier, later)
        if taken == later:
            with np.load(path) as saved:
                (name,) = saved.files
                np.testing.assert_array_equal(saved[name], np.arange(20.0))
        for set_aside in root.glob(f"*-{later.name}"):
            set_aside.rename(later)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"position": 3}',
        '{"position": {"seed": 0, "epoch": 0}}',
        '{"position": {"seed": 0, "epoch": -1, "step": 0}}',
        '{"position": {"seed": 0, "epoch": 0, "step": 0}, "other": 1}',
    ],
)
def test_a_damaged_manifest_is_passed_over(two, text):
    root, earlier, later = two
    (later / MANIFEST_FILE).write_text(text)
    with pytest.raises(TrainingError, match=rf"{later} is damaged: .*Remove it to go on from the one before"):
        read_progress(later)
    assert latest_whole(root) == earlier


def test_a_run_that_passed_a_damaged_one_over_can_go_on(two):
    """Its later checkpoints are written, pruned and ranked whatever lies beside them."""
    root, earlier, later = two
    (later / MANIFEST_FILE).write_text("{")
    assert latest_whole(root) == earlier
    snapshot = Snapshot(model=[np.arange(20.0)], optimizer=[np.arange(3)])
    written = write_checkpoint(root, snapshot, replace(PROGRESS, steps_done=5, metrics={}))
    prune(root, keep=1)
    assert latest_whole(root) == written, "the latest is kept, though a damaged one has a later name"
    found = best(root)
    assert found is not None and found[0] == earlier


@pytest.mark.parametrize("name", [MANIFEST_FILE, MODEL_FILE, OPTIMIZER_FILE])
def test_a_truncated_file_is_rejected(checkpoint, new_run, name):
    path = checkpoint[0] / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    model, optimizer = new_run()
    with pytest.raises(TrainingError, match="is damaged"):
        load_checkpoint(checkpoint[0], model=model, optimizer=optimizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": 2}, r"model\.npz holds \d+ arrays where the recipe has \d+"),
        ({"filters": 8}, r"model\.npz is of another network: .* has shape"),
    ],
)
def test_another_network_is_rejected(checkpoint, new_run, changes, message):
    model, _ = new_run(**changes)
    with pytest.raises(TrainingError, match=message):
        load_checkpoint(checkpoint[0], model=model)


def test_another_optimizer_is_rejected(checkpoint, new_run):
    model, optimizer = new_run(replace(RECIPE, optimizer="sgd"))
    with pytest.raises(TrainingError, match=r"optimizer\.npz holds"):
        load_checkpoint(checkpoint[0], model=model, optimizer=optimizer)


# --- which are kept ---


def write_manifests(root, scores) -> None:
    """One checkpoint a step from 1, with this val/abs_rel; None in the middle of an epoch."""
    for steps, score in enumerate(scores, start=1):
        metrics = {} if score is None else {"val/abs_rel": score}
        progress = TrainingProgress(position=Position(seed=0, epoch=steps), steps_done=steps, metrics=metrics)
        folder = root / progress.name
        folder.mkdir(parents=True)
        (folder / MANIFEST_FILE).write_text(progress.to_json())


def steps_of(paths) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in paths]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ([0.3], 1),
        ([0.3, 0.2, 0.4], 2),
        ([0.3, None, 0.4], 1),
        ([NAN, 0.9, INF, None], 2),
        ([0.3, -INF], 1),
        ([None, None], None),
        ([NAN, INF], None),
    ],
)
def test_the_best_has_the_lowest_finite_figure(tmp_path, scores, wanted):
    write_manifests(tmp_path, scores)
    found = best(tmp_path)
    if wanted is None:
        assert found is None
        return
    assert found is not None and steps_of([found[0]]) == [wanted]
    assert found[1].metrics["val/abs_rel"] == scores[wanted - 1]


@pytest.mark.parametrize(
    ("scores", "keep", "kept"),
    [
        ([0.3], 1, [1]),
        ([0.3, 0.2, 0.4], 1, [2, 3]),
        ([0.3, 0.2, 0.4], 2, [1, 2, 3]),
        ([0.4, 0.3, 0.2], 1, [3]),
        ([0.4, 0.3, 0.2], 2, [2, 3]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, [1, 2, 5]),
        ([0.1, NAN, 0.3, INF, None], 2, [1, 3, 5]),
        ([0.1, 0.2, 0.3, NAN, 0.5], 2, [1, 2, 5]),
        ([0.1, 0.2, 0.3], 9, [1, 2, 3]),
        ([0.2, 0.1, None, None], 1, [2, 4]),
    ],
)
def test_the_best_and_the_latest_are_kept(tmp_path, scores, keep, kept):
    write_manifests(tmp_path, scores)
    prune(tmp_path, keep=keep)
    assert steps_of(checkpoints(tmp_path)) == kept
    assert steps_of(sorted(tmp_path.iterdir())) == kept, "nothing is left of the others"


@given(
    scores=st.lists(st.none() | st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=12), keep=st.integers(1, 4)
)
def test_whatever_the_metrics_the_best_and_the_latest_stay(tmp_path_factory, scores, keep):
    root = tmp_path_factory.mktemp("kept")
    write_manifests(root, scores)
    wanted = best(root)
    prune(root, keep=keep)
    there = steps_of(checkpoints(root))
    assert there[-1] == len(scores)
    assert len(there) <= keep + 1
    assert best(root) == wanted
    finite = sorted(score for score in scores if score is not None and math.isfinite(score))
    left = sorted(s for k in there if (s := scores[k - 1]) is not None and math.isfinite(s))
    assert left[:keep] == finite[:keep]


def test_what_is_half_written_is_cleared_away(tmp_path):
    write_manifests(tmp_path, [0.3])
    (tmp_path / f"{TEMPORARY_PREFIX}step-00000002").mkdir()
    (tmp_path / f"{TEMPORARY_PREFIX}step-00000002" / MODEL_FILE).write_bytes(b"half")
    prune(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


# --- writing ---


def test_an_annotation_takes_the_place_of_the_manifest(tmp_path):
    folder = write_checkpoint(tmp_path, Snapshot(model=[], optimizer=[]), replace(PROGRESS, metrics={}))
    annotate_checkpoint(tmp_path, PROGRESS)
    assert read_progress(folder) == PROGRESS
    assert {path.name for path in folder.iterdir()} == {MODEL_FILE, OPTIMIZER_FILE, MANIFEST_FILE}


def test_an_annotation_that_does_not_fit_leaves_the_manifest(tmp_path):
    before = replace(PROGRESS, metrics={})
    folder = write_checkpoint(tmp_path, Snapshot(model=[], optimizer=[]), before)
    with files_at_most(10), pytest.raises(TrainingError, match=rf"{folder} cannot be written: .*File too large"):
        annotate_checkpoint(tmp_path, PROGRESS)
    assert read_progress(folder) == before
    assert latest_whole(tmp_path) == folder


def test_a_full_disk_is_reported_and_leaves_no_partial_checkpoint(tmp_path):
    small = Snapshot(model=[np.zeros(10)], optimizer=[])
    large = Snapshot(model=[np.zeros(10)], optimizer=[np.zeros(100_000)])
    before = write_checkpoint(tmp_path, small, PROGRESS)
    told = (
        r"step-00000009 cannot be written: .*File too large.*Free space.*--resume: it goes on from the checkpoint bef"
    )
    with files_at_most(50_000), pytest.raises(TrainingError, match=told):
        write_checkpoint(tmp_path, large, replace(PROGRESS, steps_done=9))
    assert list(tmp_path.iterdir()) == [before]
    assert latest_whole(tmp_path) == before


def test_a_full_disk_leaves_an_earlier_one_of_the_same_name(tmp_path):
    folder = write_checkpoint(tmp_path, Snapshot(model=[np.zeros(10)], optimizer=[]), PROGRESS)
    with files_at_most(50_000), pytest.raises(TrainingError):
        write_checkpoint(tmp_path, Snapshot(model=[np.zeros(100_000)], optimizer=[]), PROGRESS)
    assert json.loads((folder / MANIFEST_FILE).read_text())["steps_done"] == 3
    assert latest_whole(tmp_path) == folder
