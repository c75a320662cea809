"""Names of output files, what is done already, and one process's work on photographs. Ray is not started."""

import io
import json
import os
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depthflow.errors import RegistryError, SourceError
from depthflow.inference.config import PredictConfig
from depthflow.inference.images import find_images
from depthflow.inference.lens import Lens
from depthflow.inference.named_model import NamedModel
from depthflow.inference.outputs import Outputs, output_names, plan_outputs, without_predictions
from depthflow.inference.predict import ImagePredictor
from depthflow.inference.predictor import ConstantPredictor
from depthflow.inference.tiles import TiledPredictor
from depthflow.inference.writers import read_png16
from depthflow.storage.files import DiskFiles
from tests.object_store import serving_bucket

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
    """Names may hold dots, and each makes five files."""
    kinds = ("depth.npy", "depth.png", "depth.json", "panel.png", "ply")
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


ALL = ("npy", "png", "panel")


def outputs(folder: Path, kinds=ALL, **changes) -> Outputs:
    facts = {
        "model": "models:/m/1",
        "output": "metres",
        "lens": Lens(fov_deg=60.0) if {"ply", "viewer"} & {*kinds} else None,
        "settings": {},
    }
    return Outputs(folder=str(folder), kinds=kinds, **{**facts, **changes})


def predicted(paths: list[Path], wanted: Outputs, load=lambda: ConstantPredictor(2.5)) -> list[dict]:
    """Each photograph's row; its name is its stem."""
    return rows_of([str(path) for path in paths], wanted, load)


def rows_of(paths: list[str], wanted: Outputs, load=lambda: ConstantPredictor(2.5)) -> list[dict]:
    """`predicted` for URIs, too."""
    batch = {"path": paths, "name": [Path(path).stem for path in paths]}
    return [json.loads(row) for row in ImagePredictor(load, wanted)(batch)["row"]]


def test_writes_three_files_and_a_sidecar(tmp_path, photograph):
    out = tmp_path / "out"
    [row] = predicted([photograph], outputs(out))
    assert row == {
        "path": str(photograph),
        "outputs": [str(out / f"room.{kind}") for kind in ("depth.npy", "depth.png", "panel.png")],
        "camera": "",
        "reason": "",
        "message": "",
    }
    np.testing.assert_array_equal(np.load(out / "room.depth.npy"), np.full((40, 60), 2.5, np.float32))
    np.testing.assert_array_equal(read_png16(out / "room.depth.png"), np.full((40, 60), 2.5, np.float32))
    assert (out / "room.panel.png").stat().st_size > 1000
    sidecar = json.loads((out / "room.depth.json").read_text())
    assert sidecar["depth_scale_m"] == 0.001
    assert (sidecar["photograph"], sidecar["model"]) == (str(photograph), "models:/m/1")
    assert len(list(out.iterdir())) == 4, "no scratch is left"


def test_relative_depth_pretends_no_metres(tmp_path, photograph):
    """Names, the PNG's scale, the points and the sidecar say what it is."""
    out = tmp_path / "out"
    kinds = (*ALL, "ply", "viewer")
    relative = outputs(out, kinds, output="relative depth")
    [row] = predicted([photograph], relative, lambda: ConstantPredictor(2.5, "relative depth"))
    assert [Path(path).name for path in row["outputs"]] == [
        *(f"room.relative-depth.{kind}" for kind in ("npy", "png")),
        "room.panel.png",
        *(f"room.relative-depth.{kind}" for kind in ("ply", "viewer.html")),
    ]
    sidecar = json.loads((out / "room.depth.json").read_text())
    assert sidecar["output"] == "relative depth" and "depth_scale_m" not in sidecar
    with Image.open(out / "room.relative-depth.png") as png:
        assert {*png.info} == {"relative_depth_scale"}
        np.testing.assert_allclose(np.asarray(png) * sidecar["relative_depth_scale"], 2.5)
    np.testing.assert_array_equal(np.load(out / "room.relative-depth.npy"), np.full((40, 60), 2.5, np.float32))
    assert b"comment relative depth: metres up to an unknown factor" in (out / "room.relative-depth.ply").read_bytes()
    assert "in metres" not in (out / "room.relative-depth.viewer.html").read_text()
    assert relative.is_done(str(photograph), "room") and not outputs(out, kinds).is_done(str(photograph), "room")


