"""preprocess as a user runs it: every input accounted for, readable by anyone, repeatable, resumable."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests

from depthflow.observability.logs import LOG_FORMAT
from depthflow.store.store import open_store

DAMAGES = {
    "unreadable_image": lambda image: image.write_bytes(b"not a picture"),
    "empty_file": lambda image: depth_of(image).write_bytes(b""),
    "unreadable_array": lambda image: np.save(depth_of(image), np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "wrong_dtype": lambda image: np.save(depth_of(image), np.ones((64, 64, 1), np.int32)),
    "wrong_shape": lambda image: np.save(depth_of(image), np.ones((64, 64, 3), np.float32)),
    "shape_mismatch": lambda image: np.save(depth_of(image), np.ones((32, 64, 1), np.float32)),
    "non_finite_depth": lambda image: np.save(depth_of(image), np.full((64, 64, 1), np.nan, np.float32)),
    "no_valid_pixel": lambda image: np.save(mask_of(image), np.zeros((64, 64), np.float32)),
    "missing_member": lambda image: depth_of(image).unlink(),
    "bad_name": lambda image: image.rename(image.with_name("holiday.png")),
}


def depth_of(image):
    return image.with_name(image.name.replace(".png", "_depth.npy"))


def mask_of(image):
    return image.with_name(image.name.replace(".png", "_depth_mask.npy"))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory, write_triplet):
    """(folder, end of preprocess): in the folder a tree and its store. Never to be changed.

    The tree has 40 whole triplets: 4 train scenes of 8 views, 1 val scene of 8.
    """
    folder = tmp_path_factory.mktemp("whole")
    for scene in range(5):
        for view in range(8):
            write_triplet(folder / "tree", split="val" if scene == 4 else "train", scene=scene, scan=scene, view=view)
    return folder, preprocess(run, folder / "tree", folder / "store")


@pytest.fixture
def tree(whole, tmp_path):
    """That tree, for this test alone."""
    return shutil.copytree(whole[0] / "tree", tmp_path / "tree")


@pytest.fixture
def store(whole, tree, tmp_path):
    """The whole store beside `tree`, as preprocess left it, for this test alone."""
    return shutil.copytree(whole[0] / "store", tmp_path / "store")


def preprocess(run, tree, out, *flags):
    return run("preprocess", "--source", tree, "--out", out, "--height", 32, "--width", 32, *flags, cwd=tree.parent)


def test_whole_tree(whole):
    folder, done = whole
    assert done.code == 0
    assert done.result["samples"] == 40
    assert done.result["rejects"] == 0
    assert done.result["counts"] == {"train": {"indoors": 32}, "val": {"indoors": 8}}
    store = open_store(str(folder / "store"))
    assert store.fingerprint == done.result["fingerprint"]
    assert len(store.manifest["shards"]) == done.result["shards"]
    assert sum(shard["rows"] for shard in store.manifest["shards"]) == 40
    assert not list((folder / "store").rglob(".tmp-*"))
    assert not (folder / "store" / ".lock").exists()


def test_every_damage_is_a_reject_with_its_reason(run, tree, tmp_path):
    images = sorted(tree.rglob("*.png"))
    for image, damage in zip(images[:: len(images) // len(DAMAGES)], DAMAGES.values(), strict=False):
        damage(image)
    found = len(list(tree.rglob("*.png")))
    done = preprocess(run, tree, tmp_path / "store")
    assert done.code == 3
    assert "were refused" in done.stderr
    rejects = pq.read_table(tmp_path / "store" / "rejects.parquet").to_pydict()
    # The renamed image leaves its depth and mask behind: one more input, which has no image.
    reasons = sorted([*DAMAGES, "missing_member"])
    assert sorted(rejects["reason"]) == reasons
    assert all(rejects["message"])
    assert done.result["samples"] + done.result["rejects"] == found + 1
    assert done.result["samples"] == 40 - len(DAMAGES)


def test_a_second_run_changes_nothing(run, whole, tree, store):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    second = preprocess(run, tree, store)
    after = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    assert second.code == 0
    assert after == before
    assert second.result["fingerprint"] == whole[1].result["fingerprint"]


def test_an_unfinished_store_fails_to_open_then_resumes(run, whole, tree, store, tmp_path):
    shards = sorted(store.rglob("part-*.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in shards[1:]}
    (store / "manifest.json").unlink()
    shards[0].unlink()
    (shards[0].parent / ".tmp-part-00000.parquet-dead").write_bytes(b"half")
    refused = run("train", "smoke", "--samples", store, "--storage", tmp_path / "runs", cwd=tmp_path)
    assert refused.code == 1
    assert "manifest.json" in refused.result["error"]
    resumed = preprocess(run, tree, store)
    assert resumed.result["fingerprint"] == whole[1].result["fingerprint"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(store.rglob(".tmp-*"))


@pytest.mark.parametrize("flags", [("--edge-radius-px", 5), ("--seed", 7), ("--splits", "val")])
def test_another_configuration_fails(run, tree, store, flags):
    manifest = (store / "manifest.json").read_bytes()
    refused = preprocess(run, tree, store, *flags)
    assert refused.code == 1
    assert "another configuration" in refused.result["error"]
    assert (store / "manifest.json").read_bytes() == manifest


def test_resplit_divides_by_scene(run, tree, tmp_path):
    done = preprocess(run, tree, tmp_path / "store", "--resplit", "train", "--val-fraction", 0.25)
    assert done.code == 0
    index = open_store(str(tmp_path / "store")).index.to_pylist()
    scenes = {split: {row["scene"] for row in index if row["split"] == split} for split in ("train", "val")}
    assert len(scenes["train"]) == 3
    assert len(scenes["val"]) == 1
    assert not scenes["train"] & scenes["val"]


def test_resplit_of_one_scene_divides_by_scan(run, tmp_path, write_triplet):
    for scan in range(5):
        write_triplet(tmp_path / "tree", split="val", scan=scan)
    done = preprocess(run, tmp_path / "tree", tmp_path / "store", "--resplit", "val", "--val-fraction", 0.2)
    assert done.result["counts"] == {"train": {"indoors": 4}, "val": {"indoors": 1}}


def test_pyarrow_alone_reads_a_store(store, tmp_path):
    """In a process where Ray, TensorFlow and this package cannot be imported."""
    reader = """
