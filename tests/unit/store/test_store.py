"""A store as a whole: refused unless finished, and known by its content."""

import json
import pickle
import shutil
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans, data, sampled_from

from depthflow.errors import SourceError, StoreError
from depthflow.reports.data_report import write_report
from depthflow.store.manifest import FORMAT
from depthflow.store.read.reader import SplitReader
from depthflow.store.schema import INDEX_SCHEMA, PLANE_DTYPES, REJECT_SCHEMA
from depthflow.store.store import fingerprint, open_store
from tests.stores import as_before_datasets, write_index


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the small store, to be damaged."""
    shutil.copytree(small.store.files.root, tmp_path / "copy")
    return tmp_path / "copy"


# --- opening ---


def test_a_finished_store(small, write):
    store = open_store(small.store.files.root)
    assert (store.height, store.width) == (write.height, write.width)
    assert store.index.num_rows == store.manifest["samples"] == 75
    assert store.index.schema.remove_metadata() == INDEX_SCHEMA
    assert store.manifest["format"] == FORMAT


def test_every_input_is_a_sample_or_a_reject(small, copy):
    manifest = small.store.manifest
    rejects = pq.read_table(copy / "rejects.parquet")
    assert rejects.schema.remove_metadata() == REJECT_SCHEMA
    assert small.store.index.num_rows + rejects.num_rows == 77
    assert sorted(small.store.index["sample_id"].to_pylist()) == sorted([*small.tree["train"], *small.tree["val"]])
    assert manifest["rejects"] == 2
    assert manifest["rejects_by_reason"] == {"missing_member": 1, "no_valid_pixel": 1}
    assert dict(zip(rejects["sample_id"].to_pylist(), rejects["reason"].to_pylist(), strict=True)) == {
        "00001_00001_indoors_900_000": "no_valid_pixel",
        "00003_00001_indoors_900_000": "missing_member",
    }
    assert manifest["counts"] == {"train": {"indoors": 40, "outdoor": 30}, "val": {"indoors": 5}}


def test_the_manifest_lists_every_shard_with_its_checksum(small, copy):
    shards = {shard["path"]: shard for shard in small.store.manifest["shards"]}
    on_disk = {str(path.relative_to(copy)): path for path in copy.glob("split=*/*.parquet")}
    assert shards.keys() == on_disk.keys()
    assert len(shards) == 3
    for path, shard in shards.items():
        content = on_disk[path].read_bytes()
        assert shard["bytes"] == len(content)
        assert shard["xxh3_128"] == xxhash.xxh3_128_hexdigest(content)
        assert shard["rows"] == pq.read_metadata(on_disk[path]).num_rows


def test_the_index_states_where_each_sample_is(small, copy):
    shards = {
        path: pq.read_table(copy / path, partitioning=None) for path in set(small.store.index["shard"].to_pylist())
    }
    for row in small.store.index.to_pylist():
        stored = shards[row["shard"]].slice(row["row"], 1)
        for name in ("sample_id", "split", "content_xxh3", "depth_median_m"):
            assert stored[name][0].as_py() == row[name]


def test_a_missing_folder_fails(tmp_path):
    with pytest.raises(StoreError, match=r"gone is not a sample store.*preprocess\.py"):
        open_store(str(tmp_path / "gone"))


def test_a_folder_without_a_manifest_fails(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        open_store(str(copy))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": '])
def test_a_broken_manifest_fails(copy, content):
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        open_store(str(copy))


@pytest.mark.parametrize("manifest", [{}, {"format": "depthflow-samples-0"}, {"format": None}])
def test_another_format_fails(copy, manifest):
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=f"has format .* and this version reads {FORMAT}"):
        open_store(str(copy))


@pytest.mark.parametrize("content", ["[]", "null", '"text"'])
def test_a_manifest_that_is_not_an_object_fails(copy, content):
    (copy / "manifest.json").write_text(content)
    with pytest.raises(StoreError):
        open_store(str(copy))


def edit_manifest(store, edit):
    """Rewrites a store's manifest as `edit` leaves it."""
    manifest = json.loads((store / "manifest.json").read_text())
    edit(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest))


