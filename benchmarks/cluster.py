"""Measures what more nodes gain and cost, with all nodes simulated on one machine; prints ratios and seconds.

    python benchmarks/cluster.py --source TREE --work DIR

TREE contains frames of DIODE's size, 768 x 1024, in DIODE's layout; DIR is a scratch folder.

- scale: samples per second of preprocessing at steady state on two Ray nodes of one CPU, against one node of two CPUs.
  Repeats alternate, each on a new Ray; the ratio is the median over pairs;
- plan: seconds and MB for planning DIODE's 26,229 samples into shards for 64 nodes, a pure function without Ray;
- driver: seconds and the driver's MB for the same samples in tasks that do nothing, on one node;
- submit: seconds from `submit.py` to the first line of the job's log, on a warm local cluster.

The last line on stdout is one JSON object.
"""

import json
import math
import multiprocessing
import os
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import tyro
from memory import link_tree
from preprocess import DIODE_SAMPLES, ray_rate

from depthflow.cluster.session import ray_session
from depthflow.datasets.diode import MEMBER_SUFFIXES
from depthflow.datasets.frame_table import frame_table
from depthflow.datasets.frames import Frame
from depthflow.store.write.plan import ShardPlan, deal_to_shards, plan_samples
from depthflow.store.write.sources import Source
from depthflow.store.write.tasks import Limits, Outcome, Reporter, run_tasks

