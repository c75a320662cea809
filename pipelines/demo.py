"""The whole chain, command by command, on a mini-DIODE or on your own tree."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray

from depthflow.cluster.session import ray_session
from depthflow.command import EXIT_REJECTS, last_json_line, run_command
from depthflow.datasets.archive import is_archive
from depthflow.datasets.diode import find_triplets
from depthflow.errors import DepthflowError
from depthflow.flags import RayConfig, flags, require_folder, require_positive
from depthflow.metrics import HIGHER_IS_BETTER
from depthflow.storage.files import open_output
from depthflow.storage.location import is_uri
from depthflow.store.store import SampleStore, open_store

PIPELINES = Path(__file__).resolve().parent
MINI_DIODE = ["--scans", "48", "--samples-per-scan", "8", "--height", "192", "--width", "256"]
IMAGES_TRAINED_ON = 20_000
"""Epochs are chosen so that about so many images pass through training: a minute and a half on two cores."""
PHOTOGRAPHS = 3
MARKER = ".depthflow-demo"


@flags
class DemoConfig(RayConfig):
    """Runs the whole chain on a mini-DIODE, or on your own tree."""

    source: str | None = None
    """Tree in DIODE's layout. Default: synthesize a mini-DIODE."""
    out: str = "demo-out"
    """Folder for everything the demo writes. Output of an earlier demo is replaced."""
    num_workers: int = 2
    """Number of training workers."""
    epochs: int | None = None
    """Number of epochs. Default: chosen so that the demo takes about as long on any source."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_folder(out=self.out)
        require_positive(num_workers=self.num_workers, epochs=self.epochs)


def main(config: DemoConfig) -> dict[str, Any]:
    """Runs the chain, prints the table, and returns every command's result."""
    started = time.monotonic()
    out = Path(config.out).resolve()
    if config.source is not None:
        if is_archive(config.source) or is_uri(config.source):
            raise DepthflowError(
                f"The demo shows photographs of its source, so it wants a folder on a disk. Received: {config.source}. "
                "preprocess.py reads archives and object stores as they are."
            )
        find_triplets(config.source, ("train", "val"))
        if Path(config.source).resolve().is_relative_to(out):
            raise DepthflowError(f"The source {config.source} lies in the demo's own folder {out}. Pass another --out.")
    make_room(out)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{out}/mlflow.db"
    with ray_session(config.num_cpus):
        os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        results = run_chain(config, out)
    results["seconds"] = round(time.monotonic() - started, 1)
    print(summary(results, out), flush=True)
    if results["promote"]["decision"] != "promoted":
        raise DepthflowError(f"The chain ran, but no version was promoted: {'; '.join(results['promote']['reasons'])}.")
    return results


