"""A run says which sample store it used, and holds the store's data report."""

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from depthflow.registry.runs import REPORT_ARTIFACT, mlflow_run
from depthflow.samples.files import open_files
from depthflow.samples.report import FINGERPRINT_META, REPORT


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A working directory of its own, and MLflow as it was afterwards."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
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
        run_log.samples(store)
    client = MlflowClient(run_log.tracking_uri)
    tags = client.get_run(run_log.run_id).data.tags
    assert tags["samples.location"] == store.files.root
    assert tags.get("samples.report") == (f"{store.files.root}/{REPORT}" if is_logged else None)
    assert [file.path for file in client.list_artifacts(run_log.run_id, "data")] == [REPORT_ARTIFACT] * is_logged
    if is_logged:
        path = download_artifacts(run_id=run_log.run_id, artifact_path="data/report.html", dst_path=str(tmp_path / "d"))
        assert Path(path).read_text(encoding="utf-8") == html
