"""Real photographs through the whole chain: the model is better than the mean depth on rooms it has not seen."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def nyu_tree(shared: Path, tmp_path: Path) -> Path:
    tool = shared / "tools" / "nyu_to_diode.py"
    if not tool.is_file():
        pytest.skip(f"there are no photographs at {shared} (DEPTHFLOW_SHARED)")
    subprocess.run([sys.executable, tool, "--out", tmp_path / "nyu", "--count", "250"], check=True, timeout=120)
    return tmp_path / "nyu"


def test_demo_on_real_photographs(run, nyu_tree, tmp_path):
    done = run("demo", "--source", nyu_tree, "--out", "out", "--epochs", 12, cwd=tmp_path)
    assert done.code == 0, done.stderr[-2000:]
    result = done.result
    assert result["preprocess"]["samples"] + result["preprocess"]["rejects"] == 250
    assert result["evaluate"]["samples"] == result["preprocess"]["counts"]["val"]["indoors"] == 50
    assert result["evaluate"]["metrics"]["all"]["abs_rel"] < result["evaluate"]["baseline"]["all"]["abs_rel"]
    assert result["evaluate"]["metrics"]["outdoor"]["abs_rel"] is None
