"""Checkpoints beside the training: in order, their errors told, and time counted only while training waits."""

import threading
import time

import numpy as np
import pytest

from depthflow.errors import TrainingError
from depthflow.store.read.share import Position
from depthflow.training import saver as saver_module
from depthflow.training.checkpoint import Snapshot, TrainingProgress, checkpoints, read_progress
from depthflow.training.kept_checkpoints import KeptCheckpoints
from depthflow.training.saver import CheckpointSaver


def progress(steps, **metrics):
    return TrainingProgress(position=Position(seed=0, epoch=steps), steps_done=steps, metrics=metrics)


def snapshot():
    return Snapshot(model=[np.ones(3, np.float32)], optimizer=[np.zeros((), np.int64)])


def nothing():
    pass


@pytest.fixture
def saver(tmp_path):
    return CheckpointSaver(KeptCheckpoints(tmp_path / "checkpoints"), keep=1)


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing waits for an event; returns it, and a list of what was done."""
    may_write, done = threading.Event(), []
    write, annotate = saver_module.write_checkpoint, saver_module.annotate_checkpoint

    def slow_write(root, taken, where):
        assert may_write.wait(60)
        done.append(("write", where.steps_done))
        return write(root, taken, where)

    def noted_annotate(root, where):
        done.append(("annotate", where.steps_done))
        annotate(root, where)

    monkeypatch.setattr(saver_module, "write_checkpoint", slow_write)
    monkeypatch.setattr(saver_module, "annotate_checkpoint", noted_annotate)
    yield may_write, done
    may_write.set()


def test_first_comes_before_the_checkpoint_counts(saver, tmp_path):
    """Killed in between, a run logs anew what it has logged; the other way round it would never log it."""
    seen = []

    def look():
        seen.append([(path.name, dict(read_progress(path).metrics)) for path in checkpoints(tmp_path / "checkpoints")])

    saver.save(snapshot, progress(1), first=look)
    saver.annotate(progress(1, **{"val/abs_rel": 0.5}), first=look)
    saver.wait()
    assert seen == [[], [("step-00000001", {})]]


def test_all_is_done_in_the_order_it_was_handed_over(saver, slow_disk):
    may_write, done = slow_disk
    saver.save(snapshot, progress(1), first=lambda: done.append(("first", 1)))
    saver.annotate(progress(1, **{"val/abs_rel": 0.5}), first=lambda: done.append(("first again", 1)))
    assert ("write", 1) not in done  # Neither waits for the disk.
    may_write.set()
    saver.save(snapshot, progress(2), first=lambda: done.append(("first", 2)))
    saver.wait()
    assert done == [("first", 1), ("write", 1), ("first again", 1), ("annotate", 1), ("first", 2), ("write", 2)]


def test_what_is_written_is_of_the_moment_of_saving(saver, slow_disk, tmp_path):
    may_write, _ = slow_disk
    weights = np.ones(3, np.float32)
    saver.save(lambda: Snapshot(model=[weights.copy()], optimizer=[]), progress(1), first=nothing)
    weights += 1  # Training goes on.
    may_write.set()
    saver.wait()
    with np.load(tmp_path / "checkpoints/step-00000001/model.npz") as saved:
        assert saved["00000"].tolist() == [1, 1, 1]


def test_no_more_than_it_should_keep_is_kept(saver, tmp_path):
    for steps, abs_rel in ((1, 0.5), (2, 0.3), (3, 0.4), (4, 0.6)):
        saver.save(snapshot, progress(steps), first=nothing)
        saver.annotate(progress(steps, **{"val/abs_rel": abs_rel}), first=nothing)
    saver.wait()
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step-00000002", "step-00000004"]


# --- errors ---


@pytest.fixture
def broken(tmp_path):
    """A saver whose folder is a file."""
    (tmp_path / "file").write_text("in the way")
    return CheckpointSaver(KeptCheckpoints(tmp_path / "file"), keep=1)


TOLD = r"The checkpoint .*step-00000001 cannot be written: .*--resume"


def test_an_error_comes_out_at_the_next_save(broken):
    broken.save(snapshot, progress(1), first=nothing)
    with pytest.raises(TrainingError, match=TOLD):
        broken.save(snapshot, progress(2), first=nothing)


def test_an_error_comes_out_of_waiting_once(broken):
    broken.save(snapshot, progress(1), first=nothing)
    with pytest.raises(TrainingError, match=TOLD):
        broken.wait()
    broken.wait()


def test_a_failed_annotation_is_reported(saver, tmp_path):
    saver.annotate(progress(1, **{"val/abs_rel": 0.5}), first=nothing)  # Of a checkpoint that is not there.
    with pytest.raises(TrainingError, match="step-00000001 cannot be written"):
        saver.wait()


def test_an_error_of_first_is_reported(saver):
    def fails():
        raise TrainingError("no room for metrics")

    saver.save(snapshot, progress(1), first=fails)
    with pytest.raises(TrainingError, match="no room for metrics"):
        saver.wait()


# --- time ---


def test_the_writer_does_not_stop_the_training(saver, slow_disk):
    """The disk is at it until the event: handing over waits for the copy alone."""
    may_write, _ = slow_disk
    began = time.monotonic()
    saver.save(snapshot, progress(1), first=nothing)
    assert time.monotonic() - began < 0.3
    may_write.set()
    saver.wait()


def test_waiting_for_the_copy_and_for_the_disk_counts(saver, slow_disk):
    may_write, _ = slow_disk

    def slow_copy():
        time.sleep(0.2)
        return snapshot()

    began = time.monotonic()
    saver.save(slow_copy, progress(1), first=nothing)
    assert 0.2 <= time.monotonic() - began < 5
    threading.Timer(0.3, may_write.set).start()
    began = time.monotonic()
    saver.save(snapshot, progress(2), first=nothing)
    assert 0.25 <= time.monotonic() - began < 10
    saver.wait()
