"""A training run that is interrupted, in whatever way, resumes from its checkpoint and ends bit-identical."""

import fcntl
import json
import os
import signal

import pytest

from depthflow.training.checkpoint import latest_whole, read_progress
from tests.trainings import STEPS, STEPS_PER_EPOCH, assert_logged_once, assert_same_end
from tests.view_trees import write_table, write_video


def test_killed_worker_and_cut_off_run_change_nothing(samples, undisturbed, start, tmp_path):
    """A worker is killed after its first epoch and made good; in the middle of an epoch all is cut off, and resumed."""
    mlflow = f"sqlite:///{tmp_path}/mlflow.db"
    flags = ("--checkpoint-every-steps", 3, "--max-failures", 1)
    training = start(samples, tmp_path / "runs", *flags, mlflow=mlflow, own_ray=True)
    first = training.end_of_first_epoch()
    os.kill(first, signal.SIGKILL)
    training.wait_until(lambda: training.first_workers()[-1] != first)
    halfway = training.wait_until(lambda: [k for k in training.steps() if k >= 3 * STEPS_PER_EPOCH + 1])
    training.cut_off()
    print("cut off after the checkpoint of step", halfway)
    latest = read_progress(latest_whole(training.checkpoints))
    assert latest.position.step > 0, "in the middle of an epoch"
    run_id = json.loads((training.checkpoints.parent / "job.json").read_text())["run_id"]

    training = start(samples, tmp_path / "runs", *flags, "--resume", mlflow=mlflow)
    result = training.succeed()
    assert result["run_id"] == run_id
    assert_logged_once(mlflow, run_id)
    assert_same_end(training, undisturbed)
    assert [*training.checkpoints.glob(".tmp-*")] == []


@pytest.fixture(scope="module")
def walks(run, tmp_path_factory):
    """A store of kind video with 30 samples to train on and 10 to validate."""
    folder, rows = tmp_path_factory.mktemp("walks"), []
    for split, count in (("train", 30), ("val", 10)):  # The first and the last frame have one neighbour.
        rows += write_video(folder / "frames", count + 2, scans=(split,), split=split)
    write_table(folder / "frames", rows)
    flags = ("--kind", "video", "--height", 64, "--width", 64)
    assert run("preprocess", "--source", "frames", "--out", "store", *flags, cwd=folder).code == 0
    return folder / "store"


def test_a_video_training_that_is_killed_and_cut_off_ends_the_same(walks, start, tmp_path):
    """With the pose network, its average, and metres from the distances of the cameras."""
    mlflow = f"sqlite:///{tmp_path}/mlflow.db"
    learned = ("--objective", "video", 1, "--scale-from", "velocity", "--ema-momentum", 0.9)
    whole = start(walks, tmp_path / "whole", *learned, mlflow=f"sqlite:///{tmp_path}/whole.db")
    wanted = whole.succeed()

    flags = (*learned, "--checkpoint-every-steps", 3, "--max-failures", 1)
    training = start(walks, tmp_path / "runs", *flags, mlflow=mlflow, own_ray=True)
    first = training.end_of_first_epoch()
    os.kill(first, signal.SIGKILL)
    training.wait_until(lambda: training.first_workers()[-1] != first)
    training.wait_until(lambda: [k for k in training.steps() if k >= 3 * STEPS_PER_EPOCH + 1])
    training.cut_off()

    training = start(walks, tmp_path / "runs", *flags, "--resume", mlflow=mlflow)
    result = training.succeed()
    assert_logged_once(mlflow, result["run_id"])
    assert_same_end(training, whole.checkpoints / f"step-{STEPS:08d}")
    metres = "train/metres_per_unit"
    assert result["metrics"][metres] == wanted["metrics"][metres]


@pytest.fixture
def unfinished(run, samples, tmp_path):
    """A job that was begun and failed before its first step: no Ray has so many CPUs."""
    flags = ("smoke", "--samples", samples, "--storage", "runs", "--epochs", 3)
    done = run("train", *flags, "--num-workers", 1000, cwd=tmp_path)
    assert done.code == 1 and "Lower --num-workers" in done.result["error"]
    return flags


def test_nothing_to_resume(run, samples, tmp_path):
    flags = ("smoke", "--samples", samples, "--storage", "runs", "--resume")
    done = run("train", *flags, cwd=tmp_path)
    assert done.code == 1
    assert done.result["error"] == f"There is no unfinished job in {tmp_path}/runs. Run without --resume to start one."
    assert not (tmp_path / "runs").exists()


def test_job_of_another_recipe_is_not_resumed(run, unfinished, tmp_path):
    done = run("train", *unfinished, "--learning-rate", 0.5, "--resume", cwd=tmp_path)
    assert done.code == 1
    assert "differs: learning_rate 0.003 there, 0.5 here" in done.result["error"]
    assert len([*(tmp_path / "runs").glob("smoke-*")]) == 1


def test_job_that_another_process_is_at_is_not_resumed(run, unfinished, tmp_path):
    [folder] = (tmp_path / "runs").glob("smoke-*")
    with (folder / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("train", *unfinished, "--resume", cwd=tmp_path)
    assert done.code == 1 and "cannot be locked" in done.result["error"]
