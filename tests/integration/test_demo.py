"""The demo: one chain of all commands, from synthesized frames to predictions of the promoted model."""

import json
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from PIL import Image

from depthflow.inference.writers import read_png16


def test_demo_promotes_and_prints_a_table(demo):
    result = demo.finished.result
    assert demo.finished.code == 0
    assert demo.finished.noise == []
    assert result["preprocess"]["samples"] + result["preprocess"]["rejects"] == result["synthesize"]["samples"] == 384
    assert result["evaluate"]["samples"] == result["preprocess_full"]["samples"] == 96
    assert result["promote"]["decision"] == "promoted"
    assert result["promote"]["champion"] == result["train"]["version"] == "1"
    for words in ("samples               384", "version promoted      1", "mean depth", "mlflow ui"):
        assert words in demo.finished.stdout


def test_model_beats_the_mean_depth(demo):
    evaluation = demo.finished.result["evaluate"]
    for group in ("all", "indoors", "outdoor"):
        assert evaluation["metrics"][group]["abs_rel"] < evaluation["baseline"][group]["abs_rel"]


def test_every_figure_carries_protocol_fingerprint_and_samples(demo):
    result = demo.finished.result
    assert result["evaluate"]["protocol"] == "devkit"
    assert result["evaluate"]["fingerprint"] == result["preprocess_full"]["fingerprint"]
    for evaluation in result["promote"]["evaluations"].values():
        assert evaluation["fingerprint"] == result["preprocess_full"]["fingerprint"]
        assert evaluation["samples"] == 96


def test_predictions_are_written_at_the_photographs_size(demo):
    outputs = [Path(path) for path in demo.finished.result["predict"]["outputs"]]
    assert len(outputs) == 9
    for npy in (path for path in outputs if path.suffix == ".npy"):
        depth_m = np.load(npy)
        assert depth_m.shape == (192, 256)
        assert depth_m.dtype == np.float32
        assert (depth_m > 0).all()
        png = npy.with_name(npy.name.replace(".npy", ".png"))
        scale_m = json.loads(png.with_suffix(".json").read_text())["depth_scale_m"]
        assert np.abs(read_png16(png) - depth_m).max() <= 0.51 * scale_m
    for panel in (path for path in outputs if path.name.endswith("panel.png")):
        with Image.open(panel) as image:
            assert image.width > 400


def test_report_is_written_and_logged(demo):
    files = [Path(path) for path in demo.finished.result["evaluate"]["files"]]
    report, images, *viewers = files
    assert report.parent == images.parent == demo.folder / "evaluation"
    assert report.read_text().count("data:image/jpeg") == 36, "twelve best, median and worst images each"
    artifacts = MlflowClient(demo.env["MLFLOW_TRACKING_URI"]).list_artifacts(
        demo.finished.result["evaluate"]["run_id"], "evaluation"
    )
    assert {Path(artifact.path).name for artifact in artifacts} == {path.name for path in files}
    assert (report.name, images.name, len(viewers)) == ("report.html", "images.csv", 12)
    assert all(f'href="{viewer.name}"' in report.read_text() and viewer.is_file() for viewer in viewers)
