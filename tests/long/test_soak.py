"""A soak: one archive with bad inputs of every kind, killed at random moments, against a run that nobody disturbed."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES, SIDE = 2000, 48


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


DEPTH = np.full((SIDE, SIDE, 1), 2.0, np.float32)
MASK = np.ones((SIDE, SIDE), np.float32)
BAD = {
    "truncated_png": ("unreadable_image", lambda m: {**m, "rgb": m["rgb"][: len(m["rgb"]) // 2]}),
    "no_png": ("unreadable_image", lambda m: {**m, "rgb": b"not a picture"}),
    "truncated_npy": ("unreadable_array", lambda m: {**m, "depth": m["depth"][:-100]}),
    "pickled": ("unreadable_array", lambda m: {**m, "mask": npy(np.array([{"a": 1}], object), allow_pickle=True)}),
    "wrong_shape": ("wrong_shape", lambda m: {**m, "depth": npy(np.ones((SIDE, SIDE, 3), np.float32))}),
    "wrong_dtype": ("wrong_dtype", lambda m: {**m, "depth": npy(np.ones((SIDE, SIDE, 1), np.int16))}),
    "shapes_differ": ("shape_mismatch", lambda m: {**m, "mask": npy(MASK[:-1])}),
    "nan": ("non_finite_depth", lambda m: {**m, "depth": npy(np.where(DEPTH.cumsum(0) > 50, np.nan, DEPTH))}),
    "infinite": ("non_finite_depth", lambda m: {**m, "depth": npy(DEPTH * np.float32(np.inf))}),
    "no_depth": ("no_valid_pixel", lambda m: {**m, "depth": npy(DEPTH * 0)}),
    "no_mask": ("no_valid_pixel", lambda m: {**m, "mask": npy(MASK * 0)}),
    "empty_file": ("empty_file", lambda m: {**m, "depth": b""}),
    "missing": ("missing_member", lambda m: {"rgb": m["rgb"], "mask": m["mask"]}),
}
SUFFIXES = {"rgb": ".png", "depth": "_depth.npy", "mask": "_depth_mask.npy"}


def members_of(number):
    generator = np.random.default_rng(number)
    coarse = generator.random((4, 4, 3), dtype=np.float32)
    image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    depth_m = (1 + 8 * image.mean(axis=2, keepdims=True)).astype(np.float32)
    png = cv2.imencode(".png", (255 * image).astype(np.uint8))[1].tobytes()
    return {"rgb": png, "depth": npy(depth_m), "mask": npy((generator.random((SIDE, SIDE)) < 0.9).astype(np.float32))}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """2,000 triplets, their members in random order within each scan, 40 of them bad; and id to reason of these."""
    path = tmp_path_factory.mktemp("soak") / "train.tar.gz"
    reasons = {}
    kinds = dict(zip(range(7, SAMPLES, SAMPLES // 40), [*BAD] * 4, strict=False))
    shuffle = random.Random(0)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for scan in range(SAMPLES // 50):
            files = []
            for view in range(50):
                stem = f"{scan // 4:05d}_{scan:05d}_indoors_{view:03d}_000"
                number = 50 * scan + view
                members = members_of(number)
                if number in kinds:
                    reasons[stem], damage = BAD[kinds[number]]
                    members = damage(members)
                folder = f"train/indoors/scene_{scan // 4:05d}/scan_{scan:05d}"
                files += [(f"{folder}/{stem}{SUFFIXES[name]}", content) for name, content in members.items()]
            shuffle.shuffle(files)
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    assert len(reasons) == 40
    return path, reasons


def start(archive, out):
    """The command with a Ray of its own, which dies with it."""
    flags = ["--resplit", "train", "--height", "32", "--width", "32", "--num-cpus", "2"]
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "pipelines" / "preprocess.py"),
            "--source",
            str(archive),
            "--out",
            str(out),
            *flags,
        ],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def result_of(process):
    stdout, _ = process.communicate(timeout=300)
    return process.returncode, json.loads(stdout.strip().splitlines()[-1])


def shards_of(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet") if not path.name.startswith(".")}


def wait_for_files(process, out, count):
    """Returns once the run has committed so many pieces and shards, or has ended."""
    while process.poll() is None:
        if len([*out.rglob("*.arrow"), *shards_of(out)]) >= count:
            return
        time.sleep(0.01)


def worker_of(process):
    """A process that runs one of the command's tasks."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            if child.name().startswith("ray::") and "Board" not in child.name() and "IDLE" not in child.name():
                return child.pid
    raise AssertionError("the run ended before a task of it was seen")


def raylet_of(process):
    return next(c.pid for c in psutil.Process(process.pid).children(recursive=True) if c.name() == "raylet")


def test_killed_three_times_it_makes_the_store_of_a_run_that_nobody_disturbed(archive, tmp_path):
    source, reasons = archive
    code, undisturbed = result_of(start(source, tmp_path / "undisturbed"))
    assert (code, undisturbed["samples"], undisturbed["rejects"]) == (3, SAMPLES - 40, 40)
    everything = len(shards_of(tmp_path / "undisturbed"))

    out, moments = tmp_path / "killed", random.Random()
    print("moments of", seed := time.time_ns())  # Shown where the test fails.
    moments.seed(seed)
    committed = {}
    for victim in ("driver", "worker", "raylet"):
        process = start(source, out)
        wait_for_files(process, out, len([*out.rglob("*.arrow"), *shards_of(out)]) + moments.randrange(1, 7))
        pid = {"driver": lambda p: p.pid, "worker": worker_of, "raylet": raylet_of}[victim](process)
        os.kill(pid, signal.SIGKILL)
        if victim == "worker":  # Its task is done again, and the run goes on; then it is killed, too.
            wait_for_files(process, out, len([*out.rglob("*.arrow"), *shards_of(out)]) + moments.randrange(1, 4))
            process.kill()
        process.communicate(timeout=120)
        assert process.returncode not in (0, 3), f"the run ended before its {victim} was killed"
        assert not (out / "manifest.json").exists()
        now = shards_of(out)
        assert {path: now.get(path) for path in committed} == committed
        committed = now

    code, finished = result_of(start(source, out))
    assert code == 3
    assert (finished["samples"], finished["rejects"]) == (SAMPLES - 40, 40)
    assert finished["fingerprint"] == undisturbed["fingerprint"]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "undisturbed", out)]
    assert manifests[1]["shards"] == manifests[0]["shards"]
    assert len(shards_of(out)) == everything
    now = shards_of(out)
    assert {path: now[path] for path in committed} == committed
    rejects = pq.read_table(out / "rejects.parquet").to_pydict()
    assert dict(zip(rejects["sample_id"], rejects["reason"], strict=True)) == reasons
    assert [path.name for path in out.rglob(".*")] == []
