"""benchmarks/feed.py runs, and its sides hand out the same samples: a side that skipped some would win."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from depthflow.store.read.reader import SplitReader

pytest.importorskip("webdataset", reason="pip install 'depthflow[bench]'")

SCRIPT = Path(__file__).resolve().parents[4] / "benchmarks" / "feed.py"


def test_it_runs_and_ends_with_ratios(small, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, SCRIPT, "--samples", small.store.files.root, "--work", tmp_path / "work"),
            *("--batch-size", "4", "--repeats", "1", "--warm-up-s", "0.1", "--measure-s", "0.2"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["samples"], result["size"]) == (70, [6, 8])
    rates = result["images_per_s"]
    assert list(rates) == list(result["cpu_ms_an_image"]) == ["no_cache", "cached", "tfrecord", "webdataset"]
    assert all(rate > 0 for rate in rates.values())
    for ours in ("no_cache", "cached"):
        for rival in ("tfrecord", "webdataset"):
            assert result[f"ratio_{ours}_to_{rival}"] == pytest.approx(rates[ours] / rates[rival], rel=0.01)
    assert all(name in done.stdout.split("CPU ms/image")[1] for name in rates)


def test_every_side_hands_out_every_sample(small, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("feed", SCRIPT)
    feed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "feed", feed)  # Where its dataclass looks for its module.
    spec.loader.exec_module(feed)
    benchmark = feed.Benchmark(samples=small.store.files.root, work=str(tmp_path), batch_size=8)
    whole = SplitReader(small.store, "train").read(np.arange(70)[::-1])
    wanted = {(rgb.tobytes(), depth.tobytes()) for rgb, depth in zip(whole.rgb, whole.log_depth, strict=True)}
    for name, side in feed.all_sides(small.store, benchmark).items():
        seen = set()
        batches = side()
        for _ in range(300):
            rgb, log_depth = next(batches)
            assert (rgb.dtype, rgb.shape[1:], log_depth.dtype, log_depth.shape[1:]) == (
                *(np.uint8, (6, 8, 3)),
                *(np.float32, (6, 8)),
            )
            assert len(rgb) == len(log_depth) <= 8
            seen |= {(r.tobytes(), d.tobytes()) for r, d in zip(rgb, log_depth, strict=True)}
        del batches
        assert seen == wanted, name
