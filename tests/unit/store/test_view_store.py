"""Stores of kind stereo and video, from frame tables to arrays: views, cameras and poses, with depth and without it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from depthflow.errors import StoreError
from depthflow.store.read.reader import SplitReader
from depthflow.store.schema import index_schema
from depthflow.store.store import open_store
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import _require_same_settings, content_config
from tests.archives import pack
from tests.stores import make_store
from tests.view_trees import (
    FX_PX,
    HEIGHT,
    PX_PER_FRAME,
    STEP_M,
    WALL_M,
    WIDTH,
    seen_from,
    wall,
    write_pairs,
    write_png,
    write_table,
    write_video,
)


def make(source, out, **changes):
    defaults = {"height": HEIGHT, "width": WIDTH, "splits": ("train",)}
    return make_store(PreprocessConfig(source=(str(source),), out=str(out), **{**defaults, **changes}))


def read_all(store, *planes):
    """Every sample of train, by id."""
    reader = SplitReader(store, "train", planes=("rgb", "log_depth", "valid_mask", *planes))
    return reader.read(np.arange(len(reader)))


def place(batch, sample_id):
    return batch.sample_ids.index(sample_id)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root, 5)
    return root


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    root = tmp_path_factory.mktemp("video")
    write_video(root, 12, scans=("a", "b"))
    return root


@pytest.fixture(scope="module")
def stereo_store(pairs, tmp_path_factory):
    return make(pairs, tmp_path_factory.mktemp("stereo") / "out", kind="stereo")


@pytest.fixture(scope="module")
def video_store(video, tmp_path_factory):
    return make(video, tmp_path_factory.mktemp("video") / "out", kind="video")


def test_a_stereo_store(stereo_store):
    assert (stereo_store.kind, stereo_store.views) == ("stereo", ("right",))
    assert stereo_store.manifest["config"]["kind"] == "stereo"
    assert not {"frame_step", "min_motion_m"} & stereo_store.manifest["config"].keys()
    assert stereo_store.index.schema.equals(index_schema("stereo"))
    batch = read_all(stereo_store, "right")
    assert batch.views.shape == (5, 1, HEIGHT, WIDTH, 3)
    for number in range(5):
        k = place(batch, f"own/train/pair{number}/left")
        np.testing.assert_array_equal(batch.rgb[k], seen_from(wall(number), 0))
        np.testing.assert_array_equal(batch.views[k, 0], seen_from(wall(number), 1))
    geometry = batch.geometry
    np.testing.assert_array_equal(geometry.camera, [[FX_PX, FX_PX, WIDTH / 2, HEIGHT / 2]] * 5)
    np.testing.assert_array_equal(geometry.view_cameras, geometry.camera[:, None])
    wanted = np.eye(4)
    wanted[0, 3] = -STEP_M
    np.testing.assert_array_equal(geometry.view_poses, np.broadcast_to(wanted, (5, 1, 4, 4)))
    assert np.isnan(geometry.time_s).all()


def test_a_video_store(video_store):
    """The first and the last frame of each scan have no neighbours."""
    assert (video_store.kind, video_store.views) == ("video", ("previous", "next"))
    assert video_store.manifest["counts"] == {"train": {"indoors": 20}}
    assert video_store.manifest["rejects_by_reason"] == {"no_neighbour": 4}
    batch = read_all(video_store, "previous", "next")
    for key, scan in enumerate("ab"):
        for number in range(1, 11):
            k = place(batch, f"own/{scan}/{number}")
            for view, other in enumerate((number - 1, number + 1)):
                np.testing.assert_array_equal(batch.views[k, view], seen_from(wall(1000 + key), other))
            assert batch.geometry.time_s[k] == number / 10
            wanted = np.tile(np.eye(4), (2, 1, 1))
            wanted[:, 0, 3] = STEP_M, -STEP_M
            np.testing.assert_allclose(batch.geometry.view_poses[k], wanted, atol=1e-6)


def projected_columns(batch):
    """Where the views show each pixel of each frame by its depth, cameras and pose: (n, V, H, W) in pixels."""
    geometry, depth_m = batch.geometry, np.exp(batch.log_depth)
    fx, fy, cx, cy = (geometry.camera[:, None, None, k] for k in range(4))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    points = np.stack([(columns - cx) / fx * depth_m, (rows - cy) / fy * depth_m, depth_m, np.ones_like(depth_m)], -1)
    moved = np.einsum("nvij,nhwj->nvhwi", geometry.view_poses, points)
    cameras = geometry.view_cameras[:, :, None, None]
    return moved[..., 0] / moved[..., 2] * cameras[..., 0] + cameras[..., 2]


@pytest.mark.parametrize("kind", ["stereo", "video"])
def test_a_view_shows_each_pixel_where_depth_and_pose_say(kind, request):
    batch = read_all(store := request.getfixturevalue(f"{kind}_store"), *request.getfixturevalue(f"{kind}_store").views)
    columns = projected_columns(batch)
    for view, _ in enumerate(store.views):
        for k in range(len(batch.sample_ids)):
            shift = round(float(columns[k, view, 0, 0] - 0.5))
            assert abs(shift) == PX_PER_FRAME
            np.testing.assert_allclose(columns[k, view] - np.arange(WIDTH) - 0.5, shift, atol=1e-4)
            ours, theirs = batch.rgb[k], batch.views[k, view]
            here, there = (slice(max(0, -shift), WIDTH - max(0, shift)), slice(max(0, shift), WIDTH + min(0, shift)))
            np.testing.assert_array_equal(theirs[:, there], ours[:, here])


def test_cameras_are_at_the_stored_size(video, tmp_path):
    batch = read_all(make(video, tmp_path / "out", kind="video", height=HEIGHT // 2, width=WIDTH // 4), "previous")
    np.testing.assert_array_equal(batch.geometry.camera[0], [FX_PX / 4, FX_PX / 2, WIDTH / 8, HEIGHT / 4])
    np.testing.assert_array_equal(batch.geometry.view_cameras[0], [batch.geometry.camera[0]] * 2)
    assert batch.planes["previous"].shape[1:] == (HEIGHT // 2, WIDTH // 4, 3)


def test_view_planes_are_views_of_the_file(video_store):
    """Neighbouring rows of one row group are read without a copy: they lie in the mapped shard."""
    reader = SplitReader(video_store, "train", planes=("rgb", "next"))
    for _ in range(2):
        batch = reader.read([0, 1])
    plane = batch.planes["next"]
    assert not plane.flags.writeable
    assert not plane.flags.owndata
    np.testing.assert_array_equal(plane, reader.read([1, 0]).planes["next"][::-1])


def test_a_store_is_readable_by_pyarrow_alone(video_store):
    shard = video_store.manifest["shards"][0]["path"]
    table = pq.read_table(Path(video_store.files.root, shard))
    rows = table.to_pylist()
    assert len(rows[0]["next"]) == HEIGHT * WIDTH * 3
    assert len(rows[0]["next_camera"]) == 4
    assert np.reshape(rows[0]["next_pose"], (4, 4))[0, 3] == pytest.approx(-STEP_M)
    frame = table.drop_columns(["rgb", "previous", "next"]).to_pandas()
    assert frame["time_s"].notna().all()


# --- without depth ---


@pytest.mark.parametrize(("kind", "write"), [("stereo", write_pairs), ("video", write_video)])
def test_depth_is_optional(tmp_path, kind, write):
    write(tmp_path, 5, with_depth=False)
    store = make(tmp_path, tmp_path / "out", kind=kind)
    batch = read_all(store)
    assert not batch.valid_mask.any()
    assert not batch.log_depth.any()
    row = store.index.to_pylist()[0]
    assert [row[name] for name in ("depth_min_m", "depth_median_m", "depth_max_m", "log_depth_mean", "depth_xxh3")] == [
        None
    ] * 5
    assert (row["valid_fraction"], row["edge_fraction"]) == (0, 0)
    assert (row["source_height"], row["source_width"]) == (HEIGHT, WIDTH)
    assert not store.has_depth("train")
    with pytest.raises(StoreError, match=r"No sample of the train split of .* has depth, a store of kind"):
        store.mean_log_depth("train")


def test_samples_without_depth_do_not_count_in_the_mean(tmp_path):
    rows = write_pairs(tmp_path, 4)
    for row in rows[:2]:
        del row["depth"]
    write_table(tmp_path, rows)
    store = make(tmp_path, tmp_path / "out", kind="stereo")
    assert store.index.num_rows == 4
    assert store.mean_log_depth("train") == pytest.approx(np.log(WALL_M))
    assert store.has_depth("train")


def test_a_depth_without_a_valid_pixel_is_none(tmp_path):
    rows = write_pairs(tmp_path, 2)
    np.save(tmp_path / rows[0]["depth"], np.zeros((HEIGHT, WIDTH), np.float32))
    store = make(tmp_path, tmp_path / "out", kind="stereo")
    assert sorted(store.index["depth_median_m"].to_pylist(), key=lambda m: m or 0) == [None, pytest.approx(WALL_M)]


def test_a_store_of_kind_depth_takes_no_notice_of_views(tmp_path):
    rows = write_pairs(tmp_path, 3)
    one = make(tmp_path, tmp_path / "one")
    Path(tmp_path, rows[0]["right_image"]).unlink()
    two = make(tmp_path, tmp_path / "two")
    bare = [{name: row[name] for name in ("image", "depth", "split", "fx_px", "width", "height")} for row in rows]
    write_table(tmp_path, bare)
    three = make(tmp_path, tmp_path / "three")
    assert one.fingerprint == two.fingerprint == three.fingerprint
    assert one.manifest["shards"] == three.manifest["shards"]
    assert (one.kind, one.views, "kind" in one.manifest["config"]) == ("depth", (), False)
    batch = read_all(one)
    assert batch.geometry is None
    with pytest.raises(AttributeError, match="no further views"):
        _ = batch.views


# --- the fingerprint ---


def test_a_fingerprint_depends_on_views_and_their_geometry(tmp_path):
    rows = write_pairs(tmp_path, 3)
    found = [make(tmp_path, tmp_path / "0", kind="stereo").fingerprint]
    assert make(tmp_path, tmp_path / "again", kind="stereo").fingerprint == found[0]
    for number, change in enumerate(({"baseline_m": 0.5}, {"right_cx_px": 17.0}, {"baseline_m": ""}), start=1):
        write_table(tmp_path, [{**rows[0], **change}, *rows[1:]])
        found.append(make(tmp_path, tmp_path / str(number), kind="stereo").fingerprint)
    write_table(tmp_path, rows)
    write_png(tmp_path / rows[0]["right_image"], seen_from(wall(99), 1))
    found.append(make(tmp_path, tmp_path / "image", kind="stereo").fingerprint)
    assert len({*found}) == len(found)


def test_a_fingerprint_depends_on_poses_and_times(tmp_path):
    rows = write_video(tmp_path, 4)
    found = [make(tmp_path, tmp_path / "0", kind="video").fingerprint]
    moved = rows[1]["pose"].copy()
    moved[2, 3] += 0.01
    for name, value in (("pose", moved), ("time_s", 0.15)):
        write_table(tmp_path, [rows[0], {**rows[1], name: value}, *rows[2:]])
        found.append(make(tmp_path, tmp_path / name, kind="video").fingerprint)
    assert len({*found}) == 3


def test_another_step_is_another_configuration(video_store):
    config = PreprocessConfig(source=("x",), out="y", kind="video", frame_step=3, height=HEIGHT, width=WIDTH)
    asked = content_config(dataclasses.replace(config, splits=("train",)))
    with pytest.raises(StoreError, match=r"another configuration: frame_step 1 \(now 3\)\. Choose"):
        _require_same_settings(video_store.files, asked)


# --- archives ---


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("kind", ["stereo", "video"])
def test_an_archive_gives_the_store_of_its_tree(kind, ending, pairs, video, request, tmp_path):
    tree = request.getfixturevalue("pairs" if kind == "stereo" else "video")
    store = make(pack(tmp_path / f"frames{ending}", tree), tmp_path / "out", kind=kind)
    assert store.fingerprint == request.getfixturevalue(f"{kind}_store").fingerprint


# --- damage ---


def test_a_plane_that_the_store_lacks_is_named(stereo_store):
    with pytest.raises(StoreError, match=r"kind stereo, whose planes are rgb, .*right\. Received: previous"):
        SplitReader(stereo_store, "train", planes=("rgb", "previous"))


def test_a_manifest_of_another_kind_disagrees_with_its_index(stereo_store, tmp_path):
    root = shutil.copytree(stereo_store.files.root, tmp_path / "copy")
    manifest = root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kind": "stereo"', '"kind": "video"'))
    with pytest.raises(StoreError, match="its columns are"):
        _ = open_store(str(root)).index
    manifest.write_text(manifest.read_text().replace('"kind": "video"', '"kind": "films"'))
    with pytest.raises(StoreError, match="is wrong"):
        open_store(str(root))
