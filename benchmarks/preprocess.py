"""Preprocessing beside what a user would write instead, in one run; prints ratios and the capacity table.

    python benchmarks/preprocess.py --source TREE --archive TAR_GZ --work DIR

TREE and TAR_GZ hold frames of DIODE's size, 768 x 1024, in DIODE's layout; DIR is a scratch folder. Repeats alternate
between the sides, figures are medians:

- core: milliseconds a sample of the tutorial's function (decode, resize, clip, log; it writes nothing) and of ours
  (decode, check, edges, resize, log, checksums; encoded and written to a shard), each in a process of its own;
- ray: samples a second of the whole job, and of a plain multiprocessing pool with as many processes that runs the very
  same function; both between the first finished shards and the last, so start-up is apart;
- archive: seconds of the listing pass and of the read that follows beside rapidgzip's own read of the same archive, one
  thread each; and samples a second of a whole job on the archive beside one on the same frames as a tree;
- memory: the driver's and the largest worker's peak for trees of two sizes, and bytes spilled at a 2 GB object store.

The last line on stdout is one JSON object.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import functools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import cv2
import numpy as np
import pyarrow.compute as pc
import rapidgzip
import tyro
from memory import link_tree, measure_memory

from depthflow.cluster.session import WORKER_ENVIRONMENT, ray_session
from depthflow.datasets.archive import archive_listing, open_archive, scan_archive
from depthflow.datasets.frame_table import frame_table, frames_of
from depthflow.datasets.frames import Frame
from depthflow.datasets.layouts import find_frames
from depthflow.datasets.listing import list_tree
from depthflow.storage.files import DiskFiles
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.plan import ShardPlan, plan_samples
from depthflow.store.write.preprocess import plan_shards, preprocess, sample_layout, shard_work
from depthflow.store.write.sources import Source, read_tree
from depthflow.store.write.staging import Segment, cut_into_segments, sweep
from depthflow.store.write.tasks import Limits, Reporter, run_tasks

DIODE_SAMPLES = 25_458 + 771
DIODE_ARCHIVE_BYTES = 81e9 + 2.6e9
DIODE_TREE_BYTES = DIODE_SAMPLES * (768 * 1024 * (4 + 4) + 0.8e6)
"""Depth and mask of 4 bytes a pixel, and a PNG of some 0.8 MB."""
Part = Literal["core", "ray", "archive", "memory"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Preprocessing beside what a user would write instead."""

    source: str
    """A tree in DIODE's layout, of 768 x 1024 frames."""
    work: str
    """Scratch folder."""
    archive: str | None = None
    """A .tar.gz of such frames; needed for the part archive."""
    parts: tuple[Part, ...] = ("core", "ray", "archive", "memory")
    """What to measure."""
    processes: int = 2
    """Of the pool, and CPUs of Ray."""
    samples: int = 40
    """Samples of each repeat of the part core."""
    repeats: int = 3
    """Of the parts core, ray and archive."""
    ray_samples: int = 2400
    """Samples of the part ray's tree, made of links to the source's files..."""
    ray_shard_mib: int = 64
    """...and MiB of its shards: 109 samples at 256 x 256, a fourth of the default, for more shards to count."""
    memory_samples: tuple[int, int] = (200, 2000)
    """Sizes of the part memory's trees, made of links to the source's files."""
    node_cores: int = 16
    """Of a node of the capacity table..."""
    node_disk_bytes_per_s: float = 1.25e9
    """...what its disk or its share of the storage gives, here 10 Gbit/s..."""
    node_dollars_an_hour: float = 0.8064
    """...and its price: m7i.4xlarge, 16 vCPUs, on demand in us-east-1."""


def main(benchmark: Benchmark) -> dict[str, Any]:
    """Measures the parts asked for."""
    Path(benchmark.work).mkdir(parents=True, exist_ok=True)
    measures: dict[str, Callable[[Benchmark], dict[str, float]]] = {
        "core": measure_core,
        "ray": measure_ray,
        "archive": measure_archive,
        "memory": lambda b: measure_memory(b.source, sizes=b.memory_samples, work=b.work, num_cpus=b.processes),
    }
    figures: dict[str, float] = {}
    for part in benchmark.parts:
        found = measures[part](benchmark)
        figures |= {f"{part}/{name}": value for name, value in found.items()}
        print(f"\n{part}", *(f"  {name:<40} {value:12.3f}" for name, value in found.items()), sep="\n", flush=True)
    print("\n" + capacity_table(figures, benchmark))
    return figures


