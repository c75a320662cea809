"""Real nodes with labels, and storage in a bucket: work runs on the nodes that are for it, and nothing is lost.

Where a task or a worker ran is what Ray's own record of it says.
"""

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import ray
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks

from depthflow.cluster.session import ray_session
from depthflow.errors import PlacementError
from depthflow.placement import ROLE_LABEL, alive_nodes, cluster_capacity, plan_training
from depthflow.recipes import smoke
from depthflow.registry.runs import mlflow_run
from depthflow.registry.spool import replay
from depthflow.store.store import open_store
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import preprocess
from depthflow.training.config import TrainJob
from depthflow.training.job import open_job
from depthflow.training.trainer import train
from tests.object_store import serving_bucket

BUCKET = "cluster"
STORE, RUNS = f"s3://{BUCKET}/store", f"s3://{BUCKET}/runs"
EPOCHS = 6
PATIENCE_S = 400
"""On a machine that does other things, too."""


@pytest.fixture(scope="module")
def bucket():
    """The client of an S3 server, which processes that are started from now on find in their environment, too."""
    with serving_bucket(BUCKET) as client:
        yield client


@pytest.fixture(scope="module")
def cluster(bucket):
    """A head without CPUs, where the driver is, one CPU for data and two for training."""
    ray.shutdown()
    before = os.environ.pop("RAY_ADDRESS", None)
    head = {"num_cpus": 0, "labels": {ROLE_LABEL: "head"}, "include_dashboard": True}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for role, num_cpus in (("data", 1), ("train", 2)):
            cluster.add_node(num_cpus=num_cpus, labels={ROLE_LABEL: role})
        os.environ["RAY_ADDRESS"] = cluster.address
        with ray_session():
            yield cluster
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        cluster.shutdown()
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


def nodes_for(role):
    return {node["NodeID"] for node in ray.nodes() if node["Labels"][ROLE_LABEL] == role}


def test_preprocessing_runs_on_nodes_for_data(cluster, tmp_path, write_triplet):
    """There are more tasks than CPUs for them, and idle CPUs elsewhere."""
    assert sorted(node.labels[ROLE_LABEL] for node in alive_nodes()) == ["data", "head", "train"]
    for view in range(16):
        write_triplet(tmp_path / "tree", split="val" if view < 4 else "train", view=view)
    config = PreprocessConfig(source=(str(tmp_path / "tree"),), out=STORE, height=64, width=64)
    store = preprocess(config, lambda label: lambda done, total: None)
    shards = len(store.files.names("split=*/part-*.parquet"))
    tasks = wait_for(shards, lambda: [task for task in list_tasks(detail=True) if task.name == "Map(call)"])
    assert shards > 1 and {task.node_id for task in tasks} == nodes_for("data")
    boards = wait_for(1, lambda: [actor for actor in list_actors(detail=True) if actor.class_name == "Board"])
    assert {board.node_id for board in boards} == nodes_for("head")


def test_training_runs_on_nodes_for_it_and_goes_on_from_the_bucket(cluster, bucket, tmp_path, monkeypatch):
    """There is more room elsewhere. Its only worker is killed once the first checkpoint counts."""
    cluster.add_node(num_cpus=4, labels={ROLE_LABEL: "data"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    store, recipe = open_store(STORE), replace(smoke(), epochs=EPOCHS, global_batch_size=6)
    job = TrainJob(samples=STORE, storage=RUNS, num_workers=1, max_failures=1)
    killing = threading.Thread(target=kill_worker_after_first_checkpoint, args=(bucket,), daemon=True)
    killing.start()
    with open_job(recipe, job, store) as folder, mlflow_run(experiment="e", name="r", tags={}) as run_log:
        outcome = train(recipe, job, folder, store=store, run_log=run_log)
        assert replay(folder.spool, run_log, timeout_s=60) == 0
    killing.join()
    started = wait_for(2, workers)
    assert {worker.node_id for worker in started} == nodes_for("train") and len(started) == 2

    kept = {key.removeprefix(f"{BUCKET}/runs/{folder.name}/") for key in bucket.find(f"{BUCKET}/runs")}
    manifests = {key for key in kept if key.endswith("/checkpoint.json")}
    assert f"checkpoints/step-{2 * EPOCHS:08d}/checkpoint.json" in manifests and len(manifests) <= 3
    assert outcome.checkpoint.removeprefix(f"{folder.root}/") + "/checkpoint.json" in manifests
    assert {key.partition("/")[0] for key in kept} == {"job.json", "checkpoints", "ray"}, "no lock, no records"
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", "mlruns", "mlartifacts"}, "nothing on a disk"
    client = MlflowClient()
    for metric, steps in (("val/abs_rel", EPOCHS), ("train/loss", EPOCHS), ("train/step_loss", 2 * EPOCHS)):
        history = Counter(value.step for value in client.get_metric_history(run_log.run_id, metric))
        assert history == Counter(range(1, steps + 1)), metric


def test_what_can_never_be_placed_is_refused(cluster):
    with pytest.raises(PlacementError, match=r"Ray has 2 CPUs and 0 GPUs on 1 nodes with depthflow.io/role=train"):
        plan_training(num_workers=2, **cluster_capacity())


def workers():
    return [actor for actor in list_actors(detail=True) if actor.class_name.endswith("RayTrainWorker")]


def kill_worker_after_first_checkpoint(bucket):
    [worker] = wait_for(1, lambda: [worker for worker in workers() if worker.state == "ALIVE" and worker.pid])
    wait_for(1, lambda: bucket.glob(f"{BUCKET}/runs/*/checkpoints/step-*/checkpoint.json"))
    os.kill(worker.pid, signal.SIGKILL)


def wait_for(count, look):
    """What `look` finds once it is as many; Ray hears of tasks and actors a second or two after they ran."""
    deadline = time.monotonic() + PATIENCE_S
    while len(found := look()) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found
