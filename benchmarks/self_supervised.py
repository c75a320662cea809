"""What depth without labels comes to: learned from ray-cast stereo pairs and walks, and from real frames with poses.

    python benchmarks/self_supervised.py --work DIR [--cases stereo video given frames] [--seeds 3] [--minutes 15]
        [--frames-source 7_SCENES_SEQUENCE]

Each case makes its data once, in DIR, trains on one worker with each seed, and compares the best epoch's errors on
unseen scenes (of frames: on the last fifth of the sequence) with those of constants:

- stereo: pairs of 0.2 m. Metric abs_rel over that of the mean depth of train. At most 0.5 is wanted.
- video: walks with unknown poses. abs_rel after each image is scaled to its median, over that of the best constant,
  which is each image's median. At most 0.7 is wanted, and a median error of the poses' direction below 15 degrees.
- given: the same walks with poses. Metric abs_rel over that of the best single constant. At most 0.6 is wanted.
- frames: 200 real frames with poses. As video. At most 0.75 is wanted.
- moving, and moving-no-auto-mask, moving-mean, moving-own: walks with things that move, as video; and without the
  auto-mask, with the mean over neighbours, and with errors at each output's own scale. Each ought to be worse.

--minutes finds the number of epochs by two of them that it times first; --epochs sets it. Prints a table in Markdown: a
row per case, medians over seeds. The last line on stdout is one JSON object with the same and every seed's values.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import tyro

from depthflow.cluster.session import ray_session
from depthflow.command import call_command
from depthflow.metrics import counted_pixels
from depthflow.registry.tracking import sqlite_uri
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import SampleStore, open_store

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
SIZE = ("--height", "64", "--width", "128")
FRAME_SIZE = ("--height", "96", "--width", "128")
WALKS = ("--kind", "video", "--scans", "40", "--samples-per-scan", "24", *SIZE)
DATA: dict[str, tuple[str, ...]] = {
    "pairs": ("--kind", "stereo", "--scans", "48", "--samples-per-scan", "16", *SIZE),
    "walks": WALKS,
    "walks-moving": (*WALKS, "--moving-objects", "2"),
}
"""Flags of synthesize.py."""
CONSTANTS_M = np.geomspace(0.3, 100.0, 200)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training and what it is compared with.

    Attributes:
        data: A name in `DATA`, or frames.
        train: Recipe and flags of train.py.
        error: Metric of the best epoch.
        against: mean: the mean depth of train; best: the best single constant; median: each image's median.
        wanted: Largest ratio that is wanted; None for an ablation.
    """

    data: str
    train: str
    error: str
    against: Literal["mean", "best", "median"]
    wanted: float | None = None


