"""Runs each command once, as a user does, in the order of the data flow. demo.py and submit.py have their own files."""

import hashlib
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.csv as pacsv
import pytest
from mlflow import MlflowClient

from depthflow.metrics import BOUNDARY_NAMES
from tests.browser import opened
from tests.commands import run_in_new_interpreter

SCANS, SAMPLES_PER_SCAN = 8, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that all these commands run in."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def synthesized(run, folder):
    size = ("--scans", SCANS, "--samples-per-scan", SAMPLES_PER_SCAN, "--height", 64, "--width", 64)
    return run("synthesize", "--out", "mini-diode", *size, cwd=folder)


@pytest.fixture(scope="module")
def preprocessed(run, folder, synthesized):
    return run("preprocess", "--source", "mini-diode", "--out", "samples", "--height", 64, "--width", 64, cwd=folder)


@pytest.fixture(scope="module")
def trained(folder, preprocessed):
    flags = ("--samples", "samples", "--storage", "runs", "--epochs", 2, "--num-workers", 2, "--onednn", "--verbose")
    return run_in_new_interpreter("train", "smoke", *flags, cwd=folder)


@pytest.fixture(scope="module")
def promoted(run, folder, trained):
    return run("promote", "--samples", "samples", "--force", "--reason", "the first one", cwd=folder)


def test_synthesize(synthesized, folder):
    assert synthesized.code == 0, synthesized.stderr
    assert synthesized.result["samples"] == len([*folder.glob("mini-diode/**/*.png")]) == SCANS * SAMPLES_PER_SCAN


def test_synthesize_video(run, folder):
    size = ("--scans", 2, "--samples-per-scan", 2, "--height", 32, "--width", 64)
    done = run("synthesize", "--out", "walks", "--kind", "video", "--moving-objects", 1, *size, cwd=folder)
    assert done.code == 0, done.stderr
    table = pacsv.read_csv(folder / "walks" / "frames.csv")
    assert done.result["samples"] == table.num_rows == 4
    assert table["time_s"].to_pylist() == [0.0, 0.2, 0.0, 0.2]


def test_download(run, folder):
    content = np.random.default_rng(0).bytes(1_000_000)
    (folder / "server").mkdir()
    (folder / "server" / "val.tar.gz").write_bytes(content)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder / "server")
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ("--base-url", f"http://127.0.0.1:{server.server_port}", "--md5", hashlib.md5(content).hexdigest())
        done = run("download", "--split", "val", "--out", "archives", *flags, cwd=folder)
        server.shutdown()
    assert done.code == 0, done.stderr
    assert Path(done.result["path"]).read_bytes() == content


def test_preprocess(preprocessed, folder):
    assert preprocessed.code == 0, preprocessed.stderr
    assert preprocessed.noise == []
    assert preprocessed.result["samples"] == SCANS * SAMPLES_PER_SCAN
    assert preprocessed.result["rejects"] == 0
    assert preprocessed.result["accounting"]["train"] == {
        "expected": None,  # It is not DIODE.
        "found": sum(preprocessed.result["counts"]["train"].values()),
        "missing": None,
        "extra": None,
        "doubled": 0,
    }
    assert (folder / "samples" / "manifest.json").is_file()


def test_train(trained):
    assert trained.code == 0, trained.stderr
    assert any(re.search("RayTrainWorker.*oneDNN custom operations are on", line) for line in trained.noise)
    assert not any(re.search("TrainController.*absl", line) for line in trained.noise), "it imports no TensorFlow"
    assert trained.result["model_uri"] == "models:/depthflow/1"
    assert trained.result["metrics"]["val/abs_rel"] > 0


