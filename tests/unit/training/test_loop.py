"""The loop on one worker without Ray, on a real store: what ends it, what it leaves, and how it resumes."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from mlflow import MlflowClient

from depthflow.errors import StoreError, TrainingError
from depthflow.recipes import smoke
from depthflow.registry.runs import RunLog
from depthflow.registry.spool import MetricSpool
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import open_store
from depthflow.training.checkpoint import (
    MODEL_FILE,
    checkpoints,
    latest_whole,
    load_checkpoint,
    read_progress,
    values_of,
)
from depthflow.training.config import TrainJob
from depthflow.training.kept_checkpoints import KeptCheckpoints
from depthflow.training.loop import TrainingLoop
from depthflow.training.observers import ProgressDisplay, RunRecorder
from depthflow.training.saver import CheckpointSaver
from depthflow.training.train_state import TrainState
from depthflow.training.validation import Validator
from depthflow.training.watchdog import Watchdog

STEPS_PER_EPOCH = 6
"""22 samples in batches of 4: four of 4 and two of 3."""
RECIPE = replace(
    smoke(),
    height=32,
    width=32,
    decoder_filters=(8,) * 5,
    horizontal_flip=True,
    max_zoom=1.0,
    colour_jitter=0.0,
    blur=0.0,
    epochs=2,
    global_batch_size=4,
    learning_rate=1e-2,
)


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it."""


class LoggedMetrics:
    """Replaces the spool: values by metric and step. Logging a step twice fails the test."""

    def __init__(self):
        self.values = {}

    def metrics(self, values, *, step):
        for name, value in values.items():
            self._log(name, step, value)

    def series(self, name, values, *, first_step):
        for step, value in enumerate(values, start=first_step):
            self._log(name, step, value)

    def _log(self, name, step, value):
        assert (name, step) not in self.values
        self.values[name, step] = value

    def of(self, name):
        """Returns (step, value) pairs in order."""
        return sorted((step, value) for (logged, step), value in self.values.items() if logged == name)


class Job:
    """What outlives a job's processes. Each call of `run` stands for one process."""

    def __init__(self, root, group, store, recipe, **options):
        self.checkpoints, self.logged = root / "checkpoints", LoggedMetrics()
        self.recipe, self._group, self._store = recipe, group, store
        self.options = {
            "checkpoint_every_steps": None,
            "draining": lambda: False,
            "drain_poll_s": 1e9,
            "spool": self.logged,
            "keep_checkpoints": 100,
            **options,
        }

    def run(self, *, kill_before=None, reader=None, before=lambda train_state, validator: None, **changes):
        """Trains from the latest checkpoint and returns the final train state.

        Args:
            kill_before: Step of this process, counted from 0, before which it is killed.
            reader: Replaces the store's reader.
            before: Called with the train state and the validator, which it may change.
        """
        options = {**self.options, **changes}
        spool, draining = options.pop("spool"), options.pop("draining")
        job = TrainJob(samples="", storage="", **options)
        train_state = TrainState(
            self.recipe,
            steps_per_epoch=STEPS_PER_EPOCH,
            group=self._group,
            checkpoint=latest_whole(self.checkpoints),
        )
        if kill_before is not None:
            _kill(train_state, kill_before)
        validator = Validator(
            train_state.model, SplitReader(self._store, "val", cache_bytes=0), self._group, max_batch_size=2
        )
        before(train_state, validator)
        saver = CheckpointSaver(KeptCheckpoints(self.checkpoints), keep=job.keep_checkpoints)
        watchdog = Watchdog(600)
        loop = TrainingLoop(
            train_state,
            job,
            reader=reader or SplitReader(self._store, "train", cache_bytes=0),
            validator=validator,
            observers=[watchdog, RunRecorder(saver, spool), ProgressDisplay(train_state)],
            draining=draining,
        )
        try:
            loop.run()
        finally:
            watchdog.stop()
            saver.wait()
        return train_state

    def steps_saved(self):
        return [read_progress(path).steps_done for path in checkpoints(self.checkpoints)]