def read_all(root):
    """Reads all that a store says of itself, and its samples."""
    store = open_store(str(root))
    for split in store.manifest["counts"]:
        SplitReader(store, split, planes=tuple(PLANE_DTYPES)).read([0])
    write_report(store)


JUNK = [None, -1, 2**80, 1.5, True, "", "../../victim", "0" * 32 + "\n", [], {}, ["../../victim"], {"a": None}]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data())
def test_a_forged_manifest_is_rejected_or_harmless(small, copy, data):
    """Replaces or deletes any value of the manifest, at any depth; what is then read ends well or in a StoreError."""

    def forge(manifest):
        place = manifest
        while True:
            key = data.draw(sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(booleans()):
                break
            place = place[key]
        if data.draw(booleans()):
            del place[key]
        else:
            place[key] = data.draw(sampled_from(JUNK))

    original = (copy / "manifest.json").read_bytes()
    edit_manifest(copy, forge)
    try:
        with suppress(StoreError):
            read_all(copy)
    finally:
        (copy / "manifest.json").write_bytes(original)


@pytest.mark.parametrize("path", ["../victim/part-00000.parquet", "/victim.parquet", "split=val/../victim.parquet"])
def test_a_shard_outside_the_store_is_rejected(copy, path):
    edit_manifest(copy, lambda manifest: manifest["shards"][0].update(path=path))
    with pytest.raises(StoreError, match=r"\$\.shards\[0\]\.path is wrong.*Restore it"):
        open_store(str(copy))


@pytest.mark.parametrize("value", ["../../victim", "0" * 31, "0" * 32 + "\n", None, 7])
@pytest.mark.parametrize("name", ["fingerprint", "xxh3_128"])
def test_a_checksum_that_is_none_is_rejected(copy, name, value):
    """Both become parts of paths under --cache-dir."""
    edit_manifest(copy, lambda m: (m if name == "fingerprint" else m["shards"][1]).update({name: value}))
    with pytest.raises(StoreError, match=rf"\$\.(shards\[1\]\.)?{name} is wrong"):
        open_store(str(copy))


def test_a_shard_listed_twice_is_rejected(copy):
    edit_manifest(copy, lambda manifest: manifest["shards"].append(manifest["shards"][0]))
    with pytest.raises(StoreError, match="it lists a shard twice"):
        open_store(str(copy))


def test_a_manifest_nested_without_end_is_rejected(copy):
    (copy / "manifest.json").write_text('{"a":' * 100_000)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        open_store(str(copy))


def forge_column(path, column, value):
    """Rewrites one column of a table, with all else as it was."""
    table = pq.read_table(path)
    values = pa.array([value] * len(table), table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), table.schema.field(column), values), path)


@pytest.mark.parametrize("of_before", [False, True])
@pytest.mark.parametrize(
    ("path", "column", "value"),
    [
        ("index.parquet", "content_xxh3", "0" * 32),
        ("index.parquet", "sample_id", "another"),
        ("index.parquet", "split", None),
        ("index.parquet", "shard", None),
        ("rejects.parquet", "reason", "another"),
    ],
)
def test_another_index_is_noticed_by_the_fingerprint(copy, path, column, value, of_before):
    """Also in a store of before the manifest had checksums of tables."""
    forge_column(copy / path, column, value)
    if of_before:
        edit_manifest(copy, lambda manifest: manifest.pop("tables"))
    wanted = "values are missing in" if of_before and value is None else "have the fingerprint|its xxh3-128 is"
    with pytest.raises(StoreError, match=rf"does not belong to manifest\.json, whose fingerprint is \w+: .*({wanted})"):
        open_store(str(copy)).split_index("train")


@pytest.mark.parametrize(
    ("path", "column", "value"), [("index.parquet", "log_depth_mean", 9.0), ("rejects.parquet", "message", "forged")]
)
def test_forged_figures_are_noticed_by_the_checksum(copy, path, column, value):
    """The mean log-depth is the baseline of every evaluation, and no fingerprint depends on it."""
    forge_column(copy / path, column, value)
    with pytest.raises(StoreError, match=rf"{path} does not belong to manifest\.json.*its xxh3-128 is"):
        open_store(str(copy)).mean_log_depth("train")


