"""Faults that end a step, a node or a run: a worker that hangs, numbers that overflow, a lost store, a drained node."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from depthflow.store.store import open_store
from tests.trainings import EPOCHS, STEPS_PER_EPOCH, WORKER, assert_same_end, workers_of


@pytest.fixture
def mlflow(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def freeze():
    """Stops a process's computing threads alone: it hangs, but answers. Whoever traces them ends with the test."""
    tracers: list[subprocess.Popen] = []

    def freeze_process(pid: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("freeze_threads.py")), str(pid), "tf_Compute"]
        tracer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        tracers.append(tracer)
        assert tracer.stdout is not None and tracer.stderr is not None
        if not (stopped := tracer.stdout.readline()):
            pytest.skip(f"no thread can be frozen here: {tracer.stderr.read().splitlines()[-1]}")
        assert int(stopped) > 0

    yield freeze_process
    for tracer in tracers:
        tracer.kill()
        tracer.wait()


def test_worker_that_hangs_is_made_good(samples, undisturbed, start, mlflow, freeze, tmp_path):
    """It answers TensorFlow's and Ray's heartbeats and never comes to the collective that the other waits in."""
    flags = ("--step-timeout-s", 60, "--max-failures", 2)  # Less, and a busy machine compiles for longer.
    training = start(samples, tmp_path / "runs", *flags, mlflow=mlflow, own_ray=True)
    first = training.end_of_first_epoch()
    [hanging] = training.wait_until(lambda: {worker.pid for worker in workers_of(training.process.pid)} - {first})
    freeze(hanging)
    training.succeed()
    assert "longer than --step-timeout-s" in training.output
    assert len(training.first_workers()) == 2, "all were started anew, once"
    assert not psutil.pid_exists(hanging), "Ray has ended it"
    assert_same_end(training, undisturbed)


def test_loss_that_overflows_ends_the_run_at_once(run, samples, tmp_path):
    flags = ("--samples", samples, "--storage", "runs", "--epochs", EPOCHS, "--num-workers", 2)
    rate = ("--optimizer", "sgd", "--learning-rate", 1e30, "--loss", "tutorial", 1)  # Squares of 1e30 are no float32.
    done = run("train", "smoke", *flags, *rate, cwd=tmp_path, env={"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"})
    assert done.code == 1
    said = re.search(
        r"The loss became (nan|inf) in epoch 1, step \d+, on the samples (.*)\. Lower", done.result["error"]
    )
    assert said, done.result["error"]
    assert {*said[2].split(", ")} <= {*open_store(str(samples)).split_index("train")["sample_id"].to_pylist()}
    assert len({*re.findall(WORKER, done.stdout + done.stderr)}) <= 2, "a retry would not mend it"
    printed = done.stdout + done.stderr  # Tracebacks that Ray prints of its own as it ends are not meant.
    assert not re.search(r'File ".*/depthflow/training/', printed)


@pytest.fixture
def own_samples(samples, tmp_path) -> Path:
    """A copy of the store, to be broken."""
    return Path(shutil.copytree(samples, tmp_path / "store"))


def test_store_that_vanishes_is_told_and_not_retried(own_samples, start, mlflow, tmp_path):
    """What workers have mapped stays readable; who is made good after it is gone cannot open it."""
    flags = ("--cache-gib", 0, "--max-failures", 5)
    training = start(own_samples, tmp_path / "runs", *flags, mlflow=mlflow)
    first = training.end_of_first_epoch()
    (own_samples / "split=train").rename(tmp_path / "elsewhere")
    os.kill(first, signal.SIGKILL)
    result = training.finish()
    assert result["code"] == 1
    assert re.search(
        r"The shard split=train/part-00000.parquet of .*/store cannot be read.*Restore it", result["error"]
    )
    assert training.started() <= 4 and training.first_workers() == [first], "two were made good, and did not train"


def test_shard_that_breaks_ends_all_workers(own_samples, start, mlflow, tmp_path):
    """One worker finds zeros where a row group was; the other, which does not, hears of it with the next step.

    The store has two row groups, and an epoch deals them anew: sooner or later a worker reads one that it has let go.
    """
    training = start(own_samples, tmp_path / "runs", "--cache-gib", 0, "--epochs", 100, mlflow=mlflow)
    training.end_of_first_epoch()
    with (own_samples / "split=train" / "part-00000.parquet").open("r+b") as shard:
        shard.write(bytes(os.fstat(shard.fileno()).st_size))
    result = training.finish()
    assert result["code"] == 1
    assert "The shard split=train/part-00000.parquet of" in result["error"] and "Restore it" in result["error"]
    assert training.started() <= 2, "a retry would not mend it"


# --- a node that is drained ---


@pytest.fixture
def cluster(monkeypatch):
    """A Ray of its own with two nodes of one CPU each, for commands; this process stays with the tests' one."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


def test_drained_node_is_no_failure(samples, start, cluster, mlflow, tmp_path):
    """It is announced, a checkpoint is written in the middle of an epoch, and the workers go on where there is room."""
    node = cluster.add_node(num_cpus=1)
    patience = ("--drain-poll-s", 0.01, "--max-failures", 0)
    often = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
    training = start(samples, tmp_path / "runs", *patience, "--epochs", 60, mlflow=mlflow, env=often)
    training.wait_until(training.first_workers)
    cluster.add_node(num_cpus=1)  # What is left, after the drain, has room for two workers.
    first = training.end_of_first_epoch()
    drain(cluster, node.node_id, seconds=3)
    training.wait_until(lambda: any(step % STEPS_PER_EPOCH for step in training.steps()))
    training.wait_until(lambda: training.first_workers()[-1] != first)
    cluster.remove_node(node)
    training.succeed()
    assert len(training.first_workers()) == 2


def drain(cluster: Cluster, node_id: str, *, seconds: int) -> None:
    """What an autoscaler does when its cloud announces that it takes a node away."""
    why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test")
    where = ("--address", cluster.address, "--node-id", node_id, "--deadline-remaining-seconds", str(seconds))
    ray_command = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray_command, "drain-node", *where, *why], check=True, capture_output=True, timeout=120)
