"""The whole chain, command by command, on a mini-DIODE or on your own tree."""

import contextlib
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflow.command import call_command, run_command
from depthflow.errors import DepthflowError
from depthflow.flags import RayConfig, flags, require_folder, require_positive

if TYPE_CHECKING:
    from depthflow.store.store import SampleStore

PIPELINES = Path(__file__).resolve().parent
MINI_DIODE = ["--scans", "48", "--samples-per-scan", "8", "--height", "192", "--width", "256"]
IMAGES_TRAINED_ON = 17_280
"""Epochs are chosen so that training sees about this many images."""
IMAGES_PREDICTED = 3
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
    from depthflow.cluster.session import ray_session
    from depthflow.datasets.archive import is_archive
    from depthflow.datasets.diode import find_triplets
    from depthflow.storage.location import is_uri

    started = time.monotonic()
    out = Path(config.out).resolve()
    if config.source is not None:
        if is_archive(config.source) or is_uri(config.source):
            raise DepthflowError(
                f"The demo predicts images of its source, so it needs a folder on a disk. Received: {config.source}. "
                "preprocess.py reads archives and object stores as they are."
            )
        find_triplets(config.source, ("train", "val"))
        if Path(config.source).resolve().is_relative_to(out):
            raise DepthflowError(f"The source {config.source} lies in the demo's own folder {out}. Pass another --out.")
    empty_folder(out)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{out}/mlflow.db"
    with ray_session(config.num_cpus):
        results = run_chain(config, out)
    results["seconds"] = round(time.monotonic() - started, 1)
    print(summary(results, out), flush=True)
    if results["promote"]["decision"] != "promoted":
        raise DepthflowError(f"The chain ran, but no version was promoted: {'; '.join(results['promote']['reasons'])}.")
    return results


def empty_folder(out: Path) -> None:
    """Makes an empty folder for the demo. The output of an earlier demo is removed, anything else is an error."""
    from depthflow.storage.files import open_output

    marker = out / MARKER
    open_output(str(out))
    if out.exists() and any(out.iterdir()):
        if not marker.is_file():
            raise DepthflowError(f"{out} is not empty and not a demo's. Pass --out another folder.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text("Made by pipelines/demo.py, which replaces this folder when it runs again.\n")


def run_chain(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Runs the commands and returns each result under the command's name."""
    from depthflow.store.store import open_store

    results: dict[str, Any] = {}
    source = Path(config.source).resolve() if config.source else out / "mini-diode"
    if config.source is None:
        results["synthesize"] = run("synthesize", "--out", source, *MINI_DIODE)
    # A source with one split, such as val.tar.gz unpacked, is divided into both.
    frames = ["--source", source, *([] if _has_both_splits(source) else ["--resplit", _only_split(source)])]
    samples, full = out / "samples", out / "val-full-resolution"
    results["preprocess"] = run("preprocess", *frames, "--out", samples, "--height", 64, "--width", 64)
    store = open_store(str(samples))
    height, width = _source_size(store)
    results["preprocess_full"] = run(
        "preprocess", *frames, "--out", full, "--splits", "val", "--height", height, "--width", width
    )
    epochs = config.epochs or min(100, max(2, IMAGES_TRAINED_ON // store.split_index("train").num_rows))
    job = ["--storage", out / "runs", "--epochs", epochs, "--num-workers", config.num_workers]
    results["train"] = run("train", "demo", "--samples", samples, *job)
    challenger = "models:/depthflow@challenger"
    results["evaluate"] = run("evaluate", "--model", challenger, "--samples", full, "--out", out / "evaluation")
    results["promote"] = run("promote", "--samples", full)
    model = "models:/depthflow@champion" if results["promote"]["champion"] else challenger
    images = _some_images(source, store)
    results["predict"] = run("predict", "--model", model, "--images", *images, "--out", out / "predictions")
    return results


def run(command: str, *arguments: object) -> dict[str, Any]:
    """Runs another command of this folder in this process, on the demo's Ray, and returns its result."""
    line = [*map(str, arguments)]
    print(f"\n$ python {shlex.join([f'pipelines/{command}.py', *line])}", file=sys.stderr, flush=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return call_command(PIPELINES / f"{command}.py", line)
    except DepthflowError as error:
        raise DepthflowError(f"{command} failed: {error}", details=error.details) from error


def summary(results: dict[str, Any], out: Path) -> str:
    """Returns the table that is printed at the end."""
    from depthflow.metrics import HIGHER_IS_BETTER

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
    lines += ["", "plots:", *(f"  {path}" for path in evaluation["files"] if path.endswith(".html"))]
    lines += [f"  {path}" for path in results["predict"]["outputs"] if path.endswith("panel.png")]
    lines += [
        "",
        "MLflow UI:",
        f"  {Path(sys.executable).parent}/mlflow ui --backend-store-uri sqlite:///{out}/mlflow.db",
        "",
    ]
    return "\n".join(lines)


def _source_size(store: "SampleStore") -> tuple[int, int]:
    """Returns height and width of the source's frames, which the protocol requires to be of one size."""
    sizes = set(zip(store.index["source_height"].to_pylist(), store.index["source_width"].to_pylist(), strict=True))
    if len(sizes) > 1:
        raise DepthflowError(
            f"The demo needs frames of one size. Received: {sorted(sizes)} (height, width). Pass --source a tree of "
            "one size, or run the commands one by one: preprocess.py resizes."
        )
    return sizes.pop()


def _has_both_splits(source: Path) -> bool:
    return (source / "train").is_dir() and (source / "val").is_dir()


def _only_split(source: Path) -> str:
    return "train" if (source / "train").is_dir() or source.name == "train" else "val"


def _some_images(source: Path, store: "SampleStore") -> list[str]:
    """Returns a few of the val images, from different scans."""
    from depthflow.datasets.diode import find_triplets

    wanted = set(store.split_index("val")["sample_id"].to_pylist())
    found = [t.members["rgb"] for t in find_triplets(str(source), ("train", "val")) if t.sample_id in wanted]
    return found[:: max(1, len(found) // IMAGES_PREDICTED)][:IMAGES_PREDICTED]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
