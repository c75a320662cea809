"""A worker that is killed is made good: the run goes on from its checkpoint and ends as if nothing had happened."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from depthflow.command import last_json_line
from depthflow.training.checkpoint import MODEL_FILE, OPTIMIZER_FILE

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 6


@pytest.fixture
def store(run, tmp_path, write_triplet):
    for scene in range(4):
        for view in range(10):
            write_triplet(tmp_path / "tree", split="val" if scene == 3 else "train", scene=scene, view=view)
    done = run("preprocess", "--source", "tree", "--out", "store", "--height", 64, "--width", 64, cwd=tmp_path)
    assert done.code == 0
    return tmp_path / "store"


def start_training(store: Path, name: str) -> subprocess.Popen[str]:
    flags = ["--samples", store, "--storage", store.parent / name, "--epochs", EPOCHS, "--global-batch-size", 6]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store.parent}/{name}.db", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "pipelines" / "train.py"), "smoke", *map(str, flags), "--num-workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=store.parent,
    )


def finish(process: subprocess.Popen[str]) -> dict:
    output, _ = process.communicate(timeout=300)
    result = last_json_line(output)
    assert process.returncode == 0, output[-3000:]
    assert result is not None
    return result


def kill_a_worker_after_its_first_epoch(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said = re.search(r"RayTrainWorker pid=(\d+).*epochs: [1-5]/", line)
        if said:
            os.kill(int(said[1]), signal.SIGKILL)
            return
    raise AssertionError("training ended before its first epoch was reported")


def test_a_killed_worker_changes_nothing(store):
    undisturbed = finish(start_training(store, "undisturbed"))
    process = start_training(store, "killed")
    kill_a_worker_after_its_first_epoch(process)
    killed = finish(process)
    assert killed["metrics"]["val/abs_rel"] == undisturbed["metrics"]["val/abs_rel"]
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        with (
            np.load(Path(undisturbed["checkpoint"]) / name) as expected,
            np.load(Path(killed["checkpoint"]) / name) as got,
        ):
            for key in expected.files:
                np.testing.assert_array_equal(got[key], expected[key])
