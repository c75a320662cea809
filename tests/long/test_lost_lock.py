"""A driver that is suspended until another process takes over its job, and a driver that is killed."""

import json
import os
import signal

import psutil
from mlflow import MlflowClient

from depthflow.storage.lock import object_lock
from tests.object_store import serving_bucket
from tests.trainings import PATIENCE_S, workers_of

TOO_MANY = ("--epochs", 2000)


def assert_they_end(workers) -> None:
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive


def test_a_suspended_driver_and_its_workers_leave_the_job_to_the_next(samples, start, tmp_path):
    mlflow = f"sqlite:///{tmp_path}/mlflow.db"
    with serving_bucket("jobs") as client:
        flags = (*TOO_MANY, "--storage", "s3://jobs/runs")
        training = start(samples, tmp_path / "runs", *flags, mlflow=mlflow, own_ray=True)
        training.end_of_first_epoch()
        workers = workers_of(training.process.pid)
        [job] = [str(path).rpartition("/")[0] for path in client.glob("jobs/runs/*/job.json")]
        os.kill(training.process.pid, signal.SIGSTOP)
        with object_lock(client, job, f"s3://{job}", lease_s=1.5) as taken:
            assert_they_end(workers)
            os.kill(training.process.pid, signal.SIGCONT)
            result = training.finish()
            assert result["code"] == 1
            assert f"no longer holds the lock of s3://{job}" in result["error"]
            assert f'"pid": {os.getpid()}' in result["error"], "it says who does"
            taken.check()
            assert json.loads(client.cat_file(f"{job}/job.json"))["finished"] is False
    assert MlflowClient(mlflow, mlflow).search_model_versions() == []


def test_the_workers_of_a_killed_driver_end_too(samples, start, tmp_path):
    """Ray runs on, as a cluster does."""
    training = start(samples, tmp_path / "runs", *TOO_MANY, mlflow=f"sqlite:///{tmp_path}/mlflow.db")
    training.end_of_first_epoch()
    workers = workers_of(os.getpid())  # The tests' process has started Ray.
    training.process.kill()
    assert_they_end(workers)
