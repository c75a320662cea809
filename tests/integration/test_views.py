"""Stores of stereo pairs and of video, as commands write them: counted, the same after a kill, true to real poses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from depthflow.store.read.reader import SplitReader
from depthflow.store.store import open_store
from tests.archives import pack
from tests.commands import ROOT
from tests.layout_trees import real
from tests.parsed_page import ParsedPage
from tests.view_trees import HEIGHT, WIDTH, seen_from, wall, write_pairs, write_png, write_table, write_video

SIZE = ("--height", HEIGHT, "--width", WIDTH, "--splits", "train")


def read_all(store, *planes):
    reader = SplitReader(store, "train", planes=("rgb", "log_depth", "valid_mask", *planes))
    return reader.read(np.arange(len(reader)))


def test_a_stereo_store(run, tmp_path):
    """One pair without a partner, one of two sizes, one whose camera is unknown, and one without depth."""
    rows = write_pairs(tmp_path / "pairs", 8)
    del rows[0]["right_image"], rows[2]["fx_px"], rows[2]["width"], rows[2]["height"], rows[3]["depth"]
    write_png(tmp_path / "pairs" / rows[1]["right_image"], seen_from(wall(1), 1, WIDTH - 1))
    write_table(tmp_path / "pairs", rows)
    done = run("preprocess", "--source", "pairs", "--out", "out", "--kind", "stereo", *SIZE, "--report", cwd=tmp_path)
    assert done.code == 3, done.stderr
    assert done.noise == []
    reasons = {"no_camera": 1, "no_partner": 1, "shape_mismatch": 1}
    assert (done.result["samples"], done.result["rejects_by_reason"]) == (5, reasons)
    store = open_store(str(tmp_path / "out"))
    messages = {row["reason"]: row["message"] for row in store.rejects.to_pylist()}
    assert "name one in the column right_image" in messages["no_partner"]
    assert "camera.json" in messages["no_camera"]
    batch = read_all(store, "right")
    assert batch.views.shape == (5, 1, HEIGHT, WIDTH, 3)
    assert sorted(batch.valid_mask.any(axis=(1, 2))) == [False, True, True, True, True]
    assert "1 of 5 samples have no valid depth" in ParsedPage((tmp_path / "out/report.html").read_text()).text


def interrupted(arguments, cwd, committed, env):
    """Runs a command that is killed once so many shards are committed."""
    command = [sys.executable, ROOT / "pipelines/preprocess.py", *map(str, arguments)]
    with subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while len([*Path(cwd, "out").glob("split=*/part-*.parquet")]) < committed:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not Path(cwd, "out/manifest.json").exists()


@pytest.mark.parametrize("ending", ["", ".tar.gz"])
def test_a_video_store_that_was_killed_is_finished(run, tmp_path, ending):
    write_video(tmp_path / "video", 40, scans=[f"scan{n}" for n in range(8)])
    source = pack(tmp_path / f"video{ending}", tmp_path / "video") if ending else "video"
    line = ("--source", source, "--kind", "video", "--frame-step", 2, *SIZE)
    whole = run("preprocess", *line, "--out", "whole", cwd=tmp_path)
    assert whole.code == 0, whole.stderr
    assert (whole.result["samples"], whole.result["rejects_by_reason"]) == (8 * 36, {"no_neighbour": 8 * 4})
    interrupted([*line, "--out", "out"], tmp_path, 2, {**os.environ, "PYTHONPATH": str(ROOT)})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("split=*/part-*.parquet")}
    again = run("preprocess", *line, "--out", "out", cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert again.result["fingerprint"] == whole.result["fingerprint"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not [*tmp_path.glob("out/.staging/**/*")]
    shards = sorted((tmp_path / "whole").glob("split=*/*.parquet"))
    assert len(shards) == 8
    for shard in shards:
        other = pq.read_table(tmp_path / "out" / shard.relative_to(tmp_path / "whole"))
        assert other.equals(pq.read_table(shard))


# --- 7-Scenes ---

REAL_HEIGHT, REAL_WIDTH = 120, 160


@pytest.fixture(scope="module")
def kitchen(run, shared, tmp_path_factory):
    """Frames of 7-Scenes with neighbours five frames away."""
    source, folder = real(shared, "seven_scenes"), tmp_path_factory.mktemp("kitchen")
    size = ("--height", REAL_HEIGHT, "--width", REAL_WIDTH, "--splits", "train")
    line = ("--source", source, "--out", "out", "--kind", "video", "--frame-step", 5, *size)
    done = run("preprocess", *line, cwd=folder)
    assert done.code == 0, done.stderr
    assert done.result["rejects_by_reason"]["no_neighbour"] == 10
    assert done.result["samples"] + done.result["rejects"] == 200
    return source, open_store(str(folder / "out"))


def test_poses_of_real_frames_are_those_of_their_files(kitchen):
    source, store = kitchen
    batch = read_all(store)

    def pose(number):
        return np.loadtxt(source / f"frame-{number:06d}.pose.txt")

    for sample_id, time_s, poses in zip(
        batch.sample_ids, batch.geometry.time_s, batch.geometry.view_poses, strict=True
    ):
        number = int(sample_id.rpartition("-")[2])
        assert time_s == number / 30
        for found, other in zip(poses, (number - 5, number + 5), strict=True):
            np.testing.assert_allclose(found, np.linalg.inv(pose(other)) @ pose(number), atol=1e-3)


def test_depth_of_real_frames_is_found_again_in_their_neighbours(kitchen):
    """Points of a frame, moved by the stored poses into its neighbours' cameras, are as far as their depth maps say."""
    _, store = kitchen
    batch = read_all(store, "previous", "next")
    geometry, number_of = batch.geometry, {name: k for k, name in enumerate(batch.sample_ids)}
    errors, still = [], []
    for name, k in number_of.items():
        number = int(name.rpartition("-")[2])
        for view, other in enumerate((number - 5, number + 5)):
            there = number_of.get(f"{name.rpartition('-')[0]}-{other:06d}")
            if there is None:
                continue
            arguments = (batch, k, there, geometry.view_cameras[k, view])
            errors.append(relative_errors(*arguments, geometry.view_poses[k, view]))
            still.append(relative_errors(*arguments, np.eye(4)))
            np.testing.assert_array_equal(batch.views[k, view], batch.rgb[there])
    assert len(errors) > 250
    assert np.median(np.concatenate(errors)) < 0.01
    assert np.quantile(np.concatenate(errors), 0.8) < 0.04
    assert np.median(np.concatenate(still)) > 3 * np.median(np.concatenate(errors))


def relative_errors(batch, k, there, view_camera, pose):
    """Depths of a frame's points in a neighbour's camera against the neighbour's own depths, where both are known."""
    fx, fy, cx, cy = batch.geometry.camera[k]
    rows, columns = np.nonzero(batch.valid_mask[k])
    depth_m = np.exp(batch.log_depth[k][rows, columns])
    points = np.stack([(columns + 0.5 - cx) / fx * depth_m, (rows + 0.5 - cy) / fy * depth_m, depth_m])
    x, y, z = pose[:3, :3] @ points + pose[:3, 3:]
    fx, fy, cx, cy = view_camera
    columns, rows = np.floor(fx * x / z + cx).astype(int), np.floor(fy * y / z + cy).astype(int)
    inside = (columns >= 0) & (columns < REAL_WIDTH) & (rows >= 0) & (rows < REAL_HEIGHT) & (z > 0)
    z, rows, columns = z[inside], rows[inside], columns[inside]
    known = batch.valid_mask[there][rows, columns]
    return np.abs(np.exp(batch.log_depth[there][rows, columns]) / z - 1)[known]