def make_room(out: Path) -> None:
    """An empty folder for the demo; what an earlier demo left there goes, anything else is refused."""
    marker = out / MARKER
    open_output(str(out))
    if out.exists() and any(out.iterdir()):
        if not marker.is_file():
            raise DepthflowError(f"{out} is not empty and not a demo's. Pass --out another folder.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text("Made by pipelines/demo.py, which replaces this folder when it runs again.\n")


def run_chain(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Runs the commands; each result by the command's name."""
    results: dict[str, Any] = {}
    source = Path(config.source).resolve() if config.source else out / "mini-diode"
    if config.source is None:
        results["synthesize"] = run("synthesize", "--out", source, *MINI_DIODE)
    # Who has one split alone, val.tar.gz say, makes both of it.
    only = [] if (source / "train").is_dir() and (source / "val").is_dir() else ["--resplit", _only_split(source)]
    samples, full = out / "samples", out / "val-full-resolution"
    results["preprocess"] = run(
        "preprocess", "--source", source, "--out", samples, *only, "--height", 64, "--width", 64
    )
    store = open_store(str(samples))
    size = _source_size(store)
    results["preprocess_full"] = run(
        "preprocess",
        "--source",
        source,
        "--out",
        full,
        *only,
        "--splits",
        "val",
        "--height",
        size[0],
        "--width",
        size[1],
    )
    epochs = config.epochs or min(100, max(2, IMAGES_TRAINED_ON // store.split_index("train").num_rows))
    workers = ["--num-workers", config.num_workers]
    results["train"] = run(
        "train", "smoke", "--samples", samples, "--storage", out / "runs", "--epochs", epochs, *workers
    )
    results["evaluate"] = run(
        "evaluate", "--model", "models:/depthflow@challenger", "--samples", full, "--out", out / "evaluation"
    )
    results["promote"] = run("promote", "--samples", full)
    alias = "champion" if results["promote"]["champion"] else "challenger"
    photographs = _some_photographs(source, store)
    results["predict"] = run(
        "predict", "--model", f"models:/depthflow@{alias}", "--images", *photographs, "--out", out / "predictions"
    )
    return results


def run(command: str, *arguments: object) -> dict[str, Any]:
    """Runs another command of this folder; what it prints goes to stderr, its result comes back."""
    line = [f"pipelines/{command}.py", *map(str, arguments)]
    print(f"\n$ python {shlex.join(line)}", file=sys.stderr, flush=True)
    process = subprocess.run(
        [sys.executable, str(PIPELINES / f"{command}.py"), *line[1:]], stdout=subprocess.PIPE, text=True
    )
    result = last_json_line(process.stdout)
    if process.returncode not in (0, EXIT_REJECTS) or result is None:
        reason = result["error"] if result else f"exit code {process.returncode}"
        raise DepthflowError(f"{command} failed: {reason}")
    return result


def summary(results: dict[str, Any], out: Path) -> str:
    """The table that a person reads at the end."""
    made, evaluation, promotion = results["preprocess"], results["evaluate"], results["promote"]
    lines = [
        "",
        f"{'samples':<22}{made['samples']}",
        f"{'rejects':<22}{made['rejects']} {made['rejects_by_reason'] or ''}",
    ]
    for split, counts in made["counts"].items():
        lines.append(f"{'  ' + split:<22}{', '.join(f'{count} {scene_type}' for scene_type, count in counts.items())}")
    version = f"{promotion['champion']} ({'; '.join(promotion['reasons'])})" if promotion["champion"] else "none"
    lines += [f"{'version promoted':<22}{version}", f"{'seconds':<22}{results['seconds']}", ""]
    lines.append(f"{evaluation['samples']} val images at full resolution, protocol {evaluation['protocol']}:")
    lines.append(f"{'':<22}{'model':>10}{'mean depth':>12}")
    for group, metrics in evaluation["metrics"].items():
        for name in ("abs_rel", "rmse", "delta1"):
            ours, baseline = metrics[name], evaluation["baseline"][group][name]
            if ours is not None:
                better = "better" if (ours > baseline) == (name in HIGHER_IS_BETTER) else "worse"
                lines.append(f"{group + ' ' + name:<22}{ours:>10.3f}{baseline:>12.3f}  {better}")
    lines += ["", "pictures:", *(f"  {path}" for path in evaluation["files"] if path.endswith(".html"))]
    lines += [f"  {path}" for path in results["predict"]["outputs"] if path.endswith("panel.png")]
    lines += [
        "",
        "MLflow UI:",
        f"  {Path(sys.executable).parent}/mlflow ui --backend-store-uri sqlite:///{out}/mlflow.db",
        "",
    ]
    return "\n".join(lines)


def _source_size(store: SampleStore) -> tuple[int, int]:
    """Height and width of the source's frames, which the protocol wants to be one and the same."""
    sizes = set(zip(store.index["source_height"].to_pylist(), store.index["source_width"].to_pylist(), strict=True))
    if len(sizes) > 1:
        raise DepthflowError(
            f"The demo wants frames of one size. Received: {sorted(sizes)} (height, width). Pass --source a tree of "
            "one size, or run the commands one by one: preprocess.py resizes."
        )
    return sizes.pop()


def _only_split(source: Path) -> str:
    return "train" if (source / "train").is_dir() or source.name == "train" else "val"


def _some_photographs(source: Path, store: SampleStore) -> list[str]:
    """A few of the val photographs, from different places."""
    wanted = set(store.split_index("val")["sample_id"].to_pylist())
    found = [t.paths["rgb"] for t in find_triplets(str(source), ("train", "val")) if t.sample_id in wanted]
    return found[:: max(1, len(found) // PHOTOGRAPHS)][:PHOTOGRAPHS]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
