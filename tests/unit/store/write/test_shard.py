"""A shard: made of real files, read back by pyarrow alone."""

import dataclasses
import json
import pickle
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash

from depthflow.datasets.camera import Camera
from depthflow.datasets.frame_table import frame_table
from depthflow.errors import SourceError, StoreError
from depthflow.storage.files import open_files
from depthflow.store.schema import ROW_SCHEMA, SECONDS_FIELD, shard_schema
from depthflow.store.write.plan import ShardPlan, plan_samples
from depthflow.store.write.planes import make_planes
from depthflow.store.write.sample import SampleLayout
from depthflow.store.write.shard import (
    committed_plan_digest,
    make_shard,
    read_shard_record,
    rows_per_group,
)
from depthflow.store.write.sources import Source
from depthflow.store.write.staging import sample_maker
from tests.stores import diode_frames

PATH = "split=train/part-00000.parquet"
PLANES = ("rgb", "log_depth", "valid_mask", "edge_mask")
SCAN = "00001_00001_indoors"


def plan_of(source, settings="{}", camera=None):
    frames = [dataclasses.replace(frame, camera=camera) for frame in diode_frames(str(source), ("train",))]
    listed = Source(location=str(source), frames=frame_table(frames))
    return ShardPlan(path=PATH, rows=plan_samples([listed]), settings=settings)


def layout_of(height, width):
    return SampleLayout(height=height, width=width, edge_relative_jump=0.1, edge_radius_px=1)


def make(source, out, *, size, camera=None, plan=None, watch=lambda planned: nullcontext()):
    files = open_files(str(out))
    layout = layout_of(*size)
    plan = plan or plan_of(source, camera=camera)
    record = make_shard(plan, files=files, layout=layout, make=sample_maker(layout, files), watch=watch)
    return files, record


def read_alone(path):
    """A shard's rows, read with what its own schema says and nothing of depthflow."""
    table = pq.read_table(path, partitioning=None)
    rows = table.to_pylist()
    for name in PLANES:
        about = table.schema.field(name).metadata
        for row in rows:
            row[name] = np.frombuffer(row[name], about[b"dtype"].decode()).reshape(json.loads(about[b"shape"]))
    return rows


@pytest.fixture
def source(tmp_path, write):
    write.tree(tmp_path / "tree", {"train": {SCAN: 20}})
    return tmp_path / "tree"


def test_pyarrow_alone_reads_what_was_stored(tmp_path, write):
    tree = write.tree(tmp_path / "tree", {"train": {SCAN: 5, "00002_00003_outdoor": 4}})["train"]
    make(tmp_path / "tree", tmp_path / "out", size=(write.height, write.width))
    rows = read_alone(tmp_path / "out" / PATH)
    assert sorted(row["sample_id"] for row in rows) == sorted(tree)
    for row in rows:
        rgb, depth, mask = tree[row["sample_id"]]
        valid = mask > 0
        np.testing.assert_array_equal(row["rgb"], rgb)
        np.testing.assert_array_equal(row["valid_mask"], valid)
        np.testing.assert_allclose(np.exp(row["log_depth"].astype(np.float64))[valid], depth[valid], rtol=1e-4)
        assert not row["log_depth"][~valid].any()
        assert (row["source_height"], row["source_width"]) == (write.height, write.width)
        assert row["split"] == "train"
        scene, scan, scene_type = row["sample_id"].split("_")[:3]
        assert (row["scene"], row["scan"], row["scene_type"]) == (f"scene_{scene}", f"scan_{scan}", scene_type)


def test_rows_are_in_the_plans_order_and_resized(tmp_path, write, source):
    plan = plan_of(source)
    plan = dataclasses.replace(plan, rows=plan.rows.take([*range(plan.rows.num_rows)][::-1]))
    make(source, tmp_path / "out", size=(4, 5), plan=plan)
    rows = read_alone(tmp_path / "out" / PATH)
    assert [row["sample_id"] for row in rows] == [s.frame.sample_id for s in plan.samples]
    for row in rows:
        rgb, depth, mask = write.frame([*SCAN.encode(), int(row["sample_id"].split("_")[3])])
        wanted = make_planes(
            rgb=rgb, depth_m=depth, valid_mask=mask > 0, height=4, width=5, edge_relative_jump=0.1, edge_radius_px=1
        )
        for name in PLANES:
            np.testing.assert_array_equal(row[name], getattr(wanted, name))


def test_figures_and_checksums_are_the_samples_own(tmp_path, write, source):
    make(source, tmp_path / "out", size=(write.height, write.width))
    for row in read_alone(tmp_path / "out" / PATH):
        depth = np.exp(row["log_depth"].astype(np.float64))[row["valid_mask"]]
        assert row["depth_min_m"] == pytest.approx(depth.min(), rel=1e-6)
        assert row["depth_max_m"] == pytest.approx(depth.max(), rel=1e-6)
        assert row["valid_fraction"] == pytest.approx(row["valid_mask"].mean())
        assert row["edge_fraction"] == pytest.approx(row["edge_mask"].mean())
        assert row["log_depth_mean"] == pytest.approx(row["log_depth"][row["valid_mask"]].mean(), rel=1e-5)
        stem = source / f"train/indoors/scene_00001/scan_00001/{row['sample_id']}"
        for name, suffix in (("rgb", ".png"), ("depth", "_depth.npy"), ("mask", "_depth_mask.npy")):
            assert row[f"{name}_xxh3"] == xxhash.xxh3_128_hexdigest(Path(f"{stem}{suffix}").read_bytes())
        content = b"".join(np.ascontiguousarray(row[name]).tobytes() for name in PLANES) + b"None"  # No camera.
        assert row["content_xxh3"] == xxhash.xxh3_128_hexdigest(content)


