"""deploy/mlflow_on_head.sh as it runs on the head node, with an S3 server."""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import psutil
import pytest

from tests.ray_nodes import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BUCKET = "depthflow-head"


class Head:
    """A home folder as cluster.yaml creates it.

    Args:
        home: Folder to create.
    """

    def __init__(self, home: Path) -> None:
        (home / "depthflow").mkdir(parents=True)
        (home / "mlflow").mkdir()
        (home / "venv").symlink_to(sys.prefix)
        shutil.copy(DEPLOY / "mlflow_database.py", home / "depthflow")
        self.home, self.port = home, free_port()
        self.env = {
            **os.environ,
            "HOME": str(home),
            "DEPTHFLOW_BUCKET": BUCKET,
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.database = home / "mlflow" / "mlflow.db"

    def start(self) -> None:
        """Runs the script and waits until MLflow answers."""
        subprocess.run(["bash", DEPLOY / "mlflow_on_head.sh"], env=self.env, check=True, timeout=120)
        deadline = time.monotonic() + 180
        while self.status("/health", f"localhost:{self.port}") != 200:
            assert time.monotonic() < deadline, (self.home / "mlflow" / "server.log").read_text()
            time.sleep(0.2)

    def status(self, path: str, host: str) -> int:
        """Returns the HTTP status of a request with this host name; 0 if there is no answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def processes(self) -> list[psutil.Process]:
        """Returns the processes of this home folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self) -> None:
        """Kills everything that the script started."""
        while found := self.processes():
            for process in found:
                process.kill()
            psutil.wait_procs(found, timeout=10)


@pytest.fixture
def head(tmp_path, serving: Callable) -> Iterator[Head]:
    with serving():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        head = Head(tmp_path / "home")
        try:
            yield head
        finally:
            head.kill()


def test_the_server_checks_host_names_and_is_restored_on_a_new_disk(head, monkeypatch):
    from mlflow.tracking import MlflowClient

    head.start()
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert head.status(search, f"localhost:{head.port}") == 200
    assert head.status(search, f"elsewhere.example:{head.port}") == 403
    assert head.status(search, "localhost") == 403, "the port is part of the name"

    client = MlflowClient(f"http://127.0.0.1:{head.port}")
    run = client.create_run(client.create_experiment("kept"))
    client.log_text(run.info.run_id, "an artifact", "note.txt")
    keys = [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert [key for key in keys if key.startswith("mlflow/artifacts/") and key.endswith("/note.txt")]

    before = {process.pid for process in head.processes()}
    head.start()
    assert {process.pid for process in head.processes()} == before, "a second start does nothing"

    script = head.home / "depthflow" / "mlflow_database.py"
    words = ["once", "--database", head.database, "--copy", f"s3://{BUCKET}/mlflow/mlflow.db"]
    subprocess.run([sys.executable, script, *map(str, words)], env=head.env, check=True, timeout=120)
    head.kill()
    shutil.rmtree(head.home / "mlflow")
    (head.home / "mlflow").mkdir()
    head.start()
    assert client.get_experiment_by_name("kept") is not None
    assert client.get_run(run.info.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