@pytest.mark.parametrize(("output", "refused"), [("relative depth", True), ("relative inverse depth", False)])
def test_relative_depth_of_zero_is_insane_but_inverse_depth_may_be(tmp_path, photograph, output, refused):
    wanted = outputs(tmp_path / "out", ("npy",), output=output)
    [row] = predicted([photograph], wanted, lambda: ConstantPredictor(0.0, output))
    assert row["reason"] == ("insane_depth" if refused else "")


def model_of(output: str) -> NamedModel:
    return NamedModel(uri="models:/m/1", load=lambda: ConstantPredictor(1.0, output), output=output, resolved=None)


@pytest.mark.parametrize(
    ("output", "flags", "said"),
    [
        ("relative depth", {"max_depth_m": 20.0}, r"predicts relative depth: without metres, no --max-depth-m\."),
        ("relative inverse depth", {"max_depth_m": 20.0}, "no --point-cloud, --viewer, --tile-px or --max-depth-m"),
        ("relative inverse depth", {"tile_px": 64}, "no --point-cloud, --viewer, --tile-px or --max-depth-m"),
        ("relative inverse depth", {"point_cloud": True}, "no --point-cloud, --viewer, --tile-px or --max-depth-m"),
    ],
)
def test_flags_in_metres_need_metres(tmp_path, output, flags, said):
    config = PredictConfig(model="models:/m/1", images=("room.jpg",), out=str(tmp_path / "out"), **flags)
    with pytest.raises(RegistryError, match=said):
        plan_outputs([model_of(output)], config)


def test_tiles_points_and_viewers_do_with_relative_depth(tmp_path):
    flags = {"tile_px": 64, "point_cloud": True, "viewer": True, "fov_deg": 60.0}
    config = PredictConfig(model="models:/m/1", images=("room.jpg",), out=str(tmp_path / "out"), **flags)
    [planned] = plan_outputs([model_of("relative depth")], config)
    assert (planned.output, planned.kinds) == ("relative depth", (*ALL, "ply", "viewer"))
    tiled = model_of("relative depth").load_tiled(64)()
    assert isinstance(tiled, TiledPredictor) and tiled.output == "relative depth"
    assert isinstance(model_of("relative inverse depth").load_tiled(64)(), ConstantPredictor)


@pytest.mark.parametrize("kinds", [("npy",), ("png",), ("panel", "npy"), ("ply",), ("viewer",), (*ALL, "ply")])
def test_writes_what_is_asked_for_and_nothing_else(tmp_path, photograph, kinds):
    wanted = outputs(tmp_path / "out", kinds)
    [row] = predicted([photograph], wanted)
    assert row["outputs"] == wanted.locations("room") and len(row["outputs"]) == len(kinds)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(Path(file).name for file in row["outputs"]),
        "room.depth.json",
    }


def test_into_a_bucket(tmp_path, photograph):
    """All files of a photograph, whole; the sidecar is last, and is what is asked whether it was done before."""
    with serving_bucket("predictions") as bucket:
        wanted = outputs("s3://predictions/out", ("npy", "png"))
        assert not wanted.is_done(str(photograph), "room")
        predicted([photograph], outputs("s3://predictions/out", ("panel",)))
        [row] = predicted([photograph], wanted)
        assert row["outputs"] == ["s3://predictions/out/room.depth.npy", "s3://predictions/out/room.depth.png"]
        assert set(bucket.ls("predictions/out", detail=False)) == {
            *(location.removeprefix("s3://") for location in row["outputs"]),
            "predictions/out/room.depth.json",
        }
        depth_m = np.load(io.BytesIO(bucket.cat_file("predictions/out/room.depth.npy")))
        np.testing.assert_array_equal(depth_m, np.full((40, 60), 2.5, np.float32))
        assert wanted.is_done(str(photograph), "room")
        bucket.rm("predictions/out/room.depth.png")
        assert not wanted.is_done(str(photograph), "room")
    assert not list(tmp_path.glob("**/*.npy"))