def _kill(train_state, before_step):
    step, begun = train_state.step, []

    def killed(batch, signals):
        if len(begun) == before_step:
            raise Killed
        begun.append(1)
        return step(batch, signals)

    train_state.step = killed


@pytest.fixture
def job(tmp_path, group, real_store, small_train_states):
    """Makes jobs, each with a small network and its own folder."""

    def make(recipe=RECIPE, *, name="job", **options):
        return Job(tmp_path / name, group, real_store, recipe, **options)

    return make


@pytest.fixture(scope="module")
def finished():
    """Caches uninterrupted runs by recipe."""
    return {}


@pytest.fixture
def uninterrupted(job, finished):
    """Returns a function that gives (job, checksum) of an uninterrupted run."""

    def run(recipe=RECIPE):
        if recipe not in finished:
            whole = job(recipe, name="uninterrupted")
            finished[recipe] = whole, whole.run().checksum()
        return finished[recipe]

    return run


@pytest.fixture
def unet_job(tmp_path, group, real_store):
    """Makes jobs with the recipe's own network."""

    def make(recipe=RECIPE, *, name="job", **options):
        return Job(tmp_path / name, group, real_store, recipe, **options)

    return make


# --- uninterrupted runs ---


def test_a_run_leaves_checkpoints_and_metrics(job, capfd):
    run = job()
    train_state = run.run()
    assert run.steps_saved() == [6, 12]
    losses = run.logged.of("train/step_loss")
    assert [step for step, _ in losses] == list(range(1, 13))
    for epoch, (step, mean) in enumerate(run.logged.of("train/loss")):
        assert step == epoch + 1
        assert mean == pytest.approx(np.mean([loss for _, loss in losses[6 * epoch :][:6]]))
    norms = dict(run.logged.of("train/gradient_norm"))
    assert set(norms) == {1, 2} and all(0 < norm < math.inf for norm in norms.values())
    abs_rel = dict(run.logged.of("val/abs_rel"))
    assert set(abs_rel) == {1, 2} and all(math.isfinite(value) for value in abs_rel.values())
    for epoch, path in enumerate(checkpoints(run.checkpoints), start=1):
        progress = read_progress(path)
        assert progress.metrics["val/abs_rel"] == abs_rel[epoch]
        assert (progress.position.epoch, progress.position.step, progress.loss_sum) == (epoch, 0, 0.0)
    assert 0 <= run.logged.of("perf/data_wait_fraction")[0][1] <= 1
    assert run.logged.of("perf/images_per_s")[0][1] > 0
    with np.load(run.checkpoints / "step-00000012" / MODEL_FILE) as saved:
        np.testing.assert_array_equal(saved["00000"], np.array(train_state.model.weights[0]))
    assert "epoch 2/2: train/loss" in capfd.readouterr().err


def test_a_finished_run_has_nothing_left_to_do(job):
    run = job()
    checksum = run.run().checksum()
    before = dict(run.logged.values)
    assert run.run(kill_before=0).checksum() == checksum
    assert run.logged.values == before


def test_the_averaged_weights_are_validated(job):
    run = job(replace(RECIPE, ema_momentum=0.9))
    seen = []

    def record(train_state, validator):
        sums = validator.sums
        validator.sums = lambda *, beat: (seen.append(np.array(train_state.model.weights[0])), sums(beat=beat))[1]

    run.run(before=record)
    with np.load(run.checkpoints / "step-00000012" / "averaged.npz") as averaged:
        np.testing.assert_array_equal(seen[-1], averaged["00000"])
    with np.load(run.checkpoints / "step-00000012" / MODEL_FILE) as trained:
        assert not np.array_equal(seen[-1], trained["00000"])


def test_only_the_finest_output_is_validated(job):
    run = job(replace(RECIPE, supervised_scales=2, epochs=1))
    run.run()
    assert len(run.logged.of("val/abs_rel")) == 1


def test_only_keep_checkpoints_are_kept(job):
    run = job(checkpoint_every_steps=1, keep_checkpoints=1)
    run.run()
    abs_rel = dict(run.logged.of("val/abs_rel"))
    assert set(run.steps_saved()) == {6 * min(abs_rel, key=lambda epoch: abs_rel[epoch]), 12}


