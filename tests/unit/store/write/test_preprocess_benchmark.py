"""The benchmark of preprocessing runs, on a tree of a few frames; what it measures is for a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[4] / "benchmarks" / "preprocess.py"


def test_a_core_is_measured(tmp_path, write_triplet):
    for view in range(4):
        write_triplet(tmp_path / "tree", view=view)
    flags = ["--source", tmp_path / "tree", "--work", tmp_path, "--parts", "core", "--samples", 3, "--repeats", 1]
    done = subprocess.run([sys.executable, BENCHMARK, *map(str, flags)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {f"core/{name}" for name in FIGURES}
    assert all(value > 0 for value in figures.values())
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


FIGURES = ("tutorial_ms", "tutorial_same_malloc_ms", "ours_ms", "ratio", "ratio_same_malloc")
