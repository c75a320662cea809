"""Training runs that tests start, kill and compare with a run that was left alone."""

import fcntl
import os
import re
import shutil
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
from depthflow.training.checkpoint import MODEL_FILE, OPTIMIZER_FILE, read_progress

ROOT = Path(__file__).resolve().parent.parent
EPOCHS, STEPS_PER_EPOCH = 6, 5
STEPS = EPOCHS * STEPS_PER_EPOCH
PATIENCE_S = 240
"""Of a test with a run that does not come on, on a machine that does other things, too."""
WORKER = r"RayTrainWorker pid=(\d+)"
FIRST_WORKER = WORKER + r".* (?:training steps|epoch \d+/\d+): "
"""Only worker 0 says how far it is."""


class Training:
    """`train.py RECIPE` on two workers as a user runs it; what it prints is read all the time.

    Args:
        samples: the store.
        storage: its folder for checkpoints.
        flags: more of the command's.
        mlflow: the tracking URI.
        recipe: its name.
        own_ray: with a Ray that dies with it, as on a laptop; else it joins the tests' one.
        env: more of its environment.
    """

    def __init__(
        self,
        samples: Path,
        storage: Path,
        *flags: object,
        mlflow: str,
        recipe: str = "smoke",
        own_ray: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.storage, self.lines = storage, list[str]()
        fixed = ("--samples", samples, "--storage", storage, "--epochs", EPOCHS, "--global-batch-size", 6)
        command = [sys.executable, ROOT / "pipelines" / "train.py", recipe, *fixed, "--num-workers", 2, *flags]
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


def workers_of(root: int) -> list[psutil.Process]:
    """The training workers among a process's descendants."""
    there = psutil.Process(root).children(recursive=True)
    return [process for process in there if process.name().startswith("ray::RayTrainWo")]


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