# ----------------------------------------------------------------------------------------------------------- a core


def tutorial_sample(rgb: str, depth: str, mask: str) -> tuple[np.ndarray, np.ndarray]:
    """What the tutorial's data loader does for one sample: (256, 256, 3) float32 in [0, 1] and (256, 256) log-depth."""
    bgr = cv2.imread(rgb)
    assert bgr is not None
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (256, 256)).astype(np.float32) / 255.0
    depth_m = np.load(depth).squeeze()
    valid_mask = np.load(mask) > 0
    farthest = min(300.0, np.percentile(depth_m, 99))
    depth_m = np.clip(depth_m, 0.1, farthest)
    log_depth = np.ma.masked_where(~valid_mask, np.log(depth_m, out=np.zeros_like(depth_m), where=valid_mask))
    return image, cv2.resize(np.ma.clip(log_depth, 0.1, np.log(farthest)).filled(0.0), (256, 256))


def time_tutorial(source: str, samples: int) -> float:
    """Milliseconds per sample."""
    cv2.setNumThreads(1)
    triplets = some_triplets(source, samples)
    tutorial_sample(**triplets[0].members)
    started = time.perf_counter()
    for triplet in triplets:
        tutorial_sample(**triplet.members)
    return 1000 * (time.perf_counter() - started) / samples


def time_ours(source: str, samples: int, work: str) -> float:
    """Milliseconds a sample, written to a shard and committed."""
    rows = plan_samples([Source(location=source, frames=frame_table(some_triplets(source, samples)))])
    with tempfile.TemporaryDirectory(dir=work) as folder:
        job = Job(source, folder, shard_mib=256)
        first, timed = (ShardPlan(path=f"{n}.parquet", rows=rows.slice(0, n), settings="") for n in (1, samples))
        job.make(first)
        started = time.perf_counter()
        job.make(timed)
        return 1000 * (time.perf_counter() - started) / samples


def some_triplets(source: str, samples: int) -> list[Frame]:
    """The tree's first triplets, their files in the page cache."""
    triplets = frames_of(find_frames(list_tree(source), "diode", ("train",)).slice(0, samples))
    for triplet in triplets:
        for path in triplet.members.values():
            Path(path).read_bytes()
    return triplets


def measure_core(benchmark: Benchmark) -> dict[str, float]:
    """The tutorial's function beside ours, a fresh process for each repeat."""
    spawn = multiprocessing.get_context("spawn")
    tutorial = functools.partial(time_tutorial, benchmark.source, benchmark.samples)
    ours = functools.partial(time_ours, benchmark.source, benchmark.samples, benchmark.work)
    sides: dict[str, tuple[Callable[[], float], Mapping[str, str]]] = {
        "tutorial_ms": (tutorial, {}),
        "tutorial_same_malloc_ms": (tutorial, WORKER_ENVIRONMENT),
        "ours_ms": (ours, WORKER_ENVIRONMENT),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(benchmark.repeats):
        for name, (function, environment) in sides.items():
            with mock.patch.dict(os.environ, environment), spawn.Pool(1) as pool:
                times[name].append(pool.apply(function))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **medians,
        "ratio": medians["tutorial_ms"] / medians["ours_ms"],
        "ratio_same_malloc": medians["tutorial_same_malloc_ms"] / medians["ours_ms"],
    }


# -------------------------------------------------------------------------------------------------- Ray and a pool


class Job:
    """The shards of a tree, ready to be made by anyone.

    Args:
        source: a tree.
        out: the store's folder.
        shard_mib: MiB a shard.
    """

    def __init__(self, source: str, out: str, *, shard_mib: int) -> None:
        config = PreprocessConfig(source=(source,), out=out, splits=("train",), shard_mib=shard_mib)
        self.plans = plan_shards(config, [read_tree(source, ("train",))])
        self.work = shard_work(sample_layout(config), DiskFiles(out))

    def make(self, plan: ShardPlan) -> int:
        """Makes a shard as a task does; returns how many samples it has."""
        cv2.setNumThreads(1)
        return self.work(plan, Reporter(lambda report: None, 0)).done