import json, sys
for name in ("ray", "tensorflow", "keras", "depthflow", "mlflow"):
    sys.modules[name] = None
import numpy as np, pyarrow.parquet as pq, pathlib
root = pathlib.Path(sys.argv[1])
index = pq.read_table(root / "index.parquet").to_pylist()
row = next(r for r in index if r["sample_id"] == "00000_00000_indoors_003_000")
shard = pq.ParquetFile(root / row["shard"]).read()
out = {"rows": len(index), "split": shard["split"][row["row"]].as_py()}
for name in ("rgb", "log_depth", "valid_mask", "edge_mask"):
    meta = shard.schema.field(name).metadata
    value = np.frombuffer(shard[name][row["row"]].as_py(), np.dtype(meta[b"dtype"].decode()))
    out[name] = list(value.reshape(json.loads(meta[b"shape"])).shape)
    if name == "log_depth":
        out["depth_max_m"] = float(np.exp(value).max())
import pandas as pd, pyarrow.dataset as ds
files = [str(path) for path in root.glob("split=*/*.parquet")]
out["hive_rows"] = ds.dataset(files, partitioning="hive").count_rows(filter=ds.field("split") == "val")
out["pandas_rows"] = len(pd.read_parquet(root / "split=train"))
print(json.dumps(out))
"""
    done = subprocess.run(
        [sys.executable, "-c", reader, str(store)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    out = json.loads(done.stdout)
    assert out["rows"] == 40
    assert out["pandas_rows"] == 32
    assert out["hive_rows"] == 8
    assert out["split"] == "train"
    assert out["rgb"] == [32, 32, 3]
    assert out["log_depth"] == out["valid_mask"] == out["edge_mask"] == [32, 32]
    assert 1.0 < out["depth_max_m"] < 9.0


def test_progress_and_rejects_are_shown(run, shared_ray, whole, tmp_path):
    """Its gauges come to Prometheus by the node's agent; with records asked for, its stderr is records alone."""
    tree = shutil.copytree(whole[0] / "tree", tmp_path / "tree")
    image = sorted(tree.rglob("*.png"))[0]
    DAMAGES["unreadable_image"](image)
    flags = ("--source", tree, "--out", tmp_path / "out", "--height", 32, "--width", 32)
    done = run("preprocess", *flags, cwd=tmp_path, env={LOG_FORMAT: "json"})
    assert done.code == 3
    records = [json.loads(line) for line in done.stderr.splitlines()]
    [refused] = [record for record in records if record.get("reason")]
    assert refused["sample_id"].endswith(image.stem) and refused["reason"] == "unreadable_image"
    runs = [record.get("run_id") for record in records]
    begun = runs.index(refused["run_id"])
    assert {*runs[:begun]} <= {None} and {*runs[begun:]} == {refused["run_id"]}, (
        "named as soon as Ray has a name for it"
    )
    assert any((record.get("stage"), record.get("done")) == ("inputs", 40) for record in records)
    wanted = {"ray_depthflow_samples_done": 40, "ray_depthflow_samples_total": 40, "ray_depthflow_rejects": 1}
    assert gauges_of(run=refused["run_id"], stage="shards", names=wanted) == wanted


def gauges_of(*, run, stage, names):
    """The gauges' values at the node's metrics endpoint, once all are there."""
    import ray

    [node] = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, values = time.monotonic() + 60, {}
    while time.monotonic() < deadline and values.keys() != set(names):
        for line in requests.get(url, timeout=30).text.splitlines():
            name, _, labels = line.partition("{")
            if name in names and f'run="{run}"' in labels and f'stage="{stage}"' in labels:
                values[name] = float(line.rsplit(" ", 1)[1])
        time.sleep(0.5)
    return values
