"""Names of output files, and one process's work on one photograph. Ray is not started."""

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depthflow.inference.predict import PhotographPredictor, output_names
from depthflow.inference.predictor import ConstantPredictor
from depthflow.inference.writers import read_png16

parts = st.text(alphabet=string.ascii_lowercase[:2] + "._0", min_size=1, max_size=4).filter(
    lambda part: part not in (".", "..")
)
photograph_paths = st.lists(st.tuples(parts, parts).map(lambda pair: f"/photos/{pair[0]}/{pair[1]}"), unique=True)


@given(photograph_paths)
def test_names_are_unique_and_stay_in_their_folder(paths):
    names = output_names(paths)
    assert len(names) == len(paths)
    assert len(set(names)) == len(names)
    for name in names:
        assert (Path("/out") / f"{name}.depth.npy").parent == Path("/out")


@given(photograph_paths)
def test_files_of_two_photographs_never_meet(paths):
    """Names may hold dots, and each makes four files."""
    kinds = ("depth.npy", "depth.png", "depth.json", "panel.png")
    files = [f"{name}.{kind}" for name in output_names(paths) for kind in kinds]
    assert len(set(files)) == len(files)


def test_names_by_hand():
    assert output_names(["/a/one.jpg", "/b/two.png"]) == ["one", "two"]
    assert output_names(["/a/one.jpg", "/b/one.jpg", "/b/two.jpg"]) == ["a_one_jpg", "b_one_jpg", "two"]
    assert output_names(["/a/one.jpg", "/a/one.png"]) == ["a_one_jpg", "a_one_png"]
    assert output_names(["/x/a/one.jpg", "/y/a/one.jpg"]) == ["00000_a_one_jpg", "00001_a_one_jpg"]
    assert output_names([]) == []


# --- one photograph ---


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "room.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


def test_writes_three_files(tmp_path, photograph):
    worker = PhotographPredictor(lambda: ConstantPredictor(2.5), str(tmp_path / "out"))
    row = worker({"path": str(photograph), "name": "room"})
    out = tmp_path / "out"
    assert row == {
        "path": str(photograph),
        "outputs": [str(out / f"room.{kind}") for kind in ("depth.npy", "depth.png", "panel.png")],
        "reason": "",
        "message": "",
    }
    np.testing.assert_array_equal(np.load(out / "room.depth.npy"), np.full((40, 60), 2.5, np.float32))
    np.testing.assert_array_equal(read_png16(out / "room.depth.png"), np.full((40, 60), 2.5, np.float32))
    assert (out / "room.panel.png").stat().st_size > 1000


def test_broken_photograph_is_reported_and_nothing_written(tmp_path):
    path = tmp_path / "note.jpg"
    path.write_text("no photograph")
    row = PhotographPredictor(lambda: ConstantPredictor(2.5), str(tmp_path / "out"))(
        {"path": str(path), "name": "note"}
    )
    assert (row["path"], row["outputs"], row["reason"]) == (str(path), [], "unreadable_image")
    assert "13 bytes" in row["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0, -1.0])
def test_insane_depth_is_reported_and_nothing_written(tmp_path, photograph, broken):
    def load():
        def predict(rgb):
            depth_m = np.ones(rgb.shape[:3], np.float32)
            depth_m[0, 3, 4] = broken
            return depth_m

        return predict

    row = PhotographPredictor(load, str(tmp_path / "out"))({"path": str(photograph), "name": "room"})
    assert (row["outputs"], row["reason"]) == ([], "insane_depth")
    assert not (tmp_path / "out").exists()