# --- resuming ---

VARIANTS = {
    "average and loss scaling": {"dtype": "mixed_float16", "ema_momentum": 0.9},
    "frozen encoder": {"frozen_encoder_epochs": "all", "ema_momentum": 0.9},
    "frozen epoch": {"frozen_encoder_epochs": 1, "encoder_rate": 0.5},
}


def assert_same_run(job, train_state, wanted):
    """Checks weights and optimizer to the last bit, the loss of every step, and all metrics except speed."""
    other, checksum = wanted
    assert train_state.checksum() == checksum
    names = {name for name, _ in other.logged.values if not name.startswith("perf/")}
    assert {"train/step_loss", "train/loss", "train/gradient_norm", "val/abs_rel", "val/indoors/delta1"} <= names
    for name in names:
        assert job.logged.of(name) == other.logged.of(name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resuming_equals_not_stopping(job, uninterrupted, variant):
    """The run is killed twice, in the middle of the first and of the second epoch."""
    recipe = replace(RECIPE, **VARIANTS[variant])
    stopped = job(recipe, checkpoint_every_steps=2)
    with pytest.raises(Killed):
        stopped.run(kill_before=5)
    assert stopped.steps_saved() == [2, 4]
    with pytest.raises(Killed):
        stopped.run(kill_before=5)
    assert stopped.steps_saved() == [2, 4, 6, 8]
    assert_same_run(stopped, stopped.run(), uninterrupted(recipe))


@pytest.mark.parametrize("kill_before", [1, 6, 11])
def test_a_run_can_be_killed_anywhere(job, uninterrupted, kill_before):
    """Before the first checkpoint, at the end of an epoch, and long after it."""
    stopped = job()
    with pytest.raises(Killed):
        stopped.run(kill_before=kill_before)
    assert stopped.steps_saved() == ([6] if kill_before >= 6 else [])
    # Without a checkpoint it starts again, from the same seed.
    assert_same_run(stopped, stopped.run(), uninterrupted())


def test_an_encoder_frozen_to_the_end_has_no_moments(job, small_network):
    """Its weights are in the checkpoint all the same, at the same places."""
    run = job(replace(RECIPE, frozen_encoder_epochs=2))
    train_state = run.run()
    learnt = {"log_depth/kernel", "log_depth/bias"}
    assert {variable.path for variable in train_state.optimizer.variables if "moment" in variable.path}
    assert not [v.path for v in train_state.optimizer.variables if "small" in v.path]
    fresh = small_network(size=32, seed=RECIPE.seed)
    before = values_of(fresh.weights)
    load_checkpoint(latest_whole(run.checkpoints), model=fresh)
    for variable, was, now in zip(fresh.weights, before, train_state.model.weights, strict=True):
        np.testing.assert_array_equal(variable, now)
        assert np.array_equal(variable, was) == (variable.path not in learnt), variable.path


def test_resuming_the_u_net(unet_job):
    """The recipe's own network, whose initial weights come from the seed that configure_process sets."""
    recipe = replace(RECIPE, epochs=1, ema_momentum=0.9)
    whole = unet_job(recipe, name="uninterrupted")
    stopped = unet_job(recipe, name="stopped", checkpoint_every_steps=4)
    keras.utils.set_random_seed(0)
    checksum = whole.run().checksum()
    keras.utils.set_random_seed(0)
    with pytest.raises(Killed):
        stopped.run(kill_before=5)
    assert stopped.steps_saved() == [4]
    assert_same_run(stopped, stopped.run(), (whole, checksum))


def test_mlflow_has_every_step_once(job, uninterrupted, tmp_path):
    """With the real spool and a real database, across a kill."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    run_log = RunLog(tracking_uri=uri, run_id=client.create_run("0").info.run_id)
    stopped = job(checkpoint_every_steps=2)
    for kill_before in (5, None):
        spool = MetricSpool(tmp_path / "spool", run_log)
        if kill_before:
            with pytest.raises(Killed):
                stopped.run(kill_before=kill_before, spool=spool)
        else:
            stopped.run(spool=spool)
        assert spool.close(60) == 0
    for name in ("train/step_loss", "val/abs_rel"):
        history = client.get_metric_history(run_log.run_id, name)
        assert sorted((metric.step, metric.value) for metric in history) == uninterrupted()[0].logged.of(name)


def test_an_epoch_that_awaits_validation_is_not_trained_again(job, uninterrupted):
    stopped, whole = job(), uninterrupted()[0]

    def die(train_state, validator):
        def sums(*, beat):
            raise Killed

        validator.sums = sums

    with pytest.raises(Killed):
        stopped.run(before=die)
    assert stopped.steps_saved() == [6]
    assert read_progress(stopped.checkpoints / "step-00000006").awaits_validation
    with pytest.raises(Killed):
        stopped.run(kill_before=0)  # Before its first step, so the metrics below come from the checkpoint.
    assert stopped.logged.of("val/abs_rel") == whole.logged.of("val/abs_rel")[:1]
    assert stopped.logged.of("train/loss") == whole.logged.of("train/loss")[:1]
    assert not read_progress(stopped.checkpoints / "step-00000006").awaits_validation
    stopped.run()
    assert stopped.logged.of("val/abs_rel") == whole.logged.of("val/abs_rel")


def test_the_last_epoch_is_validated_after_a_kill(job):
    run = job(replace(RECIPE, epochs=1))

    def die(train_state, validator):
        def sums(*, beat):
            raise Killed

        validator.sums = sums

    with pytest.raises(Killed):
        run.run(before=die)
    run.run(kill_before=0)
    assert [step for step, _ in run.logged.of("val/abs_rel")] == [1]


# --- drains ---


def test_a_drain_writes_checkpoints_in_the_middle_of_an_epoch(job):
    run = job(draining=lambda: True, drain_poll_s=1e-6)
    run.run()
    saved = run.steps_saved()
    assert {6, 12} < set(saved)
    assert any(0 < step < 6 for step in saved) and any(6 < step < 12 for step in saved)
    for path in checkpoints(run.checkpoints):
        progress = read_progress(path)
        assert progress.steps_done == 6 * progress.position.epoch + progress.position.step


def test_a_run_resumes_from_a_checkpoint_of_a_drain(job, uninterrupted):
    drained = job(draining=lambda: True, drain_poll_s=1e-6)
    with pytest.raises(Killed):
        drained.run(kill_before=5)
    assert drained.steps_saved() and max(drained.steps_saved()) < 6
    assert_same_run(drained, drained.run(draining=lambda: False), uninterrupted())


@pytest.mark.parametrize(("drain_poll_s", "is_asked"), [(1e-6, True), (1e9, False)])
def test_without_a_drain_there_are_no_extra_checkpoints(job, drain_poll_s, is_asked):
    asked = []

    def draining():
        asked.append(1)
        return False

    run = job(draining=draining, drain_poll_s=drain_poll_s)
    run.run()
    assert run.steps_saved() == [6, 12]
    assert bool(asked) == is_asked


# --- failures ---


class Changed:
    """A reader that changes batches by `change`, which is called with (number of the read, batch)."""

    def __init__(self, store, change):
        self._reader = SplitReader(store, "train", cache_bytes=0)
        self.image_size = self._reader.image_size
        self.sample_ids, self.group_sizes = self._reader.sample_ids, self._reader.group_sizes
        self._change, self._reads = change, 0

    def __len__(self):
        return len(self._reader)

    def read(self, rows, *, upcoming=()):
        batch = self._reader.read(rows, upcoming=upcoming)
        self._reads += 1
        return self._change(self._reads, batch)


def with_infinite_depth(at_read):
    def change(number, batch):
        if number != at_read:
            return batch
        log_depth = batch.log_depth.copy()
        log_depth[0][batch.valid_mask[0]] = np.inf
        return replace(batch, planes={**batch.planes, "log_depth": log_depth})

    return change


@pytest.mark.parametrize("at_read", [1, 6])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_samples(job, real_store, at_read):
    """Its update reaches no checkpoint, although one is due after every step."""
    run = job(replace(RECIPE, horizontal_flip=False), checkpoint_every_steps=1)
    message = rf"The loss became (inf|nan) in epoch 1, step {at_read}, on the samples 0000.*Lower --learning-rate"
    with pytest.raises(TrainingError, match=message) as caught:
        run.run(reader=Changed(real_store, with_infinite_depth(at_read)))
    named = [part for part in real_store.split_index("train")["sample_id"].to_pylist() if part in str(caught.value)]
    assert len(named) == (4 if at_read < 5 else 3)
    assert run.steps_saved() == list(range(1, at_read))
    for path in checkpoints(run.checkpoints):
        assert_finite(path)


def assert_finite(checkpoint: Path) -> None:
    with np.load(checkpoint / MODEL_FILE) as saved:
        assert all(np.isfinite(saved[name]).all() for name in saved.files)


def test_weights_that_overflow_under_a_finite_loss_are_not_saved(job):
    """The loss belongs to the weights before the update, so it shows the overflow one step late."""
    recipe = replace(RECIPE, optimizer="sgd", weight_decay=0.0, clip_norm=None, schedule="constant", learning_rate=1e38)
    run = job(replace(recipe, loss=(("tutorial", 1e6),)), checkpoint_every_steps=1)
    with pytest.raises(TrainingError, match=r"(loss|weights) .*Lower --learning-rate"):
        run.run()
    for path in checkpoints(run.checkpoints):
        assert_finite(path)


@pytest.mark.parametrize("at_read", [1, 8])
def test_a_store_that_vanishes_ends_the_run_with_its_error(job, uninterrupted, real_store, at_read):
    def vanish(number, batch):
        if number == at_read:
            raise StoreError("The shard x cannot be read: it is gone. Restore it.")
        return batch

    run = job(checkpoint_every_steps=1)
    with pytest.raises(TrainingError, match=r"^The shard x cannot be read: it is gone\. Restore it\.$"):
        run.run(reader=Changed(real_store, vanish))
    assert max(run.steps_saved(), default=0) <= at_read - 1, "an empty batch does not count as a step"
    assert_same_run(run, run.run(), uninterrupted())


def test_a_shard_that_is_damaged_during_the_run_ends_it(job, real_store, tmp_path):
    """Bytes of a real shard change after it was opened, in a copy of the store."""
    shutil.copytree(real_store.files.root, tmp_path / "copy")
    reader = SplitReader(open_store(str(tmp_path / "copy")), "train", cache_bytes=0)
    for shard in tmp_path.glob("copy/split=train/*.parquet"):
        with shard.open("r+b") as handle:
            handle.seek(1000)
            handle.write(b"\x55" * (shard.stat().st_size // 2))
    with pytest.raises(TrainingError, match=r"(?s)The shard .* cannot be read: .*Restore it"):
        job().run(reader=reader)


def test_a_validation_that_fails_ends_the_run(job):
    def break_it(train_state, validator):
        def sums(*, beat):
            raise StoreError("no validation today")

        validator.sums = sums

    run = job()
    with pytest.raises(TrainingError, match=r"^no validation today$"):
        run.run(before=break_it)
    assert run.steps_saved() == [6], "the epoch's training is not lost"
    assert not run.logged.of("val/abs_rel")


@pytest.mark.parametrize("every", [2, None])
def test_a_failed_checkpoint_ends_the_run(job, tmp_path, every):
    run = job(checkpoint_every_steps=every)
    (tmp_path / "job").mkdir()
    run.checkpoints.write_text("in the way")
    with pytest.raises(TrainingError, match=r"The checkpoint .* cannot be written: .*--resume"):
        run.run()


def test_workers_that_drift_apart_end_the_run(job, monkeypatch, group):
    monkeypatch.setattr(group, "gather_texts", lambda text: [text, text and "another"])
    with pytest.raises(TrainingError, match="drifted apart"):
        job().run()