def test_photographs_of_many_sizes_in_one_batch(tmp_path):
    sizes = [(40, 60), (40, 60), (60, 40), (7, 5), (40, 60)]
    paths = [tmp_path / f"{k}.png" for k in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)
    (tmp_path / "broken.png").write_bytes(b"")
    rows = predicted([*paths[:2], tmp_path / "broken.png", *paths[2:]], outputs(tmp_path / "out", ("npy",)))
    assert {row["path"]: row["reason"] for row in rows} == {
        **{str(path): "" for path in paths},
        str(tmp_path / "broken.png"): "empty_file",
    }
    for path, size in zip(paths, sizes, strict=True):
        assert np.load(tmp_path / "out" / f"{path.stem}.depth.npy").shape == size


def test_each_photograph_gets_its_own_depth(tmp_path):
    """The predictor answers with the red channel, so that a mix-up would be seen."""

    class Red:
        output = "metres"

        def __call__(self, rgb, focal=None):
            return rgb[..., 0].astype(np.float32) + 1

    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        Image.fromarray(np.full((5, 6, 3), 10 * k, np.uint8)).save(path)
    predicted(paths, outputs(tmp_path / "out", ("npy",)), Red)
    for k in range(6):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{k}.depth.npy"), 10 * k + 1)


def test_done_is_what_an_earlier_run_left_whole(tmp_path, photograph):
    wanted = outputs(tmp_path / "out")
    done = {"path": str(photograph), "name": "room"}
    assert not wanted.is_done(**done)
    predicted([photograph], wanted)
    assert wanted.is_done(**done)
    assert outputs(tmp_path / "out", ("npy",)).is_done(**done), "a part of it"
    for other in ({"model": "models:/m/2"}, {"settings": {"tile_px": 512}}, {"kinds": (*ALL, "ply")}):
        assert not outputs(tmp_path / "out", **other).is_done(**done), other
    assert not wanted.is_done(path=str(tmp_path / "another.jpg"), name="room")


def test_files_of_another_model_are_not_taken_for_this_ones(tmp_path, photograph):
    """The first model leaves a PNG; the second writes no PNG, and is asked for one later."""
    out, done = tmp_path / "out", {"path": str(photograph), "name": "room"}
    predicted([photograph], outputs(out, ("npy", "png")))
    predicted([photograph], outputs(out, ("npy",), model="models:/m/2"), lambda: ConstantPredictor(5.0))
    assert sorted(path.name for path in out.iterdir()) == ["room.depth.json", "room.depth.npy"]
    both = outputs(out, ("npy", "png"), model="models:/m/2")
    assert outputs(out, ("npy",), model="models:/m/2").is_done(**done) and not both.is_done(**done)
    predicted([photograph], both, lambda: ConstantPredictor(5.0))
    assert both.is_done(**done)
    assert read_png16(out / "room.depth.png")[0, 0] == 5.0


@pytest.mark.parametrize("harm", ["photograph changed", "file gone", "sidecar gone", "sidecar cut", "sidecar strange"])
def test_what_is_not_whole_is_done_again(tmp_path, photograph, harm):
    wanted = outputs(tmp_path / "out")
    predicted([photograph], wanted)
    sidecar = tmp_path / "out" / "room.depth.json"
    match harm:
        case "photograph changed":
            Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(photograph)
        case "file gone":
            (tmp_path / "out" / "room.depth.png").unlink()
        case "sidecar gone":
            sidecar.unlink()
        case "sidecar cut":
            sidecar.write_text(sidecar.read_text()[:20])
        case "sidecar strange":
            sidecar.write_text("[1]")
    assert not wanted.is_done(path=str(photograph), name="room")