def test_the_camera_is_at_the_stored_size_or_unknown(tmp_path, write, source):
    camera = Camera(width=80, height=60, fx_px=100.0, fy_px=90.0, cx_px=40.0, cy_px=30.0)
    make(source, tmp_path / "stated", size=(12, 4), camera=camera)
    for row in read_alone(tmp_path / "stated" / PATH):
        assert [row[k] for k in ("fx_px", "fy_px", "cx_px", "cy_px")] == pytest.approx([5.0, 18.0, 2.0, 6.0])
    make(source, tmp_path / "unknown", size=(12, 4))
    for row in read_alone(tmp_path / "unknown" / PATH):
        assert [row[k] for k in ("fx_px", "fy_px", "cx_px", "cy_px")] == [None] * 4


def test_every_reject_is_recorded_with_its_reason(tmp_path, write, source):
    rgb, depth, mask = write.frame(0)
    first = [f"{SCAN}_{i:03d}_000" for i in range(10)]
    folder = write.triplet(source, "train", first[0], rgb, depth, mask * 0)
    write.triplet(source, "train", first[1], rgb, np.ones_like(depth, np.int32), mask)
    write.triplet(source, "train", first[2], rgb, depth * np.nan, mask)
    write.triplet(source, "train", first[3], rgb[:-1], depth, mask)
    write.triplet(source, "train", first[4], rgb, np.stack([depth, depth], axis=-1), mask)
    image = folder / f"{first[5]}.png"
    image.write_bytes(image.read_bytes()[:-30])
    (folder / f"{first[6]}_depth.npy").write_bytes(b"x" * 300)
    (folder / f"{first[7]}_depth_mask.npy").write_bytes(b"")
    (folder / f"{first[8]}_depth_mask.npy").unlink()
    write.triplet(source, "train", "00009_00009_indoors_000_000", rgb, depth, mask)
    (source / "train/indoors/scene_00009").rename(source / "train/indoors/scene_00008")

    _, record = make(source, tmp_path / "out", size=(write.height, write.width))

    rejects = {row["sample_id"]: row for row in record.rejects.to_pylist()}
    assert {sample_id: row["reason"] for sample_id, row in rejects.items()} == {
        first[0]: "no_valid_pixel",
        first[1]: "wrong_dtype",
        first[2]: "non_finite_depth",
        first[3]: "shape_mismatch",
        first[4]: "wrong_shape",
        first[5]: "unreadable_image",
        first[6]: "unreadable_array",
        first[7]: "empty_file",
        first[8]: "missing_member",
        "00009_00009_indoors_000_000": "bad_name",
    }
    assert all(row["message"] and row["source"] == str(source) and row["split"] == "train" for row in rejects.values())
    kept = record.rows["sample_id"].to_pylist()
    assert len(kept) + len(rejects) == 21
    assert not set(kept) & set(rejects)


def test_a_sample_without_valid_pixels_after_sampling_is_rejected(tmp_path, write):
    rgb, depth, mask = write.frame(0)
    lone = np.zeros_like(mask)
    lone[0, 0] = 1
    write.triplet(tmp_path / "tree", "train", f"{SCAN}_000_000", rgb, depth, lone)
    _, record = make(tmp_path / "tree", tmp_path / "out", size=(2, 2))
    assert record.rejects["reason"].to_pylist() == ["no_valid_pixel"]
    assert "2 x 2" in record.rejects["message"][0].as_py()


def test_a_shard_of_rejects_alone_is_complete(tmp_path, write):
    rgb, depth, mask = write.frame(0)
    for i in range(3):
        write.triplet(tmp_path / "tree", "train", f"{SCAN}_{i:03d}_000", rgb, depth, mask * 0)
    _, record = make(tmp_path / "tree", tmp_path / "out", size=(2, 2))
    assert (record.rows.num_rows, record.rejects.num_rows) == (0, 3)
    assert read_alone(tmp_path / "out" / PATH) == []


def test_a_record_matches_the_file(tmp_path, write, source):
    files, record = make(source, tmp_path / "out", size=(4, 4))
    content = (tmp_path / "out" / PATH).read_bytes()
    assert (record.path, record.file_bytes) == (PATH, len(content))
    assert record.file_xxh3 == xxhash.xxh3_128_hexdigest(content)
    assert record.rows.schema == ROW_SCHEMA.append(SECONDS_FIELD)
    assert record.rows["sample_id"].to_pylist() == [r["sample_id"] for r in read_alone(tmp_path / "out" / PATH)]
    assert untimed(read_shard_record(files, PATH)) == untimed(record)
    assert pickle.loads(pickle.dumps(record)) == record


