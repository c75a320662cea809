"""Stereo pairs and video as a user trains on them: from synthesize.py to a registered version."""

import pytest

KINDS = ("stereo", "video")
SIZE = ("--height", 64, "--width", 64)


@pytest.fixture(scope="module")
def stores(run, tmp_path_factory):
    """Returns a folder with a store of each kind."""
    folder = tmp_path_factory.mktemp("views")
    for kind in KINDS:
        made = run(
            "synthesize", "--kind", kind, "--out", kind, "--scans", 4, "--samples-per-scan", 5, *SIZE, cwd=folder
        )
        assert made.code == 0, made.stderr
        written = ("--source", kind, "--kind", kind, "--out", f"{kind}-store", *SIZE)
        assert run("preprocess", *written, cwd=folder).code == 0
    return folder


@pytest.fixture
def train(run, stores):
    """Trains the smoke recipe on a store for an epoch."""

    def start(kind, *flags):
        small = ("--epochs", 1, "--global-batch-size", 2, "--num-workers", 1, "--decoder-filters", 16, 16, 8)
        where = ("--samples", f"{kind}-store", "--storage", "runs")
        return run("train", "smoke", *where, *small, *flags, cwd=stores)

    return start


CASES = {
    "stereo": ("stereo", ("--objective", "stereo", 1), "metres"),
    "mixed": ("stereo", ("--objective", "supervised", 1, "stereo", 0.5, "--accumulation-steps", 2), "metres"),
    "learned": ("video", ("--objective", "video", 1, "--ema-momentum", 0.9, "--no-auto-mask"), "relative depth"),
    "given": ("video", ("--objective", "video", 1, "--poses", "given", "--camera", "canonical"), "metres"),
    "median": ("video", ("--objective", "video", 1, "--scale-from", "median", "--supervised-scales", 2), "metres"),
    "velocity": ("video", ("--objective", "video", 1, "--scale-from", "velocity"), "metres"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_objective_trains_and_registers(train, name):
    kind, flags, output = CASES[name]
    done = train(kind, *flags)
    assert done.code == 0, done.stderr
    metrics = done.result["metrics"]
    assert done.result["output"] == output
    assert done.result["version"] is not None
    assert {"val/abs_rel", "val/abs_rel_aligned", "val/photometric"} <= {*metrics}
    assert ("val/pose_direction_deg" in metrics) == (name in ("learned", "median", "velocity"))
    assert ("train/metres_per_unit" in metrics) == (name in ("median", "velocity"))
    if name == "learned":
        assert metrics["val/abs_rel"] == metrics["val/abs_rel_aligned"]


def test_a_store_of_another_kind_is_refused_before_anything_starts(train, stores):
    done = train("stereo", "--objective", "video", 1)
    assert done.code == 1
    assert "--objective video needs a store of kind video" in done.result["error"]
    assert "--kind video" in done.result["error"]
