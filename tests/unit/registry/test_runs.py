"""A run says which sample store it used, holds its data report, can be continued, and ends whatever MLflow does."""

import getpass
import shutil
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.data import get_source
from mlflow.entities import Dataset

from depthflow.errors import RegistryError
from depthflow.registry import runs
from depthflow.registry.runs import COMMIT_VARIABLE, REPORT_ARTIFACT, dataset_of, git_commit, mlflow_run
from depthflow.reports.data_report import FINGERPRINT_META, REPORT
from depthflow.storage.files import open_files
from depthflow.store.store import SampleStore


@pytest.fixture(scope="module")
def new_database(tmp_path_factory):
    """An empty database of MLflow, which takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch, new_database):
    """A working directory and a database of its own, and MLflow as it was afterwards."""
    shutil.copy(new_database, tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it, too; so it is restored afterwards.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.mark.parametrize(("written_for", "is_logged"), [("f00", True), ("0ld", False), (None, False)])
def test_a_store_and_its_report(tmp_path, written_for, is_logged):
    store = SimpleNamespace(files=open_files(str(tmp_path / "store")), fingerprint="f00")
    html = f'<!DOCTYPE html><meta name="{FINGERPRINT_META}" content="{written_for}">Tiefe × Höhe'
    if written_for is not None:
        store.files.write(REPORT, html.encode())
    with mlflow_run(experiment="e", name="r", tags={}) as run_log:
        run_log.samples(store, context="training")
    client = MlflowClient(run_log.tracking_uri)
    run = client.get_run(run_log.run_id)
    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("store", "f00")
    source = get_source(used)
    assert (source._get_source_type(), source.to_dict()) == ("local", {"uri": store.files.root})
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    tags = run.data.tags
    assert tags["samples.location"] == store.files.root
    assert tags.get("reports.data_report") == (f"{store.files.root}/{REPORT}" if is_logged else None)
    assert [file.path for file in client.list_artifacts(run_log.run_id, "data")] == [REPORT_ARTIFACT] * is_logged
    if is_logged:
        path = download_artifacts(run_id=run_log.run_id, artifact_path="data/report.html", dst_path=str(tmp_path / "d"))
        assert Path(path).read_text(encoding="utf-8") == html


def test_a_dataset_has_no_password():
    store = SimpleNamespace(files=SimpleNamespace(root="s3://mira:hunter2@bucket/store"), fingerprint="f00")
    dataset = dataset_of(cast(SampleStore, store))
    assert (dataset.name, dataset.source_type, dataset.source) == ("store", "s3", '{"uri": "s3://***@bucket/store"}')


def test_documents_and_tags_have_no_password():
    with mlflow_run(experiment="e", name="r", tags={"weights": "s3://mira:hunter2@bucket/a"}) as run_log:
        run_log.document({"weights": "s3://mira:hunter2@bucket/a", "shape": (1, 2)}, "recipe.json")
    client = MlflowClient(run_log.tracking_uri)
    assert client.get_run(run_log.run_id).data.tags["weights"] == "s3://***@bucket/a"
    document = mlflow.artifacts.load_dict(f"runs:/{run_log.run_id}/recipe.json")
    assert document == {"weights": "s3://***@bucket/a", "shape": [1, 2]}


def test_a_run_says_whose_it_is_and_which_program_made_it():
    with mlflow_run(experiment="e", name="r", tags={}) as run_log:
        pass
    tags = MlflowClient(run_log.tracking_uri).get_run(run_log.run_id).data.tags
    assert tags["mlflow.user"] == getpass.getuser()
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == (sys.argv[0], "LOCAL")
    assert tags["mlflow.source.git.commit"] == git_commit()


def test_metrics_of_a_logged_model_are_those_of_the_run():
    with mlflow_run(experiment="e", name="r", tags={}) as run_log:
        for step in (1, 2):
            run_log.metrics({"val/a": step / 2, "val/dataset tum/b": step / 4}, step=step)
        client = MlflowClient(run_log.tracking_uri)
        before = client.get_metric_history(run_log.run_id, "val/dataset tum/b")
        experiment_id = client.get_run(run_log.run_id).info.experiment_id
        model_id = client.create_logged_model(experiment_id, source_run_id=run_log.run_id).model_id
        dataset = Dataset("store", "f00", "local", "{}")
        for _ in range(2):
            values = {"val/a": 0.5, "val/dataset tum/b": 0.25}
            run_log.metrics(values, step=1, timed_as="val/a", model_id=model_id, dataset=dataset)
    found = client.get_logged_model(model_id).metrics
    assert {(m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in found} == {
        ("val/a", 0.5, 1, "store", "f00"),
        ("val/dataset tum/b", 0.25, 1, "store", "f00"),
    }
    assert len(found) == 2
    times = [(metric.step, metric.value, metric.timestamp) for metric in before]
    after = client.get_metric_history(run_log.run_id, "val/dataset tum/b")
    assert sorted((metric.step, metric.value, metric.timestamp) for metric in after) == sorted(times)


def status(run_log):
    return MlflowClient(run_log.tracking_uri).get_run(run_log.run_id).info.status


def break_database(uri, *, mend=False):
    """MLflow's calls for runs fail as they do when a database is away."""
    names = ("gone", "runs") if mend else ("runs", "gone")
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute(f"ALTER TABLE {names[0]} RENAME TO {names[1]}")
    connection.close()