SUBMIT = Path(__file__).resolve().parent.parent / "pipelines" / "submit.py"
FIRST_WORD = "checking"
"""First word that the job's preflight prints."""
VIEWS_PER_SCAN = 200
SAMPLE_BYTES = 256 * 256 * (3 + 4 + 1 + 1)
Part = Literal["scale", "plan", "driver", "submit"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measures what more nodes gain and cost."""

    work: str
    """Scratch folder."""
    source: str | None = None
    """Tree in DIODE's layout with frames of 768 x 1024; required for the part scale."""
    parts: tuple[Part, ...] = ("scale", "plan", "driver", "submit")
    """Parts to run."""
    samples: int = 1600
    """Number of samples of the part scale, which are links to the source's files."""
    shard_mib: int = 32
    """Shard size of the part scale: 55 samples at 256 x 256, for enough shards to measure a rate."""
    nodes: int = 64
    """Number of nodes to plan DIODE for."""
    repeats: int = 5
    """Repeats of the parts scale and submit."""


def main(benchmark: Benchmark) -> dict[str, float]:
    """Runs the parts and prints their metrics."""
    Path(benchmark.work).mkdir(parents=True, exist_ok=True)
    measures: dict[Part, Callable[[Benchmark], dict[str, float]]] = {
        "scale": measure_scale,
        "plan": lambda b: _apart(plan_diode, b.nodes),
        "driver": lambda b: _apart(drive_nothing, b.nodes),
        "submit": measure_submit,
    }
    metrics: dict[str, float] = {}
    for part in benchmark.parts:
        found = measures[part](benchmark)
        metrics |= {f"{part}/{name}": value for name, value in found.items()}
        print(f"\n{part}", *(f"  {name:<40} {value:12.3f}" for name, value in found.items()), sep="\n", flush=True)
    return metrics


def _apart(measure: Callable[..., Any], *arguments: object) -> Any:
    """Runs in a new process, whose peak memory is that of the measured work."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def measure_scale(benchmark: Benchmark) -> dict[str, float]:
    """Measures two nodes of one CPU against one node of two CPUs."""
    if benchmark.source is None:
        raise SystemExit("The part scale needs --source TREE.")
    rates: dict[str, list[float]] = {"two_nodes": [], "one_node": []}
    with tempfile.TemporaryDirectory(dir=benchmark.work) as folder:
        link_tree(benchmark.source, Path(folder) / "tree", benchmark.samples)
        for _ in range(benchmark.repeats):
            for name, cpus in (("two_nodes", (1, 1)), ("one_node", (2,))):
                rates[name].append(_apart(rate_on_nodes, f"{folder}/tree", folder, benchmark.shard_mib, cpus))
                print(f"scale: {name}: {rates[name][-1]:.1f} samples per second", file=sys.stderr, flush=True)
    ratios = [two / one for two, one in zip(rates["two_nodes"], rates["one_node"], strict=True)]
    return {f"{name}_samples_per_s": statistics.median(values) for name, values in rates.items()} | {
        "ratio": statistics.median(ratios)
    }


def rate_on_nodes(tree: str, work: str, shard_mib: int, cpus: tuple[int, ...]) -> float:
    """Returns samples per second on a Ray with one node for each number of CPUs."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for number in cpus:
        cluster.add_node(num_cpus=number)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = str(cluster.address)
    try:
        with ray_session():
            return ray_rate(tree, work=work, shard_mib=shard_mib, cpus=sum(cpus))
    finally:
        cluster.shutdown()


def diode_plans(nodes: int) -> list[ShardPlan]:
    """Deals all of DIODE's samples to at least one shard per node."""
    frames = [_triplet(number) for number in range(DIODE_SAMPLES)]
    return deal_to_shards(
        plan_samples([Source(location="s3://bucket/diode", frames=frame_table(frames))]),
        sample_bytes=SAMPLE_BYTES,
        shard_bytes=min(256 * 2**20, DIODE_SAMPLES * SAMPLE_BYTES // nodes),
        seed=0,
        settings="{}",
    )


def _triplet(number: int) -> Frame:
    scan, view = divmod(number, VIEWS_PER_SCAN)
    sample_id = f"{scan:05d}_{scan:05d}_indoors_{view:03d}_000"
    folder = f"s3://bucket/diode/train/indoors/scene_{scan:05d}/scan_{scan:05d}"
    return Frame(
        sample_id=sample_id,
        split="train",
        scene_type="indoors",
        scene=f"scene_{scan:05d}",
        scan=f"scan_{scan:05d}",
        members={member: f"{folder}/{sample_id}{suffix}" for member, suffix in MEMBER_SUFFIXES.items()},
    )


def plan_diode(nodes: int) -> dict[str, float]:
    """Returns seconds and MB of planning."""
    before_mb, started = _peak_mb(), time.perf_counter()
    plans = diode_plans(nodes)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": _peak_mb() - before_mb, "shards": len(plans)}


def drive_nothing(nodes: int) -> dict[str, float]:
    """Returns seconds and the driver's MB for tasks that make no sample."""
    plans = diode_plans(nodes)

    def nothing(plan: ShardPlan, reporter: Reporter) -> Outcome:
        for planned in plan.samples:
            with reporter.watch(planned):
                pass
        return Outcome(plan.rows.num_rows)

    with ray_session(2):
        before_mb, started = _peak_mb(), time.perf_counter()
        run_tasks(plans, nothing, limits=Limits(sample_timeout_s=300.0, max_rejects=None))
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "driver_mb": _peak_mb(), "driver_mb_before": before_mb, "tasks": len(plans)}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_submit(benchmark: Benchmark) -> dict[str, float]:
    """Returns seconds to the first line of a job's log, for the first job of a cluster and for later ones."""
    seconds = []
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, local_head(folder) as environment:
        for number in range(benchmark.repeats + 1):
            seconds.append(first_line_s(f"{folder}/mini-diode-{number}", environment))
    return {"first_job_s": seconds[0], "warm_s": statistics.median(seconds[1:]), "warm_worst_s": max(seconds[1:])}


@contextmanager
def local_head(folder: str) -> Iterator[dict[str, str]]:
    """Runs a head of two CPUs with a job server, and yields the environment of its clients."""
    port, api_port = _free_port(), _free_port()
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={api_port}", "--num-cpus=2"]
    command += [f"--temp-dir={folder}/ray", "--disable-usage-stats"]
    api = f"http://127.0.0.1:{api_port}"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # As in an activated environment.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with Path(folder, "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"{api}/api/jobs/")
        yield {**environment, "RAY_API_SERVER_ADDRESS": api}
    finally:
        for process in (psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)):
            process.kill()
        head.wait()


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # It answers, even if only to ask for the token.
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def first_line_s(out: str, environment: dict[str, str]) -> float:
    """Returns seconds from starting submit.py to the first line that the job prints."""
    command = [sys.executable, str(SUBMIT), "synthesize", "--out", out, "--scans", "2", "--samples-per-scan", "1"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    with process, process.stderr as lines:
        seconds = next((time.perf_counter() - started for line in lines if line.startswith(FIRST_WORD)), math.nan)
        for _ in lines:  # Waits for the end, so that the next job starts on an idle cluster.
            continue
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return seconds


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
    sys.exit(0)
