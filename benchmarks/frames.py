"""Preprocessing of RGB-D frames, a JPEG and a 16-bit PNG each, beside a plain loop; prints ratios.

    python benchmarks/frames.py --source FOLDER --work DIR

FOLDER holds frames in the layout of 7-Scenes. DIR is a scratch folder. For each stored size:

- loop: cv2.imread of both files, metres, mask, log and cv2.resize, as a user would write it; it checks and writes
  nothing;
- sample: ours without the shard: read, decode, check, edges, area average, point sampling, log, statistics, checksums;
- stored: ours with the shard, encoded, written and committed;
- decode, our_decode: both files and no more, by cv2.imread as in the loop and by ours. The loop's time by our_decode is
  the ratio that ours would have if everything after the decoders were free.

All sides run in one process on one thread, with the allocator's settings of depthflow's workers, and alternate over
repeats. A figure is the median of milliseconds of CPU time per frame, system calls included, since the wall clock also
counts what else the machine does; ratio/SIDE is the loop's time by that of ours: above 1, ours is faster. The last line
on stdout is one JSON object.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from depthflow.cluster.session import WORKER_ENVIRONMENT
from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.frame_table import frame_table, frames_of
from depthflow.datasets.frames import SPLITS, Frame
from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.layouts import find_frames
from depthflow.datasets.listing import list_tree
from depthflow.storage.files import DiskFiles
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.plan import ShardPlan, plan_samples
from depthflow.store.write.preprocess import sample_layout, shard_work
from depthflow.store.write.sample import Sample, make_sample
from depthflow.store.write.sources import Source
from depthflow.store.write.tasks import Reporter

SIZES = ((256, 256), (128, 160))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Preprocessing of RGB-D frames beside a plain loop."""

    source: str
    """A folder of frames as 7-Scenes has them."""
    work: str
    """Scratch folder."""
    frames: int = 200
    """How many of them."""
    repeats: int = 7
    """Of each side."""


def main(benchmark: Benchmark) -> dict[str, float]:
    """Measures every side at each size, in a process that begins with the workers' environment."""
    Path(benchmark.work).mkdir(parents=True, exist_ok=True)
    os.environ.update(WORKER_ENVIRONMENT)
    figures: dict[str, float] = {}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for height, width in SIZES:
            found = pool.apply(measure, (benchmark, height, width))
            figures |= {f"{height}x{width}/{name}": value for name, value in found.items()}
    print(*(f"{name:<24} {value:8.3f}" for name, value in figures.items()), sep="\n", flush=True)
    return figures


def measure(benchmark: Benchmark, height: int, width: int) -> dict[str, float]:
    """Returns milliseconds of CPU time per frame of each side, and the loop's by ours."""
    cv2.setNumThreads(1)
    frames = some_frames(benchmark.source, benchmark.frames)
    layout = sample_layout(PreprocessConfig(source=(benchmark.source,), out="", height=height, width=width))

    def each(make: Callable[[Frame], object]) -> Callable[[], None]:
        def make_all() -> None:
            for frame in frames:
                make(frame)  # What it made is dropped, and its memory used for the next.

        return make_all

    def sample(frame: Frame) -> Sample:
        return make_sample(frame, contents(frame), layout)

    def stored() -> None:
        rows = plan_samples([Source(location=benchmark.source, frames=frame_table(frames))])
        plan = ShardPlan(path="0.parquet", rows=rows, settings="")
        with tempfile.TemporaryDirectory(dir=benchmark.work) as folder:
            outcome = shard_work(layout, DiskFiles(folder))(plan, Reporter(lambda report: None, 0))
            assert outcome.done == len(frames) and not outcome.rejects

    sides: dict[str, Callable[[], object]] = {
        "decode": each(decoded),
        "our_decode": each(our_decoded),
        "loop": each(lambda frame: loop_sample(frame, height=height, width=width)),
        "sample": each(sample),
        "stored": stored,
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(1 + benchmark.repeats):  # The first warms up.
        for name, side in sides.items():
            started = time.process_time()
            side()
            times[name] += [1000 * (time.process_time() - started) / len(frames)] * (repeat > 0)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {f"ratio/{name}": medians["loop"] / medians[name] for name in ("our_decode", "sample", "stored")}
    return {**{f"{name}_ms": value for name, value in medians.items()}, **ratios}


def some_frames(source: str, count: int) -> list[Frame]:
    """Returns the folder's first frames, as `preprocess.py` lists them."""
    return frames_of(find_frames(list_tree(source), "seven_scenes", SPLITS).slice(0, count))


def decoded(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Returns (480, 640, 3) uint8 BGR and (480, 640) uint16 millimetres."""
    bgr = cv2.imread(frame.members["rgb"])
    depth_mm = cv2.imread(frame.members["depth"], cv2.IMREAD_UNCHANGED)
    assert bgr is not None and depth_mm is not None
    return bgr, depth_mm


def contents(frame: Frame) -> dict[str, bytes]:
    """Reads both files."""
    return {name: Path(path).read_bytes() for name, path in frame.members.items()}


def our_decoded(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Returns (480, 640, 3) uint8 RGB and (480, 640) uint16 millimetres."""
    content = contents(frame)
    return decode_rgb(content["rgb"]), decode_depth(content["depth"])


def loop_sample(frame: Frame, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a plain loop does for one frame: (H, W, 3) uint8, (H, W) float32 log-depth and (H, W) uint8 mask."""
    bgr, depth_mm = decoded(frame)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    depth_m = depth_mm.astype(np.float32) / 1000.0
    valid_mask = (depth_mm > 0) & (depth_mm < 65535)
    log_depth = np.log(depth_m, out=np.zeros_like(depth_m), where=valid_mask)
    size = (width, height)
    return (
        cv2.resize(rgb, size),
        cv2.resize(log_depth, size),
        cv2.resize(valid_mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST),
    )


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
    sys.exit(0)