_job: Job  # Of a pool's process.


def _set_job(source: str, out: str, shard_mib: int) -> None:
    global _job
    _job = Job(source, out, shard_mib=shard_mib)


def _make(number: int) -> int:
    return _job.make(_job.plans[number])


def steady_rate(arrivals: Sequence[tuple[float, int]], *, skipped: int) -> float:
    """Samples a second from the arrival of the first `skipped` shards to that of the last.

    Args:
        arrivals: (seconds, samples) of each shard, as it was finished.
    """
    return sum(samples for _, samples in arrivals[skipped:]) / (arrivals[-1][0] - arrivals[skipped - 1][0])


def pool_rate(source: str, benchmark: Benchmark) -> float:
    """Samples a second of a multiprocessing pool."""
    with tempfile.TemporaryDirectory(dir=benchmark.work) as out:
        arguments = (source, out, benchmark.ray_shard_mib)
        shards = len(Job(source, out, shard_mib=benchmark.ray_shard_mib).plans)
        with multiprocessing.get_context("spawn").Pool(benchmark.processes, _set_job, arguments) as pool:
            arrivals = [(time.perf_counter(), done) for done in pool.imap_unordered(_make, range(shards))]
    return steady_rate(arrivals, skipped=benchmark.processes)


def ray_rate(source: str, *, work: str, shard_mib: int, cpus: int) -> float:
    """Samples a second of the Ray job, on a running Ray of so many CPUs."""
    arrivals: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(dir=work) as out:
        job = Job(source, out, shard_mib=shard_mib)
        run_tasks(
            job.plans,
            job.work,
            limits=Limits(sample_timeout_s=300.0, max_rejects=None),
            on_outcome=lambda outcome: arrivals.append((time.perf_counter(), outcome.done)),
        )
    return steady_rate(arrivals, skipped=cpus)


def measure_ray(benchmark: Benchmark) -> dict[str, float]:
    """The Ray job beside a pool, on a tree that is long enough for a steady state."""
    pool, job = [], []
    with tempfile.TemporaryDirectory(dir=benchmark.work) as folder, ray_session(benchmark.processes):
        link_tree(benchmark.source, Path(folder) / "tree", benchmark.ray_samples)
        for _ in range(benchmark.repeats):
            pool.append(pool_rate(f"{folder}/tree", benchmark))
            job.append(
                ray_rate(
                    f"{folder}/tree",
                    work=benchmark.work,
                    shard_mib=benchmark.ray_shard_mib,
                    cpus=benchmark.processes,
                )
            )
    rates = {"pool_samples_per_s": statistics.median(pool), "ray_samples_per_s": statistics.median(job)}
    return {**rates, "ratio": rates["ray_samples_per_s"] / rates["pool_samples_per_s"]}


# ---------------------------------------------------------------------------------------------------------- archive


def measure_archive(benchmark: Benchmark) -> dict[str, float]:
    """Listing and reading an archive beside rapidgzip's own read; a job on it beside one on its frames as a tree."""
    if benchmark.archive is None:
        raise SystemExit("The part archive needs --archive TAR_GZ.")
    with tempfile.TemporaryDirectory(dir=benchmark.work) as folder:
        index = f"{folder}/index.gzidx"
        contents = scan_archive(benchmark.archive, index, threads=1, progress=lambda name, position: None)
        frames = find_frames(archive_listing(benchmark.archive, contents), "diode", ("train", "val"))
        rows = plan_samples([Source(location=benchmark.archive, frames=frames)])
        segments = [
            Segment(archive=benchmark.archive, identity="", rows=rows.take(some), settings="")
            for some in cut_into_segments(rows, np.flatnonzero(pc.equal(rows["reason"], "")))
        ]
        sides: dict[str, Callable[[], object]] = {
            "rapidgzip_s": lambda: read_whole(benchmark.archive or ""),
            "listing_s": lambda: scan_archive(
                benchmark.archive or "", index, threads=1, progress=lambda name, position: None
            ),
            "second_read_s": lambda: read_segments(benchmark.archive or "", index, segments),
        }
        seconds = median_seconds(sides, benchmark.repeats)
        jobs = whole_jobs(benchmark, folder, samples=rows.num_rows)
    return {
        **seconds,
        "ratio_listing": seconds["listing_s"] / seconds["rapidgzip_s"],
        "ratio_second_read": seconds["second_read_s"] / seconds["rapidgzip_s"],
        **jobs,
    }