def test_what_people_read_in_mlflow(folder, preprocessed, trained):
    """The run, its model and the version say what was trained, on what, and how good it is."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run, metrics = client.get_run(trained.result["run_id"]), trained.result["metrics"]
    assert run.data.tags["mlflow.source.name"].endswith("train.py") and run.data.tags["mlflow.user"]
    [used] = run.inputs.dataset_inputs
    fingerprint = preprocessed.result["fingerprint"]
    assert (used.dataset.name, used.dataset.digest) == ("samples", fingerprint)
    assert run.data.metrics["best/abs_rel"] == metrics["val/abs_rel"]
    recipe = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/recipe.json")
    assert (recipe["name"], recipe["epochs"]) == ("smoke", 2)
    [output] = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id).metrics
    assert {m.key: m.value for m in logged} == {name: v for name, v in metrics.items() if name.startswith("val/")}
    assert {(m.dataset_name, m.dataset_digest) for m in logged} == {("samples", fingerprint)}
    version = client.get_model_version("depthflow", "1")
    assert f"| all | {metrics['val/abs_rel']:.4g} |" in version.description and fingerprint in version.description
    assert (version.tags["recipe"], version.tags["abs_rel"]) == ("smoke", f"{metrics['val/abs_rel']:.4g}")
    assert max(map(len, version.tags.values())) <= 200


def test_evaluate(run, folder, preprocessed, trained):
    model = trained.result["model_uri"]
    done = run("evaluate", "--model", model, "--samples", "samples", "--out", "report", cwd=folder)
    assert done.code == 0, done.stderr
    assert done.noise == []
    assert done.result["samples"] == sum(preprocessed.result["counts"]["val"].values())
    assert set(done.result["metrics"]) == {"all", "indoors", "outdoor"}
    assert (folder / "report" / "report.html").is_file()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    evaluated = client.get_run(done.result["run_id"])
    [used], [input_model] = evaluated.inputs.dataset_inputs, evaluated.inputs.model_inputs
    assert used.dataset.digest == preprocessed.result["fingerprint"] and used.tags[0].value == "val"
    logged = client.get_logged_model(input_model.model_id).metrics
    assert evaluated.data.metrics["val/abs_rel"] in [m.value for m in logged if m.run_id == evaluated.info.run_id]
    overall, table = done.result["metrics"]["all"], pacsv.read_csv(folder / "report" / "images.csv").to_pylist()
    for name in BOUNDARY_NAMES:
        assert evaluated.data.metrics[f"val/{name}"] == overall[name] > 0
        assert f">{name}</th>" in (folder / "report" / "report.html").read_text() and name in table[0]
    tag = client.get_model_version("depthflow", "1").tags["evaluation.devkit"]
    assert tag.startswith(f"abs_rel {done.result['metrics']['all']['abs_rel']:.4g}, ") and len(tag) <= 200


def test_promote(promoted):
    assert promoted.code == 0, promoted.stderr
    assert promoted.noise == []
    assert promoted.result["decision"] in ("promoted", "forced")
    assert (promoted.result["champion"], promoted.result["previous"]) == ("1", None)


@pytest.fixture(scope="module")
def exported(run, folder, promoted):
    flags = ("--format", "onnx", "litert", "--quantize", "int8", "--samples", "samples", "--images", "mini-diode/val")
    return run("export", "--model", "models:/depthflow@champion", *flags, "--out", "exported", cwd=folder)


def test_export(exported, folder):
    assert exported.code == 0, exported.stderr
    assert exported.noise == []
    assert exported.result["model"] == "models:/depthflow/1"
    names = ["network.onnx", "network.tflite", "network.int8.tflite"]
    assert [Path(file).name for file in exported.result["files"]] == names
    assert {path.name for path in (folder / "exported").iterdir()} == {*names, *(f"{name}.json" for name in names)}
    onnx, litert, int8 = exported.result["largest_difference"].values()
    assert max(onnx, litert) < 1e-4 < int8
    abs_rel = {Path(name).name: metrics["all"]["abs_rel"] for name, metrics in exported.result["metrics"].items()}
    assert abs_rel["network.onnx"] == pytest.approx(abs_rel["1"], rel=1e-4) != abs_rel["network.int8.tflite"]


def test_predict(run, folder, promoted, exported):
    images = sorted(folder.glob("mini-diode/val/**/*.png"))[:2]
    flags = ("--images", *images, "--out", "depth", "--viewer", "--fov-deg", 60, "--compare", "exported/network.onnx")
    done = run("predict", "--model", "models:/depthflow@champion", *flags, cwd=folder)
    assert done.code == 0, done.stderr
    assert done.noise == []
    depth_m = [np.load(path) for path in done.result["outputs"] if path.endswith(".npy")]
    assert [each.shape for each in depth_m] == [(64, 64)] * 2
    assert all((each > 0).all() for each in depth_m)
    of_onnx = [np.load(path) for path in sorted(folder.glob("depth/*network.onnx/*.npy"))]
    np.testing.assert_allclose(of_onnx, depth_m, rtol=1e-4)
    viewers = [folder / path for path in done.result["outputs"] if path.endswith(".viewer.html")]
    assert [viewer.name for viewer in viewers] == [f"{image.stem}.viewer.html" for image in images]
    with opened(viewers[0], width=1280, height=900) as tab:
        tab.picture_when(lambda picture: (np.ptp(picture[300:, 60:760], axis=(0, 1)) > 100).any())
        assert tab.run("document.querySelector('h1').textContent") == images[0].stem


def test_doctor(run, folder):
    done = run("doctor", "--quick", "--storage", "runs", cwd=folder)
    assert done.code == 0, done.stderr
    assert done.noise == []
    assert "failed" not in {check["status"] for check in done.result["checks"].values()}
