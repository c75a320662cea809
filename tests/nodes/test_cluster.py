"""Commands as jobs on a cluster of several nodes, some of which die. Each node is a separate `ray start`.

Stores, images and checkpoints are on an S3 server, MLflow is an HTTP server, and every request carries a token.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from depthflow.command import last_json_line
from depthflow.store.store import open_store
from depthflow.synthetic.synthesize import synthesize
from tests.mlflow_server import MlflowServer
from tests.object_store import serving_bucket
from tests.ray_nodes import RayNodes

ROOT = Path(__file__).resolve().parents[2]
JOB_S = 600.0
EPOCHS = 40
"""Enough for the training to be still running when its node is lost: an epoch takes half a second."""
SMALL = ("--height", 64, "--width", 64)


class Cluster:
    """Client of a cluster with a head, a data node and a training node.

    Args:
        nodes: The started nodes.
        folder: Working directory of the client.
        mlflow: MLflow tracking URI.
    """

    def __init__(self, nodes: RayNodes, folder: Path, mlflow: str) -> None:
        self.nodes, self._folder = nodes, folder
        self._env = {**nodes.env, "MLFLOW_TRACKING_URI": mlflow}

    def start(self, *words: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts `submit.py` with these arguments."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "pipelines" / "submit.py"), *map(str, words)],
            cwd=self._folder,
            env={**self._env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, submitted: subprocess.Popen[str], *, code: int = 0) -> dict[str, Any]:
        """Waits for the job, checks its exit code and returns its result."""
        stdout, stderr = submitted.communicate(timeout=JOB_S)
        assert submitted.returncode == code, f"{stdout[-1000:]}\n{stderr[-6000:]}"
        result = last_json_line(stdout.strip().splitlines()[-1])
        assert result is not None
        return result

    def run(self, *words: object, code: int = 0) -> dict[str, Any]:
        """Submits a command, waits for it and returns its result."""
        return self.wait(self.start(*words), code=code)


@pytest.fixture(scope="module")
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    with serving_bucket("bucket") as files:
        yield files


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory) -> Iterator[str]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    server.wait()
    yield server.uri
    server.kill()


@pytest.fixture(scope="module")
def cluster(bucket, mlflow, tmp_path_factory) -> Iterator[Cluster]:
    nodes = RayNodes({})
    try:
        nodes.start("head", num_cpus=1, role="head")
        nodes.start("data", num_cpus=2, role="data")
        nodes.start("train", num_cpus=3, role="train")
        yield Cluster(nodes, tmp_path_factory.mktemp("client"), mlflow)
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def tree(bucket, tmp_path_factory) -> str:
    """A mini-DIODE in the bucket."""
    folder = tmp_path_factory.mktemp("mini") / "tree"
    synthesize(out=folder, scans=4, samples_per_scan=12, height=64, width=64, seed=0, val_fraction=0.5)
    bucket.put(str(folder), "bucket/tree", recursive=True)
    return "s3://bucket/tree"


def test_the_whole_chain_as_jobs(cluster, tree, mlflow, bucket):
    stored = cluster.run("preprocess", "--source", tree, "--out", "s3://bucket/samples", *SMALL)
    assert (stored["samples"], stored["rejects"], stored["job_status"]) == (48, 0, "SUCCEEDED")
    trained = cluster.run(
        *("train", "smoke", "--samples", "s3://bucket/samples", "--storage", "s3://bucket/runs"),
        *("--epochs", 2, "--num-workers", 2, "--global-batch-size", 8),
    )
    assert trained["model_uri"] == "models:/depthflow/1" and trained["unlogged"] == 0
    assert bucket.glob("bucket/runs/*/checkpoints/step-*/checkpoint.json")
    pool = ("--model", "models:/depthflow@challenger", "--num-workers", 1)
    evaluated = cluster.run("evaluate", *pool, "--samples", "s3://bucket/samples", "--out", "s3://bucket/evaluation")
    assert bucket.size("bucket/evaluation/report.html") > 100_000
    assert evaluated["samples"] == 24 and set(evaluated["metrics"]) == {"all", "indoors", "outdoor"}
    promoted = cluster.run("promote", "--samples", "s3://bucket/samples", "--force", "--reason", "two epochs are few")
    assert (promoted["decision"], promoted["champion"]) == ("forced", "1")
    predicted = cluster.run(
        *("predict", "--model", "models:/depthflow@champion", "--images", f"{tree}/val/indoors"),
        *("--out", "s3://bucket/depth", "--files", "npy", "--num-workers", 1),
    )
    assert predicted["images"] == 12 and len(bucket.glob("bucket/depth/*.depth.npy")) == 12


def test_a_node_is_lost_during_preprocessing(cluster, tree, bucket):
    """The store equals that of an undisturbed run."""
    flags = ("--seed", 1, "--shard-mib", 1)
    undisturbed = cluster.run("preprocess", "--source", tree, "--out", "s3://bucket/whole", *SMALL, *flags)
    cluster.nodes.start("more", num_cpus=1, role="data")
    submitted = cluster.start("preprocess", "--source", tree, "--out", "s3://bucket/torn", *SMALL, *flags)
    wait_for_file(bucket, "bucket/torn/split=*/*.parquet", submitted)
    cluster.nodes.kill("data")
    torn = cluster.wait(submitted)
    assert torn["samples"] == 48 and torn["fingerprint"] == undisturbed["fingerprint"]
    one, other = (open_store(f"s3://bucket/{name}").manifest["shards"] for name in ("whole", "torn"))
    assert one == other, "shards are lost or were made twice"
    cluster.nodes.start("data", num_cpus=2, role="data")
    cluster.nodes.kill("more")
    cluster.nodes.wait_until_alive()


def test_a_node_is_lost_during_training(cluster, bucket):
    """Workers restart from the latest checkpoint on the replacement node."""
    submitted = cluster.start(
        *("train", "smoke", "--samples", "s3://bucket/samples", "--storage", "s3://bucket/lost", "--epochs", EPOCHS),
        *("--num-workers", 2, "--global-batch-size", 8, "--model-name", "survivor", "--max-failures", 3),
    )
    manifests = "bucket/lost/*/checkpoints/step-*/checkpoint.json"
    wait_for_file(bucket, manifests, submitted)
    cluster.nodes.kill("train")
    cluster.nodes.start("train", num_cpus=3, role="train")
    trained = cluster.wait(submitted)
    assert trained["model_uri"] == "models:/survivor/1" and trained["unlogged"] == 0
    last = json.loads(bucket.cat_file(max(bucket.glob(manifests))))
    assert last["position"]["epoch"] == EPOCHS and last["steps_done"] == EPOCHS * 3


def wait_for_file(bucket: fsspec.AbstractFileSystem, pattern: str, submitted: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + JOB_S
    while not found(bucket, pattern):
        assert submitted.poll() is None, submitted.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def found(bucket: fsspec.AbstractFileSystem, pattern: str) -> list[str]:
    """Returns the matching files; none if the folder above the first wildcard does not exist."""
    try:
        return bucket.glob(pattern)
    except FileNotFoundError:
        return []
