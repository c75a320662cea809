"""The whole chain as the demo runs it, and what a user does with the champion afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthflow.inference.writers import read_png16


def test_demo_promotes_and_prints_a_table(demo):
    result = demo.finished.result
    assert demo.finished.code == 0
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


def test_pictures_exist(demo):
    panels = demo.finished.result["evaluate"]["panels"]
    assert len(panels) == 6
    assert all(Path(panel).stat().st_size > 5000 for panel in panels)


def test_a_broken_photograph_is_reported_and_the_rest_goes_on(run, demo, tmp_path):
    photographs = [*sorted(demo.folder.glob("mini-diode/val/**/*_000_000.png"))[:2], tmp_path / "broken.jpg"]
    photographs[-1].write_bytes(b"no image")
    done = run(
        "predict",
        *("--model", "models:/depthflow@champion", "--images", *photographs, "--out", "out"),
        cwd=tmp_path,
        env=demo.env,
    )
    assert done.code == 3
    assert done.result["images"] == 2
    assert done.result["rejects_by_reason"] == {"unreadable_image": 1}
    assert "broken.jpg: unreadable_image" in done.stderr


def test_only_an_image_that_is_not_one(run, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = run(
        *("predict", "--model", "models:/depthflow@champion", "--images", "broken.png", "--out", "out"),
        cwd=tmp_path,
        env=demo.env,
    )
    assert done.code != 0
    assert done.result["images"] == 0
    assert list((tmp_path / "out").glob("*")) == []


def test_pyfunc_predicts_where_depthflow_is_not_installed(demo, tmp_path):
    """In a process that cannot see this checkout: the artifact brings its own code."""
    script = """
import sys, numpy as np, mlflow
sys.path = [p for p in sys.path if p and not p.endswith(sys.argv[1])]
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
try:
    import depthflow
except ImportError:
    pass
else:
    raise SystemExit(f"depthflow is visible: {depthflow.__file__}")
model = mlflow.pyfunc.load_model("models:/depthflow@champion")
photographs = np.random.default_rng(0).integers(0, 255, (2, 100, 150, 3), dtype=np.uint8)
depth_m = model.predict(photographs)
import depthflow
assert "mlartifacts" in depthflow.__file__, depthflow.__file__
print(depth_m.shape, depth_m.dtype, bool((depth_m > 0).all()))
"""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, root],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**demo.env, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-2] == "(2, 100, 150) float32 True"


def test_evaluation_does_not_depend_on_the_number_of_workers(run, demo, tmp_path):
    full = demo.folder / "val-full-resolution"
    flags = ("--model", "models:/depthflow@champion", "--samples", full, "--num-workers", 2)
    done = run("evaluate", *flags, cwd=tmp_path, env=demo.env)
    assert done.code == 0
    one = demo.finished.result["evaluate"]
    assert done.result["samples"] == one["samples"]
    for group, metrics in one["metrics"].items():
        assert done.result["metrics"][group] == pytest.approx(metrics, rel=1e-9)


def test_protocol_refuses_a_resized_store(run, demo, tmp_path):
    flags = ("--model", "models:/depthflow@champion", "--samples", demo.folder / "samples")
    done = run("evaluate", *flags, cwd=tmp_path, env=demo.env)
    assert done.code == 1
    assert "--height 192 --width 256" in done.result["error"]


class TestPromotion:
    """In order: what happens to the alias after the demo's first champion."""

    def promote(self, run, demo, *flags):
        return run("promote", *flags, cwd=demo.folder.parent, env=demo.env)

    def champion(self, demo):
        from mlflow import MlflowClient

        uri = demo.env["MLFLOW_TRACKING_URI"]
        return str(MlflowClient(uri, uri).get_model_version_by_alias("depthflow", "champion").version)

    def test_the_champion_is_no_challenger(self, run, demo):
        done = self.promote(run, demo, "--samples", demo.folder / "val-full-resolution")
        assert done.code == 1
        assert "is the champion already" in done.result["error"]

    def test_nothing_to_roll_back_to(self, run, demo):
        done = self.promote(run, demo, "--rollback")
        assert done.code == 1
        assert "no champion before" in done.result["error"]

    def test_a_worse_challenger_is_refused_then_forced_then_rolled_back(self, run, demo):
        trained = run(
            *("train", "smoke", "--samples", demo.folder / "samples", "--storage", demo.folder / "runs"),
            *("--epochs", 1, "--learning-rate", 1e-5, "--seed", 5),
            cwd=demo.folder.parent,
            env=demo.env,
        )
        assert trained.code == 0
        assert trained.result["version"] == "2"
        full = demo.folder / "val-full-resolution"
        dry = self.promote(run, demo, "--samples", full, "--dry-run")
        assert dry.result["decision"] == "refused"
        refused = self.promote(run, demo, "--samples", full)
        assert refused.code == 0
        assert refused.result["decision"] == "refused"
        assert "not lower by the margin" in refused.result["reasons"][0]
        assert self.champion(demo) == "1"
        forced = self.promote(run, demo, "--samples", full, "--force", "--reason", "a test of the record")
        assert forced.result["decision"] == "forced"
        assert forced.result["reasons"][-1] == "a test of the record"
        assert self.champion(demo) == "2"
        back = self.promote(run, demo, "--rollback", "--reason", "it was worse")
        assert (back.result["champion"], back.result["previous"]) == ("1", "2")
        assert self.champion(demo) == "1"
        assert self.decisions(demo) == ["promoted", "refused", "forced", "rolled_back"]

    def decisions(self, demo):
        """From the record, in order; the dry run left none."""
        from mlflow import MlflowClient

        uri = demo.env["MLFLOW_TRACKING_URI"]
        client = MlflowClient(uri, uri)
        experiment = client.get_experiment_by_name("depthflow-promotions").experiment_id
        runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        return [run.data.tags["depthflow.decision"] for run in runs]
