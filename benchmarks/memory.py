"""The memory that preprocessing takes, sampled while it runs. Part of benchmarks/preprocess.py."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from depthflow.datasets.diode import MEMBER_SUFFIXES
from depthflow.datasets.frame_table import frames_of
from depthflow.datasets.layouts import find_frames
from depthflow.datasets.listing import list_tree

PREPROCESS = Path(__file__).resolve().parent.parent / "pipelines" / "preprocess.py"
OBJECT_STORE_BYTES = 2 * 10**9
EVERY_S = 0.1
WORKER_TITLE = "ray::"


def measure_memory(source: str, *, sizes: Sequence[int], work: str, num_cpus: int) -> dict[str, float]:
    """Peak MB of the driver and of the largest worker for trees of two sizes, their ratios, and MB spilled.

    Args:
        source: a tree, whose files are linked to fill the larger ones.
        sizes: samples of the two trees.
        work: scratch folder on the source's disk.
    """
    figures: dict[str, float] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            link_tree(source, Path(folder) / "tree", size)
            driver, worker, spilled = _peaks(f"{folder}/tree", f"{folder}/store", num_cpus)
        figures |= {f"driver_mb_{size}": driver, f"worker_mb_{size}": worker, f"spilled_mb_{size}": spilled}
    small, large = sizes
    for process in ("driver", "worker"):
        figures[f"ratio_{process}"] = figures[f"{process}_mb_{large}"] / figures[f"{process}_mb_{small}"]
    return figures


def link_tree(source: str, tree: Path, size: int) -> None:
    """A tree of `size` samples under new ids, each a hard link to one of the source's."""
    triplets = frames_of(find_frames(list_tree(source), "diode", ("train", "val")))
    for number in range(size):
        scene, view = divmod(number, 50)
        folder = tree / "train" / "indoors" / f"scene_{scene:05d}" / f"scan_{scene:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        for member, suffix in MEMBER_SUFFIXES.items():
            stem = f"{scene:05d}_{scene:05d}_indoors_{view:03d}_000"
            os.link(triplets[number % len(triplets)].members[member], folder / f"{stem}{suffix}")


def _peaks(tree: str, store: str, num_cpus: int) -> tuple[float, float, float]:
    """Peak MB of the driver and of the largest worker, and MB spilled, of one run of the command."""
    command = [sys.executable, str(PREPROCESS), "--source", tree, "--out", store, "--num-cpus", str(num_cpus)]
    with tempfile.TemporaryDirectory() as ray_folder:  # A short path: Ray's sockets lie there, too.
        environment = {
            **os.environ,
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(OBJECT_STORE_BYTES),
            "RAY_TMPDIR": ray_folder,
        }
        return _watch(command, environment, Path(ray_folder))


def _watch(command: list[str], environment: dict[str, str], ray_folder: Path) -> tuple[float, float, float]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        driver, worker, spilled = 0.0, 0.0, 0.0
        while process.poll() is None:
            time.sleep(EVERY_S)
            driver = max(driver, _private_mb(process.pid))
            worker = max([worker, *(_private_mb(child.pid) for child in _workers(process.pid))])
            spilled = max(spilled, _spilled_mb(ray_folder))
    if process.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return driver, worker, spilled


def _spilled_mb(ray_folder: Path) -> float:
    """What Ray moved from its object store to the disk."""
    files = [path for path in ray_folder.rglob("ray_spilled_objects*/*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / 1e6


def _workers(pid: int) -> list[psutil.Process]:
    """The processes that run tasks of a driver."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if child.name().startswith(WORKER_TITLE)]
    except psutil.Error:
        return []


def _private_mb(pid: int) -> float:
    """Memory that a process has for itself: what it shares, files and the object store, is no burden of its own."""
    try:
        memory = psutil.Process(pid).memory_info()
        return (memory.rss - memory.shared) / 1e6
    except psutil.Error:
        return 0.0