def test_broken_photograph_is_reported_and_nothing_written(tmp_path):
    path = tmp_path / "note.jpg"
    path.write_text("no photograph")
    [row] = predicted([path], outputs(tmp_path / "out"))
    assert (row["path"], row["outputs"], row["reason"]) == (str(path), [], "unreadable_image")
    assert "13 bytes" in row["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0, -1.0])
def test_insane_depth_is_reported_and_nothing_written(tmp_path, photograph, broken):
    def load():
        def predict(rgb, focal):
            depth_m = np.ones(rgb.shape[:3], np.float32)
            depth_m[0, 3, 4] = broken
            return depth_m

        return predict

    [row] = predicted([photograph], outputs(tmp_path / "out"), load)
    assert (row["outputs"], row["reason"]) == ([], "insane_depth")
    assert not (tmp_path / "out").exists()


# --- whose files they are ---


@pytest.mark.parametrize("ending", ["depth.npy", "depth.png", "panel.png", "depth.json"])
def test_a_file_that_is_not_ours_stays_and_the_photograph_is_a_reject(tmp_path, photograph, ending):
    out = tmp_path / "out"
    out.mkdir()
    (out / f"room.{ending}").write_bytes(b"the user's")
    [row] = predicted([photograph], outputs(out))
    assert (row["reason"], row["outputs"]) == ("name_taken", [])
    assert f"{out}/room.{ending}" in row["message"] and "--out" in row["message"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {f"room.{ending}": b"the user's"}


def test_files_that_are_not_asked_for_stay(tmp_path, photograph):
    """Beside the photographs: a point cloud and a panel of the user's, of the names that ours would have."""
    for name in ("room.ply", "room.panel.png", "room.compare.png", "room.depth.txt"):
        (tmp_path / name).write_bytes(b"the user's")
    for _ in range(2):
        [row] = predicted([photograph], outputs(tmp_path, ("npy",)))
        assert row["reason"] == ""
    assert (tmp_path / "room.ply").read_bytes() == (tmp_path / "room.panel.png").read_bytes() == b"the user's"
    assert (tmp_path / "room.compare.png").exists() and (tmp_path / "room.depth.txt").exists()


def test_another_photograph_of_the_same_name_is_a_reject(tmp_path):
    paths = [tmp_path / folder / "room.png" for folder in ("x", "y")]
    for k, path in enumerate(paths):
        path.parent.mkdir()
        Image.fromarray(np.full((4, 6, 3), k, np.uint8)).save(path)
    wanted = outputs(tmp_path / "out", ("npy",))
    assert predicted(paths[:1], wanted)[0]["reason"] == ""
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    [row] = predicted(paths[1:], wanted)
    assert row["reason"] == "name_taken" and str(paths[0]) in row["message"]
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not wanted.is_done(str(paths[1]), "room") and wanted.is_done(str(paths[0]), "room")


@pytest.mark.parametrize("written", range(1, 5))
def test_what_a_killed_run_left_is_ours(tmp_path, photograph, monkeypatch, written):
    """Killed after so many commits: the sidecar, three files, and the sidecar again."""
    out, commits = tmp_path / "out", iter(range(100))
    commit = DiskFiles.commit

    def killed(self, path, **options):
        if next(commits) == written:
            raise KeyboardInterrupt
        return commit(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DiskFiles, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            predicted([photograph], outputs(out))
    assert len(list(out.iterdir())) == written
    assert not outputs(out).is_done(str(photograph), "room")
    [row] = predicted([photograph], outputs(out, ("png",), model="models:/m/2"))
    assert row["reason"] == ""
    assert {path.name for path in out.iterdir()} == {"room.depth.png", "room.depth.json"}


@pytest.mark.parametrize("listed", [["../victim.png"], ["/etc/victim"], ["other.depth.npy"], "room.ply", [7], None])
def test_a_forged_sidecar_removes_nothing_else(tmp_path, photograph, listed):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "victim.png").write_bytes(b"the user's")
    (out / "other.depth.npy").write_bytes(b"the user's")
    (out / "room.depth.json").write_text(json.dumps({"photograph": str(photograph), "outputs": listed}))
    predicted([photograph], outputs(out, ("npy",)))
    assert (tmp_path / "victim.png").exists() and (out / "other.depth.npy").read_bytes() == b"the user's"


def test_what_we_made_is_never_an_input(tmp_path, photograph):
    """The photographs' own folder as --out, run after run."""
    named = (tmp_path / "my.depth.png", tmp_path / "sky.panel.png")
    for path in named:  # The user's, of names like ours.
        path.write_bytes(photograph.read_bytes())
    inputs = [str(path) for path in sorted((*named, photograph))]
    for kinds in (ALL, ALL, ("panel",)):
        assert without_predictions(find_images((str(tmp_path),))) == inputs
        predicted([photograph], outputs(tmp_path, kinds))
    assert without_predictions([*inputs, str(tmp_path / "room.panel.png")]) == inputs
    with pytest.raises(SourceError, match="made by predict"):
        without_predictions([str(tmp_path / "room.panel.png")])


def test_what_we_made_in_a_bucket_is_never_an_input(photograph):
    with serving_bucket("predictions") as bucket:
        bucket.pipe("predictions/room.png", photograph.read_bytes())
        for _ in range(2):
            assert without_predictions(find_images(("s3://predictions/",))) == ["s3://predictions/room.png"]
            [row] = rows_of(["s3://predictions/room.png"], outputs("s3://predictions", ALL))
            assert row["reason"] == "", row


def test_a_name_that_is_too_long_for_its_files_is_a_reject(tmp_path):
    path = tmp_path / f"{'x' * 250}.png"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
    wanted = outputs(tmp_path / "out")
    assert not wanted.is_done(str(path), path.stem)
    [row] = predicted([path], wanted)
    assert row["reason"] == "name_too_long" and "255" in row["message"]


def test_a_name_that_is_not_utf8(tmp_path):
    """As Arrow carries it: in bytes."""
    path = tmp_path / "room-\udce9.png"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
    wanted = outputs(tmp_path / "out", ("npy",))
    batch = {"path": pa.array([os.fsencode(path)]).to_pylist(), "name": pa.array([os.fsencode(path.stem)]).to_pylist()}
    [row] = [json.loads(row) for row in ImagePredictor(lambda: ConstantPredictor(2.5), wanted)(batch)["row"]]
    assert (row["path"], row["reason"]) == (str(path), "")
    assert np.load(tmp_path / "out" / f"{path.stem}.depth.npy").shape == (4, 6)
    assert wanted.is_done(str(path), path.stem)


# --- the lens ---


class Focal:
    """Predicts the relative focal length that it is given."""

    output = "metres"

    def __call__(self, rgb, focal=None):
        return np.broadcast_to(np.asarray(focal, np.float32)[:, None, None], rgb.shape[:3]).copy()


def with_lens(tmp_path, photograph, **changes):
    """The row, the depth and the sidecar of a photograph of 40 x 60."""
    (row,) = predicted([photograph], outputs(tmp_path / "out", ("npy",), **changes), Focal)
    sidecar = json.loads((tmp_path / "out/room.depth.json").read_bytes())
    return row, np.load(tmp_path / "out/room.depth.npy"), sidecar


def test_a_model_gets_the_lens_and_the_sidecar_says_where_it_is_from(tmp_path, photograph):
    row, depth, sidecar = with_lens(tmp_path, photograph, lens=Lens(fx_px=30.0, fy_px=80.0))
    assert row["camera"] == sidecar["camera"]["source"] == "flags"
    assert (sidecar["camera"]["fx_px"], sidecar["camera"]["fy_px"]) == (30.0, 80.0)
    np.testing.assert_allclose(depth, 1.0)  # The root of 30 / 60 x 80 / 40.
    row, depth, _ = with_lens(tmp_path, photograph, median_focal=0.75)
    assert row["camera"] == "training median"
    np.testing.assert_allclose(depth, 0.75)


def test_a_camera_beside_the_photographs_is_theirs(tmp_path, photograph):
    camera = {"width": 120, "height": 80, "fx_px": 60.0, "fy_px": 160.0, "cx_px": 60.0, "cy_px": 40.0}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    row, depth, _ = with_lens(tmp_path, photograph, median_focal=0.75)
    assert row["camera"] == "camera.json"
    np.testing.assert_allclose(depth, 1.0)
    (tmp_path / "camera.json").write_text(json.dumps({**camera, "width": 300}))
    (row,) = predicted([photograph], outputs(tmp_path / "other", ("npy",)), Focal)
    assert row["reason"] == "wrong_camera" and "80 x 300" in row["message"]


def test_points_without_any_camera_are_rejected(tmp_path, photograph):
    (row,) = predicted([photograph], outputs(tmp_path / "out", ("ply",), lens=None))
    assert row["reason"] == "no_camera"


def test_depth_beyond_the_limit_is_marked(tmp_path, photograph):
    _, depth, sidecar = with_lens(tmp_path, photograph, median_focal=0.75, max_depth_m=0.5)
    assert np.isnan(depth).all()
    assert sidecar["max_depth_m"] == 0.5
