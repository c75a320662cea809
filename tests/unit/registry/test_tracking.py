"""Which MLflow: the environment's, or SQLite here; always absolute."""

import os
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

from depthflow.errors import RegistryError
from depthflow.registry.tracking import ATTEMPT_S, experiment_id, mlflow_at, one_attempt, tracking_uri, use_tracking_uri


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A working directory of its own, and MLflow as it was afterwards."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it, too; so it is restored afterwards.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.mark.parametrize("environment", [None, ""])
def test_default_is_sqlite_in_the_working_directory(tmp_path, monkeypatch, environment):
    if environment is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert list(tmp_path.iterdir()) == [], "asking makes nothing"


@pytest.mark.parametrize("name", ["a%20b", "what?", "no#1", "50%", "two words", "grün"])
def test_a_working_directory_of_any_name_holds_the_database_and_the_artifacts(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    uri = tracking_uri()
    client = use_tracking_uri(uri)
    run = client.create_run(experiment_id(client, uri, "depthflow"))
    client.log_text(run.info.run_id, "text", "file.txt")
    assert {path.name for path in (tmp_path / name).iterdir()} == {"mlflow.db", "mlartifacts"}
    assert len(list((tmp_path / name).rglob("file.txt"))) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///runs.db", "sqlite:///{here}/runs.db"),
        ("sqlite:///some/where/runs.db", "sqlite:///{here}/some/where/runs.db"),
        ("sqlite:////var/lib/runs.db", "sqlite:////var/lib/runs.db"),
        ("databricks", "databricks"),
        ("file:///var/lib/runs", "file:///var/lib/runs"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://user@mlflow.example/prefix", "https://user@mlflow.example/prefix"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_environment_is_made_absolute(tmp_path, monkeypatch, given, expected):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    uri = tracking_uri()
    assert uri == expected.format(here=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri() == uri, "absolute is absolute"


def test_is_the_same_from_another_directory(tmp_path, monkeypatch):
    """Ray Train changes its workers' directory: what the driver found is what they are handed."""
    uri = tracking_uri()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tracking_uri() != uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri() == uri


def test_experiment_is_made_once_with_its_artifacts_beside_the_database(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    uri = f"sqlite:///{folder}/mlflow.db"
    client = use_tracking_uri(uri)
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == uri
    first = experiment_id(client, uri, "mine")
    assert experiment_id(client, uri, "mine") == first
    assert experiment_id(client, uri, "another") != first
    assert client.get_experiment(first).artifact_location == (Path(folder) / "mlartifacts").as_uri()
    assert isinstance(client, MlflowClient)


def test_server_that_does_not_answer_is_named(monkeypatch):
    """Port 9 of this machine: nobody listens, and nothing leaves it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer.*MLFLOW_TRACKING_URI"):
        use_tracking_uri("http://127.0.0.1:9")


def test_a_wait_is_told(monkeypatch, capsys):
    """A server that takes connections and says nothing, as one that hangs does."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr("depthflow.registry.tracking.ATTEMPT_S", 1)
    monkeypatch.setattr("depthflow.registry.tracking.RETRY_S", 0)
    monkeypatch.setattr("depthflow.observability.progress.TELL_EVERY_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError, match=f"MLflow at {uri} does not answer"), mlflow_at(uri):
            raise AssertionError("it answered")
    assert f"Waiting for MLflow at {uri}: 1.0 s so far\n" in capsys.readouterr().err


def test_database_that_is_locked_is_told(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db?timeout=1"
    client = use_tracking_uri(uri)
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    told = r"no longer answers: \(sqlite3\.OperationalError\) database is locked\. Run the same command"
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryError, match=told), mlflow_at(uri):
        client.create_experiment("e")
    lock.close()


def test_database_that_can_be_no_file_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(RegistryError, match=r"file/mlflow\.db does not answer: .*MLFLOW_TRACKING_URI"):
        use_tracking_uri(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_limits_of_requests_end_with_the_outermost_block(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with one_attempt():
        with one_attempt():
            pass
        assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 0 and MLFLOW_HTTP_REQUEST_TIMEOUT.get() == ATTEMPT_S
    assert dict(os.environ) == before
    with suppress(ValueError), one_attempt():
        raise ValueError
    assert dict(os.environ) == before
