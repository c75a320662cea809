"""benchmarks/frames.py runs, on a few frames; what it measures is for a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

BENCHMARK = Path(__file__).resolve().parents[4] / "benchmarks" / "frames.py"


def test_every_side_is_measured_at_every_size(tmp_path):
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"frame-{number:06}.color.jpg"), np.full((480, 640, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / f"frame-{number:06}.depth.png"), np.full((480, 640), 2000, np.uint16))
    flags = ["--source", tmp_path, "--work", tmp_path / "work", "--repeats", 1]
    done = subprocess.run([sys.executable, BENCHMARK, *map(str, flags)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    sides, ours = ("decode", "our_decode", "loop", "sample", "stored"), ("our_decode", "sample", "stored")
    names = (*(f"{side}_ms" for side in sides), *(f"ratio/{side}" for side in ours))
    assert list(figures) == [f"{size}/{name}" for size in ("256x256", "128x160") for name in names]
    assert all(value > 0 for value in figures.values())
    for side in ours:
        ratio = figures["128x160/loop_ms"] / figures[f"128x160/{side}_ms"]
        assert figures[f"128x160/ratio/{side}"] == pytest.approx(ratio)
    assert not list((tmp_path / "work").iterdir())