def test_an_index_of_other_columns_is_rejected(copy):
    edit_manifest(copy, lambda manifest: manifest.pop("tables"))
    pq.write_table(pq.read_table(copy / "index.parquet").drop_columns(["row"]), copy / "index.parquet")
    with pytest.raises(StoreError, match=r"index\.parquet does not belong.*its columns are"):
        open_store(str(copy)).split_index("train")


def test_a_store_of_before_tables_had_checksums_is_read(small, copy):
    edit_manifest(copy, lambda manifest: manifest.pop("tables"))
    assert open_store(str(copy)).index.equals(small.store.index)


def test_a_store_that_is_replaced_after_it_was_opened_is_noticed(copy, write, tmp_path):
    """By another process, too, which gets the manifest that was read here."""
    store = open_store(str(copy))
    shutil.rmtree(copy)
    write.tree(tmp_path / "tree", {"train": {"00009_00001_indoors": 3}})
    write.store(copy, tmp_path / "tree")
    for opened in (store, pickle.loads(pickle.dumps(store))):
        with pytest.raises(StoreError, match=rf"does not belong to manifest\.json.*{store.fingerprint}"):
            SplitReader(opened, "train")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_store_without_its_index_fails(copy, damage):
    if damage == "missing":
        (copy / "index.parquet").unlink()
    else:
        (copy / "index.parquet").write_bytes((copy / "index.parquet").read_bytes()[:-10])
    with pytest.raises(StoreError):
        open_store(str(copy)).split_index("val")


def test_a_uri_of_another_kind_fails():
    with pytest.raises(StoreError, match=r"s3://bucket/key or gs://bucket/key\. Received: hdfs://host/store"):
        open_store("hdfs://host/store")


def test_the_index_states_how_long_each_sample_took(small):
    seconds = small.store.index["seconds"].to_pylist()
    assert all(0 < s < 60 for s in seconds)


def test_a_store_of_trees_names_no_archive(small):
    assert small.store.manifest["archives"] == []
    assert small.store.manifest["sources"] == [str(small.source)]


# --- splits ---


def test_a_splits_index_is_by_shard_and_row(small):
    rows = small.store.split_index("train")
    places = list(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True))
    assert places == sorted(places)
    # 71 inputs are dealt 36 and 35, and one of them was refused.
    assert sorted(Counter(shard for shard, _ in places).values()) in ([35, 35], [34, 36])
    assert set(rows["split"].to_pylist()) == {"train"}
    assert small.store.split_index("val").num_rows == 5


def test_a_missing_split_names_the_flags(tmp_path, write):
    write.tree(tmp_path / "tree", {"val": {"00001_00001_indoors": 3}})
    store = write.store(tmp_path / "store", tmp_path / "tree")
    with pytest.raises(StoreError, match=r"no train split; it holds val\..*--splits.*--resplit val"):
        store.split_index("train")


def test_mean_log_depth_is_over_pixels(small):
    for split, frames in small.tree.items():
        valid = [depth[mask > 0] for _, depth, mask in frames.values()]
        wanted = np.log(np.concatenate(valid).astype(np.float64)).mean()
        assert len({len(depth) for depth in valid}) > 1  # Else a mean over images would do.
        assert small.store.mean_log_depth(split) == pytest.approx(wanted, rel=1e-6)


def test_a_source_of_rejects_alone_makes_no_store(tmp_path, write):
    rgb, depth, mask = write.frame(0)
    write.triplet(tmp_path / "tree", "train", "00001_00001_indoors_000_000", rgb, depth, mask * 0)
    with pytest.raises(SourceError, match="no_valid_pixel"):
        write.store(tmp_path / "store", tmp_path / "tree")
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "store"))


# --- selecting ---


