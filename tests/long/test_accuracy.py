"""benchmarks/accuracy.py trains each seed and evaluates all of them. Its arithmetic has a test of its own."""

import json
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tests.commands import ROOT


def test_two_seeds_are_two_trainings_and_a_row(shared_ray, samples, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    flags = ["--recipe", "smoke", "--samples", samples, "--work", tmp_path, "--seeds", 2]
    train = "--train=--epochs 1 --num-workers 1"
    line = [sys.executable, ROOT / "benchmarks" / "accuracy.py", *flags, train]
    done = subprocess.run([*map(str, line)], stdout=subprocess.PIPE, text=True, check=True)
    head, _, row, result = done.stdout.splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (head, row))
    row, result = dict(zip(*cells, strict=True)), json.loads(result)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    versions = sorted(client.search_model_versions("name='accuracy'"), key=lambda version: int(version.version))
    assert [client.get_run(version.run_id).data.params["seed"] for version in versions] == ["0", "1"]
    assert result["models"] == [f"models:/accuracy/{version.version}" for version in versions]
    assert (result["protocol"], result["split"], result["samples"]) == ("stored", "val", 10)
    found = result["metrics"]["abs_rel"]
    logged = [client.get_run(version.run_id).data.metrics["val/abs_rel"] for version in versions]
    assert found["values"] == pytest.approx(logged, rel=1e-4)
    low, high = sorted(found["values"])
    assert low < high
    assert found["mean"] == pytest.approx((low + high) / 2)
    assert found["spread"] == pytest.approx((high - low) / ((low + high) / 2))
    assert row["abs_rel"] == f"{found['mean']:.3f} ({100 * found['spread']:.1f}%)"
    assert (row["command"], row["seeds"]) == ("`train.py smoke --epochs 1 --num-workers 1`", "2")
    assert float(row["minutes"]) == pytest.approx(result["minutes"]["mean"], abs=0.05)
    assert "boundary_f1" in row and "edge_abs_rel" in row