def test_only_a_new_shards_record_states_how_long_each_sample_took(tmp_path, source):
    _, record = make(source, tmp_path / "out", size=(4, 4))
    assert all(0 < seconds < 60 for seconds in record.rows["seconds"].to_pylist())
    _, found = make(source, tmp_path / "out", size=(4, 4))
    assert found.rows["seconds"].to_pylist() == [None] * 20
    assert "seconds" not in pq.read_schema(tmp_path / "out" / PATH).names


def untimed(record):
    """The record less what no two runs share."""
    return dataclasses.replace(record, rows=record.rows.drop_columns(SECONDS_FIELD.name))


def test_a_committed_shard_is_left_untouched(tmp_path, write, source):
    _, first = make(source, tmp_path / "out", size=(4, 4))
    before = (tmp_path / "out" / PATH).stat()
    plan = plan_of(source)
    for path in list(source.rglob("*.npy")):
        path.unlink()
    _, second = make(source, tmp_path / "out", size=(4, 4), plan=plan)
    after = (tmp_path / "out" / PATH).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert untimed(second) == untimed(first)


def test_a_shard_that_fails_halfway_leaves_nothing(tmp_path, write, source):
    plan = plan_of(source)
    gone = plan.samples[-1].frame.members["depth"]
    Path(gone).unlink()
    with pytest.raises(SourceError, match=gone):
        make(source, tmp_path / "out", size=(4, 4), plan=plan)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_shard_holds_its_plans_digest(tmp_path, write, source):
    plan = plan_of(source, settings='{"height": 4}')
    files, _ = make(source, tmp_path / "out", size=(4, 4), plan=plan)
    assert committed_plan_digest(files, PATH) == plan.digest
    assert committed_plan_digest(files, PATH) != plan_of(source).digest


def test_a_committed_shard_of_another_plan_fails(tmp_path, source):
    make(source, tmp_path / "out", size=(4, 4))
    before = (tmp_path / "out" / PATH).read_bytes()
    with pytest.raises(StoreError, match=r"part-00000\.parquet of .* was just written by another run"):
        make(source, tmp_path / "out", size=(4, 4), plan=plan_of(source, settings='{"height": 4}'))
    assert (tmp_path / "out" / PATH).read_bytes() == before


@pytest.mark.parametrize("damage", ["cut short", "empty", "text", "gone"])
def test_the_message_for_a_damaged_shard_names_what_to_delete(tmp_path, source, damage):
    files, _ = make(source, tmp_path / "out", size=(4, 4))
    path = tmp_path / "out" / PATH
    match damage:
        case "cut short":
            path.write_bytes(path.read_bytes()[:-10])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_bytes(b"text" * 100)
        case "gone":
            path.unlink()
    with pytest.raises(StoreError, match=r"part-00000\.parquet of .* is damaged.*Delete it, and .*manifest\.json"):
        committed_plan_digest(files, PATH)


def test_every_input_and_reject_is_watched(tmp_path, write, source):
    rgb, depth, mask = write.frame(0)
    empty, lone = f"{SCAN}_003_000", f"{SCAN}_007_000"
    write.triplet(source, "train", empty, rgb, depth, mask * 0)
    (source / f"train/indoors/scene_00001/scan_00001/{lone}.png").unlink()
    log = []

    class Watch:
        def __init__(self, planned):
            self.sample_id = planned.frame.sample_id

        def __enter__(self):
            log.append(("begun", self.sample_id))

        def __exit__(self, kind, *rest):
            log.append((kind and kind.__name__, self.sample_id))

    plan = plan_of(source)
    make(source, tmp_path / "out", size=(4, 4), plan=plan, watch=Watch)
    ids = [s.frame.sample_id for s in plan.samples]
    ends = {name: "RejectError" if name in (empty, lone) else None for name in ids}
    assert log == [entry for name in ids for entry in (("begun", name), (ends[name], name))]


def test_the_same_plan_makes_the_same_bytes(tmp_path, write, source):
    _, first = make(source, tmp_path / "a", size=(4, 4))
    _, second = make(source, tmp_path / "b", size=(4, 4))
    assert untimed(first) == untimed(second)


def test_row_groups_have_the_size_that_readers_fetch(tmp_path, write, source):
    make(source, tmp_path / "out", size=(4, 4))
    metadata = pq.ParquetFile(tmp_path / "out" / PATH).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [16, 4]


@pytest.mark.parametrize(
    ("height", "width", "kind", "wanted"),
    [
        *[(6, 8, "depth", 16), (256, 256, "depth", 16), (768, 1024, "depth", 2), (2048, 2048, "depth", 1)],
        *[(256, 256, "video", 16), (384, 512, "depth", 9), (384, 512, "stereo", 7), (384, 512, "video", 5)],
    ],
)
def test_rows_per_group_by_hand(height, width, kind, wanted):
    assert rows_per_group(shard_schema(height=height, width=width, metadata={}, kind=kind)) == wanted