def test_samples_are_selected_by_split_scene_and_scan(small):
    def ids(**values):
        return sorted(small.store.select(**values)["sample_id"].to_pylist())

    every = [*small.tree["train"], *small.tree["val"]]
    assert ids() == sorted(every)
    assert ids(split="val") == sorted(small.tree["val"])
    assert ids(scene_type="outdoor") == ids(scene="scene_00002") == sorted(i for i in every if i.startswith("00002"))
    assert len(ids(scan="scan_00001")) == 75
    assert ids(split="train", scene_type="indoors", scan="scan_00001") == sorted(
        i for i in every if i.startswith("00001")
    )
    assert ids(split="val", scene="scene_00001") == []


def test_selected_rows_are_ordered_by_shard_and_row(small):
    rows = small.store.select(scene_type="indoors").select(["shard", "row"]).to_pylist()
    places = [(row["shard"], row["row"]) for row in rows]
    assert places == sorted(places)
    assert len({shard for shard, _ in places}) == 3


def test_an_index_of_diodes_size_is_opened_and_filtered_in_a_second(small, tmp_path):
    """26,000 samples of 26 scenes, with a checksum and figures of its own for each."""
    count = 26_000
    like = {name: small.store.index[name][0].as_py() for name in INDEX_SCHEMA.names}
    columns = {field.name: pa.array([like[field.name]] * count, field.type) for field in INDEX_SCHEMA}
    scenes = [f"scene_{k % 26:05d}" for k in range(count)]
    columns["scene"] = pa.array(scenes)
    columns["split"] = pa.array(["val" if scene >= "scene_00020" else "train" for scene in scenes])
    columns["sample_id"] = pa.array([f"{scene[6:]}_00001_indoors_{k:05d}_000" for k, scene in enumerate(scenes)])
    columns["depth_median_m"] = pa.array(np.random.default_rng(0).random(count))
    for name in ("rgb_xxh3", "depth_xxh3", "mask_xxh3", "content_xxh3"):
        columns[name] = pa.array([xxhash.xxh3_128_hexdigest(f"{name}{k}".encode()) for k in range(count)])
    rows = pa.table(columns, schema=INDEX_SCHEMA).to_pylist()
    write_index(tmp_path, rows, height=256, width=256)

    started = time.perf_counter()
    store = open_store(str(tmp_path))
    train, scene = store.select(split="train"), store.select(split="train", scene="scene_00007")
    seconds = time.perf_counter() - started
    assert (train.num_rows, scene.num_rows) == (20_000, 1_000)
    assert seconds < 1


# --- the fingerprint ---

CONFIG = {"height": 4, "width": 4}
INDEX = [
    {"split": "train", "sample_id": "a", "content_xxh3": "1"},
    {"split": "train", "sample_id": "b", "content_xxh3": "2"},
    {"split": "val", "sample_id": "c", "content_xxh3": "3"},
]
REJECTS = [
    {"split": "train", "sample_id": "d", "reason": "empty_file"},
    {"split": "val", "sample_id": "e", "reason": "bad_name"},
]


def fingerprint_of(config=CONFIG, index=INDEX, rejects=REJECTS):
    return fingerprint(config, pa.Table.from_pylist(index), pa.Table.from_pylist(rejects))


def test_a_fingerprint_does_not_depend_on_order():
    assert fingerprint_of() == fingerprint_of(
        config=dict(reversed(CONFIG.items())), index=INDEX[::-1], rejects=REJECTS[::-1]
    )


def test_a_fingerprint_does_not_depend_on_locations():
    index = [{**row, "shard": f"part-{i}", "row": i} for i, row in enumerate(INDEX)]
    rejects = [{**row, "source": "/elsewhere", "message": "another"} for row in REJECTS]
    assert fingerprint_of() == fingerprint_of(index=index, rejects=rejects)


