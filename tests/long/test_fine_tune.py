"""The recipe that fine-tunes Depth Anything, from photographs to a model behind HTTP, with a kill on the way.

The transformer is tiny and begins with random weights, so that nothing is downloaded; all else is the recipe's.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.pages import ROOT, blocks_of
from tests.served_model import ServedModel, bare_environment

TINY = ("--encoder", "dinov2_tiny", "--weights", "none", "--decoder-filters", 16, "--remat")
QUICK = ("--learning-rate", 1e-2, "--encoder-rate", 0.5, "--ema-momentum", 0.5, "--epochs", 12)
"""A dozen epochs of random weights: the recipe's rates are for weights that only need a push."""
PAGE = ROOT / "docs" / "how-to" / "predict.md"
[SERVE] = [line for block in blocks_of(PAGE) for line in block.lines if line.startswith("mlflow models serve ")]


@pytest.fixture
def stores(run, shared: Path, tmp_path: Path) -> Path:
    """The folder of two stores of 40 photographs: 25 of one place to train on, and 15 of another, also at full size."""
    tool = shared / "tools" / "nyu_to_diode.py"
    if not tool.is_file():
        pytest.skip(f"there are no photographs at {shared} (DEPTHFLOW_SHARED)")
    tree = (tool, "--out", tmp_path / "nyu", "--count", "40", "--val-every", "2")
    subprocess.run([sys.executable, *map(str, tree)], check=True, timeout=120)
    for flags in (
        ("--out", "samples", "--height", 84, "--width", 112),
        ("--out", "val-full", "--splits", "val", "--height", 424, "--width", 560),
    ):
        done = run("preprocess", "--source", "nyu", *flags, cwd=tmp_path)
        assert done.code == 0, done.stderr[-2000:]
    return tmp_path


def test_fine_tuned_killed_resumed_promoted_and_served(run, start, stores):
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{stores}/mlflow.db"}
    arguments = (stores / "samples", stores / "runs", *TINY, *QUICK, "--max-failures", 1)
    training = start(*arguments, recipe="depth-anything-small-metric", mlflow=env["MLFLOW_TRACKING_URI"])
    os.kill(training.end_of_first_epoch(), signal.SIGKILL)
    result = training.succeed()
    print(result)
    assert len(training.first_workers()) == 2, "another worker has gone on"
    history = MlflowClient(env["MLFLOW_TRACKING_URI"]).get_metric_history(result["run_id"], "train/loss")
    assert sorted(metric.step for metric in history) == [*range(1, 13)]

    done = run("promote", "--samples", "val-full", cwd=stores, env=env)
    print(done.result)
    assert done.code == 0 and done.result["decision"] == "promoted", done.result

    photograph = cv2.imread(str(next((stores / "nyu").glob("val/**/*.png"))))[..., ::-1]
    request = {"inputs": photograph[None].tolist(), "params": {"fx_px": 518.9, "fy_px": 519.5}}
    with ServedModel(SERVE, stores, bare_environment(stores, env)) as server:
        depth_m = np.array(server.post(request)["predictions"])
        request["params"] = {"fx_px": 2 * 518.9, "fy_px": 2 * 519.5}
        longer = np.array(server.post(request)["predictions"])
    assert depth_m.shape == (1, 424, 560) and 0.5 < np.median(depth_m) < 10
    np.testing.assert_allclose(longer, 2 * depth_m, rtol=1e-4)  # The recipe's camera is the canonical one.