ALIGNED = "val/abs_rel_aligned"
GIVEN = "video-tiny --poses given"
CASES = {
    "stereo": Case(data="pairs", train="stereo-tiny", error="val/abs_rel", against="mean", wanted=0.5),
    "video": Case(data="walks", train="video-tiny", error=ALIGNED, against="median", wanted=0.7),
    "given": Case(data="walks", train=GIVEN, error="val/abs_rel", against="best", wanted=0.6),
    "frames": Case(data="frames", train=GIVEN, error=ALIGNED, against="median", wanted=0.75),
    "moving": Case(data="walks-moving", train="video-tiny", error=ALIGNED, against="median"),
    **{
        f"moving-{name}": Case(data="walks-moving", train=f"video-tiny {flags}", error=ALIGNED, against="median")
        for name, flags in (
            ("no-auto-mask", "--no-auto-mask"),
            ("mean", "--no-min-reprojection"),
            ("own", "--photometric-scale own"),
        )
    },
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Depth learned without labels, against constants."""

    work: str
    """Folder for data, checkpoints, results and, without MLFLOW_TRACKING_URI, mlflow.db."""
    cases: tuple[str, ...] = ("stereo", "video", "given")
    """Names of cases."""
    seeds: int = 1
    """Number of trainings per case, with the seeds 0, 1, ..."""
    minutes: float | None = None
    """Time of each training on this machine, found by timing two epochs first."""
    epochs: int | None = None
    """Epochs of each training. Default: the recipe's."""
    frames_source: str | None = None
    """A sequence of 7-Scenes for the case frames."""
    train: str = ""
    """More flags of train.py, in one string."""


def main(benchmark: Benchmark) -> dict[str, Any]:
    """Makes the data, trains and prints the table; returns the figures."""
    unknown = [name for name in benchmark.cases if name not in CASES]
    if unknown:
        raise SystemExit(f"--cases takes: {', '.join(CASES)}. Received: {', '.join(unknown)}")
    if "frames" in benchmark.cases and benchmark.frames_source is None:
        raise SystemExit("--cases frames needs --frames-source, a sequence of 7-Scenes.")
    work = Path(benchmark.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", sqlite_uri(work / "mlflow.db"))
    found = {}
    with ray_session(), redirect_stdout(sys.stderr):
        for name in benchmark.cases:
            store = make_store(CASES[name].data, work, benchmark.frames_source)
            found[name] = figures(CASES[name], train_case(benchmark, name, store, work), open_store(store))
    print(markdown(found), flush=True)
    return found


def make_store(data: str, work: Path, frames_source: str | None) -> str:
    """Returns the store of a case's data, made unless it is there."""
    frames, store = work / data, work / f"{data}-store"
    if (store / "manifest.json").exists():
        return str(store)
    if data == "frames":
        assert frames_source is not None
        how = ["--kind", "video", "--resplit", "time", "--frame-step", "2", *FRAME_SIZE]
        call_command(PIPELINES / "preprocess.py", ["--source", frames_source, "--out", str(store), *how])
        return str(store)
    flags = DATA[data]
    if not frames.exists():
        call_command(PIPELINES / "synthesize.py", ["--out", str(frames), *flags])
    how = ["--kind", flags[1], *SIZE]
    call_command(PIPELINES / "preprocess.py", ["--source", str(frames), "--out", str(store), *how])
    return str(store)


def train_case(benchmark: Benchmark, name: str, store: str, work: Path) -> list[Mapping[str, float]]:
    """Trains a case with every seed, unless its result is there; returns the metrics of each best epoch."""
    case, epochs = CASES[name], benchmark.epochs
    recipe = [*shlex.split(case.train), *shlex.split(benchmark.train), "--num-workers", "1"]
    if benchmark.minutes is not None:
        timed = run(recipe, store, work / name / "timed", seed=0, epochs=2)
        epochs = max(2, round(60 * benchmark.minutes / timed["perf/epoch_s"]))
    return [run(recipe, store, work / name / f"seed-{n}", seed=n, epochs=epochs) for n in range(benchmark.seeds)]


def run(recipe: Sequence[str], store: str, folder: Path, *, seed: int, epochs: int | None) -> Mapping[str, float]:
    """Trains with a seed on a running Ray, unless the folder has the same command's result; returns its metrics."""
    length = [] if epochs is None else ["--epochs", str(epochs)]
    command = [*recipe, "--samples", store, "--seed", str(seed), *length]
    done = folder / "result.json"
    if done.is_file() and (kept := json.loads(done.read_text()))["command"] == command:
        return kept["metrics"]
    target = ["--storage", str(folder), "--model-name", "self-supervised"]
    result = call_command(PIPELINES / "train.py", [*command, *target])
    done.write_text(json.dumps({"command": command, "metrics": result["metrics"]}))
    return result["metrics"]


def figures(case: Case, runs: Sequence[Mapping[str, float]], store: SampleStore) -> dict[str, Any]:
    """Returns a case's errors, that of its constant, their ratio, and the error of the poses if they are learned."""
    constant = constant_abs_rel(store, case.against)
    errors = [metrics[case.error] for metrics in runs]
    angles = [metrics[name] for metrics in runs if (name := "val/pose_direction_median_deg") in metrics]
    return {
        "train": case.train,
        "abs_rel": median(errors),
        "constant": constant,
        "ratio": median(errors) / constant,
        "wanted": case.wanted,
        "pose_direction_median_deg": median(angles) if angles else None,
        "runs": [dict(metrics) for metrics in runs],
    }


def constant_abs_rel(store: SampleStore, against: str) -> float:
    """Returns the mean over val's images of a constant's abs_rel: the mean depth of train, the best, or medians."""
    samples = SplitReader(store, "val")
    read = samples.read(np.arange(len(samples)))
    truths = []
    for gt, valid in zip(np.exp(read.log_depth.astype(np.float64)), read.valid_mask, strict=True):
        counted = gt[counted_pixels(depth_gt=gt, valid_mask=valid)]
        if counted.size:
            truths.append(counted)
    if against == "median":
        return float(np.mean([np.mean(np.abs(np.median(gt) - gt) / gt) for gt in truths]))
    depths = CONSTANTS_M if against == "best" else [np.exp(store.mean_log_depth("train"))]
    return float(min(np.mean([np.mean(np.abs(depth - gt) / gt) for gt in truths]) for depth in depths))


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a row per case."""
    head = ["case", "command", "seeds", "abs_rel", "constant's", "ratio", "wanted", "pose direction, degrees"]
    rows = [
        [
            name,
            f"`train.py {case['train']}`",
            str(len(case["runs"])),
            *(f"{case[key]:.3f}" for key in ("abs_rel", "constant", "ratio")),
            "" if case["wanted"] is None else f"{case['wanted']:g}",
            "" if case["pose_direction_median_deg"] is None else f"{case['pose_direction_median_deg']:.1f}",
        ]
        for name, case in found.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