def median_seconds(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side, the repeats alternating."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, function in sides.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def read_whole(archive: str) -> None:
    """Inflates an archive from end to end, as rapidgzip does by itself."""
    with rapidgzip.open(archive, parallelization=1) as stream:
        while stream.read(2**22):
            pass


def read_segments(archive: str, index_path: str, segments: Sequence[Segment]) -> None:
    """Reads all members of all triplets, as the tasks that make the samples do."""
    for segment in segments:
        with (
            Path(index_path).open("rb") as index,
            open_archive(archive, index, begin=segment.begin, end=segment.end) as read,
        ):
            for _ in sweep(segment, read):
                pass


def whole_jobs(benchmark: Benchmark, folder: str, *, samples: int) -> dict[str, float]:
    """Samples a second of the whole job on the archive, and on the same frames unpacked, start-up of Ray apart."""
    import tarfile

    with tarfile.open(benchmark.archive or "") as tar:
        tar.extractall(f"{folder}/tree", filter="data")
    rates = {}
    with ray_session(benchmark.processes):
        for name, source in {
            "warm_up": f"{folder}/tree",
            "tree": f"{folder}/tree",
            "archive": benchmark.archive,
        }.items():
            started = time.perf_counter()
            preprocess(
                PreprocessConfig(source=(str(source),), out=f"{folder}/{name}"), lambda label: lambda done, total: None
            )
            rates[f"{name}_job_samples_per_s"] = samples / (time.perf_counter() - started)
    del rates["warm_up_job_samples_per_s"]
    return {**rates, "ratio_archive_to_tree": rates["archive_job_samples_per_s"] / rates["tree_job_samples_per_s"]}


# --------------------------------------------------------------------------------------------------- capacity table


def capacity_table(figures: dict[str, float], benchmark: Benchmark) -> str:
    """Minutes and dollars for the whole of DIODE on 1, 4 and 16 nodes, from what was measured here.

    Each phase takes the longer of its cores' time and its disks': making samples, samples x ms a sample / ratio of Ray
    to a pool / cores, or the tree's bytes / (nodes x disk); from the archives first their listing by one node, seconds
    of rapidgzip a byte / cores of the node, or their bytes / disk; then the second read and making, on all nodes.
    """
    needed = ("core/ours_ms", "ray/ratio", "archive/rapidgzip_s")
    if any(name not in figures for name in needed):
        return "The capacity table needs the parts core, ray and archive."
    cores, disk = benchmark.node_cores, benchmark.node_disk_bytes_per_s
    make_s = DIODE_SAMPLES * figures["core/ours_ms"] / 1000 / figures["ray/ratio"]
    inflate_s = figures["archive/rapidgzip_s"] * DIODE_ARCHIVE_BYTES / Path(benchmark.archive or "").stat().st_size
    listing_s = max(inflate_s * figures["archive/ratio_listing"] / cores, DIODE_ARCHIVE_BYTES / disk)
    lines = ["| nodes | from an unpacked tree | from the .tar.gz |", "|---|---|---|"]
    for nodes in (1, 4, 16):
        tree_s = max(make_s / (cores * nodes), DIODE_TREE_BYTES / (disk * nodes))
        reading_s = inflate_s * figures["archive/ratio_second_read"]
        archive_s = listing_s + max((make_s + reading_s) / (cores * nodes), DIODE_ARCHIVE_BYTES / (disk * nodes))
        cells = [
            f"{seconds / 3600:.3f} h, ${seconds / 3600 * nodes * benchmark.node_dollars_an_hour:.2f}"
            for seconds in (tree_s, archive_s)
        ]
        lines.append(f"| {nodes} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
    sys.exit(0)