@pytest.mark.parametrize(
    ("error", "expected"), [(None, "FINISHED"), (ValueError("mine"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_is_continued_and_ends_anew(error, expected):
    with mlflow_run(experiment="e", name="r", tags={"kind": "train", "attempt": "1"}) as first:
        first.metrics({"m": 1.0}, step=1)
    assert status(first) == "FINISHED"
    caught = None
    try:
        with mlflow_run(experiment="e", name="r", tags={"attempt": "2"}, run_id=first.run_id) as run_log:
            assert run_log == first
            assert status(run_log) == "RUNNING"
            run_log.metrics({"m": 2.0}, step=2)
            if error is not None:
                raise error
    except BaseException as raised:
        caught = raised
    assert caught is error
    client = MlflowClient(first.tracking_uri)
    run = client.get_run(first.run_id)
    assert run.info.status == expected
    assert (run.data.tags["kind"], run.data.tags["attempt"]) == ("train", "2")
    assert [metric.value for metric in client.get_metric_history(first.run_id, "m")] == [1.0, 2.0]
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_a_run_that_is_unknown_or_deleted_is_named():
    with pytest.raises(RegistryError, match=r"cannot start the run 0{32}"):
        mlflow_run(experiment="e", name="r", tags={}, run_id="0" * 32).__enter__()
    with mlflow_run(experiment="e", name="r", tags={}) as run_log:
        pass
    MlflowClient(run_log.tracking_uri).delete_run(run_log.run_id)
    with pytest.raises(RegistryError, match=f"cannot start the run {run_log.run_id}.*deleted"):
        mlflow_run(experiment="e", name="r", tags={}, run_id=run_log.run_id).__enter__()


@pytest.mark.parametrize(
    ("error", "meant"), [(None, "FINISHED"), (ValueError("mine"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_mlflow_that_is_away_at_the_end_is_a_warning(monkeypatch, caplog, error, meant):
    monkeypatch.setattr("depthflow.registry.runs.END_PAUSES_S", (0.0, 0.01))
    caught = None
    try:
        with mlflow_run(experiment="e", name="r", tags={}) as run_log:
            break_database(run_log.tracking_uri)
            if error is not None:
                raise error
    except BaseException as raised:
        caught = raised
    assert caught is error
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("depthflow")]
    assert len(warnings) == 1 and f"The run {run_log.run_id} is {meant}, but MLflow" in warnings[0]
    break_database(run_log.tracking_uri, mend=True)
    assert status(run_log) == "RUNNING"


def test_mlflow_that_is_away_at_the_start_is_an_error(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="does not answer"):
        mlflow_run(experiment="e", name="r", tags={}).__enter__()


def test_the_commit_of_a_job_is_the_one_it_was_submitted_from(tmp_path, monkeypatch):
    monkeypatch.setenv(COMMIT_VARIABLE, "c0ffee")
    assert git_commit() != "c0ffee", "a checkout knows its own"
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    assert git_commit() == "c0ffee"
    monkeypatch.delenv(COMMIT_VARIABLE)
    assert git_commit() == "unknown"
