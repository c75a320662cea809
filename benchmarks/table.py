"""A frame table of a million rows: seconds and memory until its shards are planned.

    python benchmarks/table.py --work DIR

DIR is a scratch folder, in which a CSV and two empty files for each of its rows are made and kept for the next run. In
a process of its own, the table is then read, its values and files are checked, it is accounted for, divided by scene
and dealt to shards, as `preprocess.py` does before the first task starts. The last line on stdout is one JSON object:
seconds and CPU seconds of each step from the start, and the process's peak memory.
"""

import json
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import plan_shards
from depthflow.store.write.sources import account_for, read_tree

FRAMES_PER_SCAN = 2000
SCANS_PER_SCENE = 5


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A frame table of many rows."""

    work: str
    """Scratch folder."""
    rows: int = 1_000_000
    """Number of rows."""


def main(benchmark: Benchmark) -> dict[str, float]:
    """Makes the table, unless it is there, and plans it in a new process."""
    table = Path(benchmark.work) / f"{benchmark.rows}.csv"
    if not table.is_file():
        make_table(table, benchmark.rows)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (str(table),))


def make_table(table: Path, rows: int) -> None:
    """Writes the table, last, and its files."""
    lines = ["image,depth,depth_units_per_m,depth_invalid,fx_px,width,height,scene,scan,time_s"]
    for row in range(rows):
        scan, number = divmod(row, FRAMES_PER_SCAN)
        folder = table.parent / f"{rows}" / f"scan_{scan:05d}"
        if number == 0:
            folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"frame-{number:06d}.{ending}" for ending in ("color.jpg", "depth.png")]
        for file in files:
            file.touch()
        places = ",".join(str(file.relative_to(table.parent)) for file in files)
        where = f"scene_{scan // SCANS_PER_SCENE:04d},scan_{scan:05d},{number / 30:.3f}"
        lines.append(f"{places},1000,0 65535,585,640,480,{where}")
    table.write_text("\n".join(lines) + "\n")


def measure(table: str) -> dict[str, float]:
    """Returns what planning the table costs."""
    config = PreprocessConfig(source=(table,), layout=("table",), out="nowhere", resplit="train")
    figures: dict[str, float] = {}
    begun, begun_cpu = time.perf_counter(), time.process_time()

    def done(step: str) -> None:
        figures[f"{step}_s"] = round(time.perf_counter() - begun, 2)
        figures[f"{step}_cpu_s"] = round(time.process_time() - begun_cpu, 2)

    source = read_tree(table, config.source_splits, "table")
    done("read_and_checked")
    account_for([source], config.source_splits)
    plans = plan_shards(config, [source])
    done("planned")
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {**figures, "peak_gb": round(peak_gb, 2), "rows": sum(p.rows.num_rows for p in plans), "shards": len(plans)}


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
    sys.exit(0)