def test_a_fingerprint_depends_on_configuration_content_and_rejects():
    others = [
        fingerprint_of(config={**CONFIG, "height": 5}),
        fingerprint_of(config={**CONFIG, "seed": 0}),
        fingerprint_of(index=INDEX[:-1]),
        fingerprint_of(rejects=REJECTS[:-1]),
        *(fingerprint_of(index=[{**INDEX[0], name: "x"}, *INDEX[1:]]) for name in INDEX[0]),
        *(fingerprint_of(rejects=[{**REJECTS[0], name: "x"}, *REJECTS[1:]]) for name in REJECTS[0]),
    ]
    assert len({fingerprint_of(), *others}) == 1 + len(others)


def test_stores_of_one_source_have_one_fingerprint(small, tmp_path, write):
    shutil.copytree(small.source, tmp_path / "elsewhere")
    again = write.store(tmp_path / "again", tmp_path / "elsewhere")
    assert again.fingerprint == small.store.fingerprint
    assert len(again.fingerprint) == 32


@pytest.mark.parametrize(
    "change", ["one pixel", "one mask pixel", "one sample less", "one refused more", "height", "seed"]
)
def test_a_fingerprint_depends_on_each_setting(small, tmp_path, write, change):
    shutil.copytree(small.source / "val", tmp_path / "tree" / "val")
    source, sample_id = tmp_path / "tree", next(iter(small.tree["val"]))
    before = write.store(tmp_path / "before", source)
    rgb, depth, mask = (plane.copy() for plane in small.tree["val"][sample_id])
    changes = {"height": {"height": 5}, "seed": {"seed": 1}}.get(change, {})
    if change == "one pixel":
        rgb[2, 3, 1] ^= 1
    elif change == "one mask pixel":
        mask[0, 0] = 0
    if change in ("one pixel", "one mask pixel"):
        write.triplet(source, "val", sample_id, rgb, depth, mask)
    elif change == "one sample less":
        for path in source.rglob(f"{sample_id}*"):
            path.unlink()
    elif change == "one refused more":
        write.triplet(source, "val", "00003_00001_indoors_901_000", rgb, depth, mask * 0)
    after = write.store(tmp_path / "after", source, **changes)
    assert after.fingerprint != before.fingerprint


# --- data sets ---


def test_samples_are_of_the_data_sets_of_their_frames(mixed):
    rows = mixed.index.select(["dataset", "split"]).to_pylist()
    assert Counter((row["dataset"], row["split"]) for row in rows) == {
        ("diode", "train"): 42,
        ("tum", "train"): 28,
        ("diode", "val"): 4,
        ("tum", "val"): 3,
    }
    reader = SplitReader(mixed, "val")
    batch = reader.read(range(7))
    assert [name.startswith("tum/") for name in batch.sample_ids] == [name == "tum" for name in batch.datasets]
    shard = pq.read_table(f"{mixed.files.root}/split=val/part-00000.parquet", partitioning=None)
    assert Counter(shard["dataset"].to_pylist()) == {"diode": 4, "tum": 3}


def test_a_store_without_the_column_is_diodes(small, copy):
    as_before_datasets(copy)
    store = open_store(str(copy))
    assert "dataset" not in pq.read_schema(copy / "index.parquet").names
    assert store.index.equals(small.store.index)
    assert store.fingerprint == small.store.fingerprint
    before, after = (SplitReader(opened, "train").read(range(70)) for opened in (small.store, store))
    assert after.datasets == ("diode",) * 70
    assert after.sample_ids == before.sample_ids
    np.testing.assert_array_equal(after.log_depth, before.log_depth)
    write_report(store)


@pytest.mark.parametrize("gone", [0, 1])
def test_shards_without_the_column_are_kept_by_a_run_that_finishes_the_store(small, copy, write, gone):
    as_before_datasets(copy)
    (copy / "manifest.json").unlink()
    shards = sorted(copy.glob("split=train/*.parquet"))
    for path in shards[:gone]:
        path.unlink()
    kept = {path: path.read_bytes() for path in shards[gone:]}
    store = write.store(copy, small.source)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert store.fingerprint == small.store.fingerprint
    assert store.index["dataset"].to_pylist() == ["diode"] * 75
    assert len(SplitReader(store, "train").read(range(70)).sample_ids) == 70
