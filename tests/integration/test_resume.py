"""A run that is cut off, however, goes on from its checkpoint and ends as if nothing had happened, to the last bit."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

from depthflow.command import last_json_line
from depthflow.training.checkpoint import MODEL_FILE, OPTIMIZER_FILE, latest_whole, read_progress

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS_PER_EPOCH = 6, 5
STEPS = EPOCHS * STEPS_PER_EPOCH
PATIENCE_S = 240
"""Of a test with a run that does not come on, on a machine that does other things, too."""
WORKER = r"RayTrainWorker pid=(\d+)"
FIRST_WORKER = WORKER + r".* (?:training steps|epoch \d+/\d+): "
"""Only worker 0 says how far it is."""


class Training:
    """`train.py smoke` on two workers as a user runs it; what it prints is read all the time.

    Args:
        samples: the store.
        storage: its folder for checkpoints.
        flags: more of the command's.
        mlflow: the tracking URI.
        own_ray: with a Ray that dies with it, as on a laptop; else it joins the tests' one.
        env: more of its environment.
    """

    def __init__(
        self,
        samples: Path,
        storage: Path,
        *flags: object,
        mlflow: str,
        own_ray: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.storage, self.lines = storage, list[str]()
        fixed = ("--samples", samples, "--storage", storage, "--epochs", EPOCHS, "--global-batch-size", 6)
        command = [sys.executable, ROOT / "pipelines" / "train.py", "smoke", *fixed, "--num-workers", 2, *flags]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow, "PYTHONUNBUFFERED": "1", **(env or {})}
        if own_ray:
            environment.pop("RAY_ADDRESS", None)
        storage.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=storage,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def checkpoints(self) -> Path:
        """Of the only job in the storage."""
        found = [*self.storage.glob("*/checkpoints")]
        return found[0] if found else self.storage / "none" / "checkpoints"

    def steps(self) -> list[int]:
        """Of the finished checkpoints."""
        there = [path.name for path in self.checkpoints.iterdir()] if self.checkpoints.exists() else []
        return sorted(int(name.removeprefix("step-")) for name in there if name.startswith("step-"))

    def wait_until(self, there: Callable[[], Any]) -> Any:
        """What `there` returns once it is something; the run must not end before."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = there()
            if found:
                return found
            assert self.process.poll() is None, f"it ended too early:\n{self.output[-4000:]}"
            assert time.monotonic() < deadline, f"it does not come on:\n{self.output[-4000:]}"
            time.sleep(0.002)

    def started(self) -> int:
        """How many workers have been started, as far as they have said anything."""
        return len({*re.findall(WORKER, self.output)})

    def first_workers(self) -> list[int]:
        """Pids of those that were worker 0, one after the other."""
        return [int(pid) for pid in dict.fromkeys(re.findall(FIRST_WORKER, self.output))]

    def end_of_first_epoch(self) -> int:
        """Waits for it; the pid of worker 0."""
        self.wait_until(lambda: re.search(rf"{WORKER}.* epoch 1/\d+: train/loss", self.output))
        return self.first_workers()[-1]

    def finish(self) -> dict[str, Any]:
        """Its result, when it has ended; `code` is among it."""
        self.process.wait(timeout=PATIENCE_S)
        self._reading.join(timeout=10)
        result = last_json_line(self.output)
        assert result is not None, self.output[-4000:]
        return {**result, "code": self.process.returncode}

    def succeed(self) -> dict[str, Any]:
        """Its result; it must have ended well."""
        result = self.finish()
        assert result["code"] == 0, self.output[-4000:]
        return result

    def cut_off(self) -> None:
        """As a power cut does: the driver, its Ray and its workers at once."""
        everything = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in everything:
            process.kill()
        psutil.wait_procs(everything, timeout=10)

    def end(self) -> None:
        """Leaves nothing behind, whatever the test came to."""
        if self.process.poll() is None:
            self.cut_off()


@pytest.fixture
def start():
    """Starts trainings that end with the test."""
    started = []

    def start(*arguments: Any, **options: Any) -> Training:
        started.append(Training(*arguments, **options))
        return started[-1]

    yield start
    for training in started:
        training.end()


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of this run of all tests, and whether it is to be made in the block; whoever comes meanwhile waits."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = folder.with_suffix(".whole")
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # Of one who failed.
        yield folder, not whole.exists()
        whole.touch()


@pytest.fixture(scope="session")
def samples(run, tmp_path_factory, write_triplet) -> Path:
    """A store of 30 samples to train on and 10 to validate; one for all files that train, whichever asks first."""
    with made_once(tmp_path_factory, "training-samples") as (folder, to_be_made):
        if to_be_made:
            for scene in range(4):
                for view in range(10):
                    write_triplet(folder / "tree", split="val" if scene == 3 else "train", scene=scene, view=view)
            size = ("--height", 64, "--width", 64)
            done = run("preprocess", "--source", "tree", "--out", "store", *size, cwd=folder)
            assert done.code == 0
    return folder / "store"


@pytest.fixture(scope="session")
def undisturbed(samples, tmp_path_factory) -> Path:
    """The last checkpoint of a run that nobody disturbed, made once likewise."""
    with made_once(tmp_path_factory, "training-undisturbed") as (folder, to_be_made):
        if to_be_made:
            training = Training(samples, folder, mlflow=f"sqlite:///{folder}/mlflow.db")
            try:
                result = training.succeed()
            finally:
                training.end()
            assert_logged_once(f"sqlite:///{folder}/mlflow.db", result["run_id"])
    [checkpoint] = folder.glob(f"*/checkpoints/step-{STEPS:08d}")
    return checkpoint


def assert_same_end(training: Training, undisturbed: Path) -> None:
    """Weights and optimizer after the last step are those of a run that nobody disturbed."""
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        with (
            np.load(undisturbed / name) as expected,
            np.load(training.checkpoints / f"step-{STEPS:08d}" / name) as got,
        ):
            assert got.files == expected.files
            for key in expected.files:
                np.testing.assert_array_equal(got[key], expected[key])
    disturbed, whole = read_progress(training.checkpoints / undisturbed.name), read_progress(undisturbed)
    assert disturbed.metrics["val/abs_rel"] == whole.metrics["val/abs_rel"]
    assert disturbed.metrics["train/loss"] == whole.metrics["train/loss"]


def assert_logged_once(uri: str, run_id: str) -> None:
    """MLflow has one run, finished, and in it each step of each metric exactly once."""
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("depthflow")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    counts = {name: Counter(m.step for m in client.get_metric_history(run_id, name)) for name in run.data.metrics}
    assert counts["train/step_loss"] == Counter(range(1, STEPS + 1))
    for name in ("train/loss", "val/abs_rel", "val/indoors/delta1", "system/node0/cpu_percent"):
        assert counts[name] == Counter(range(1, EPOCHS + 1)), name
    assert {name: steps for name, steps in counts.items() if max(steps.values()) > 1} == {}


@pytest.mark.slow
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
    assert done.result["error"] == f"There is no unfinished job in {tmp_path}/runs. Run without --resume to begin one."
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
    assert done.code == 1 and "cannot be taken" in done.result["error"]
