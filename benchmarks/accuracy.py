"""How good a recipe is and how much of that is luck: trainings that differ only in their seed, evaluated together.

    python benchmarks/accuracy.py --recipe nyu-cpu --samples STORE --work DIR [--seeds 3] [--train="--epochs 8 ..."]
        [--evaluate-on VAL_STORE --protocol devkit] [--split val]

Each seed is a run of train.py, one after the other on one Ray, with the recipe and the flags of --train. Then
evaluate.py evaluates the registered version of every run in one pass. Both log to MLFLOW_TRACKING_URI, or else to
mlflow.db in DIR. A seed that DIR has a result of, from the same command, is not trained a second time.

Prints the table's head and a row in Markdown: the mean over seeds of each metric over all images and, in brackets, its
spread, (max - min) / mean. Minutes are the mean of what train.py took on a running Ray, up to the registered version.
The last line on stdout is one JSON object with the same and every seed's values.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro

from depthflow.cluster.session import ray_session
from depthflow.command import call_command
from depthflow.registry.tracking import sqlite_uri

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
MODEL_NAME = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Accuracy of a recipe over several seeds."""

    recipe: str
    """A recipe of train.py."""
    samples: str
    """Sample store to train on."""
    work: str
    """Folder for checkpoints, results and, without MLFLOW_TRACKING_URI, mlflow.db."""
    seeds: int = 3
    """Number of trainings, with the seeds 0, 1, ..."""
    train: str = ""
    """More flags of train.py, in one string: --train="--epochs 8 --camera canonical"."""
    evaluate_on: str | None = None
    """Sample store to evaluate on. Default: --samples."""
    split: str = "val"
    """Split to evaluate."""
    protocol: str = "stored"
    """Protocol to evaluate under."""
    metrics: tuple[str, ...] = ("abs_rel", "rmse", "delta1", "boundary_f1", "edge_abs_rel")
    """Metrics of the row."""


def main(benchmark: Benchmark) -> dict[str, Any]:
    """Trains, evaluates and prints the row; returns the figures."""
    if benchmark.seeds < 1:
        raise SystemExit(f"--seeds must be positive. Received: {benchmark.seeds}")
    work = Path(benchmark.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", sqlite_uri(work / "mlflow.db"))
    with ray_session(), redirect_stdout(sys.stderr):
        trained = [train(benchmark, seed, work) for seed in range(benchmark.seeds)]
        evaluated = evaluate(benchmark, [run["model_uri"] for run in trained], work)
    by_seed = [groups["all"] for groups in (evaluated["metrics"], *evaluated["compared"].values())]
    figures = {name: spread([metrics[name] for metrics in by_seed]) for name in benchmark.metrics}
    minutes = spread([run["minutes"] for run in trained])
    command = shlex.join(["train.py", benchmark.recipe, *shlex.split(benchmark.train)])
    print(markdown(command, minutes, figures), flush=True)
    facts = {name: evaluated[name] for name in ("protocol", "split", "fingerprint", "samples")}
    models = [run["model_uri"] for run in trained]
    return {"command": command, "models": models, **facts, "minutes": minutes, "metrics": figures}


def train(benchmark: Benchmark, seed: int, work: Path) -> dict[str, Any]:
    """Trains with a seed on a running Ray, unless its result is there: the command, the version's URI, and minutes."""
    done, storage = work / f"seed-{seed}.json", work / f"seed-{seed}"
    command = [benchmark.recipe, "--samples", benchmark.samples, "--seed", str(seed), *shlex.split(benchmark.train)]
    if done.is_file() and (kept := json.loads(done.read_text()))["command"] == command:
        return kept
    began = time.monotonic()
    target = ["--storage", str(storage), "--model-name", MODEL_NAME]
    result = call_command(PIPELINES / "train.py", [*command, *target])
    kept = {"command": command, "model_uri": result["model_uri"], "minutes": (time.monotonic() - began) / 60}
    done.write_text(json.dumps(kept))
    return kept


def evaluate(benchmark: Benchmark, models: Sequence[str], work: Path) -> dict[str, Any]:
    """Evaluates all models in one pass and returns the command's result."""
    first, *others = models
    compared = ["--compare", *others] if others else []
    store = ["--samples", benchmark.evaluate_on or benchmark.samples, "--split", benchmark.split]
    how = ["--protocol", benchmark.protocol, "--out", str(work / "evaluation")]
    return call_command(PIPELINES / "evaluate.py", ["--model", first, *compared, *store, *how])


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Returns mean, spread and the values; both are None if a value is, and the spread if the mean is 0."""
    known = [value for value in values if value is not None]
    mean = fmean(known) if len(known) == len(values) else None
    return {"mean": mean, "spread": (max(known) - min(known)) / mean if mean else None, "values": list(values)}


def markdown(command: str, minutes: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the head of the table and a row."""
    cells = [
        "" if found["mean"] is None else f"{found['mean']:.3f} ({found['spread'] or 0:.1%})"
        for found in figures.values()
    ]
    rows = (
        ["command", "seeds", "minutes", *figures],
        ["---"] * (3 + len(figures)),
        [f"`{command}`", str(len(minutes["values"])), f"{minutes['mean']:.1f}", *cells],
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
