"""The chain of commands, and the checks of its source and folder before it starts."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import contextlib
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from depthflow.command import call_command
from depthflow.datasets.archive import is_archive
from depthflow.datasets.frame_table import path_of
from depthflow.datasets.frames import SPLITS
from depthflow.datasets.image_file import decode_rgb
from depthflow.demo.config import DemoConfig
from depthflow.errors import DepthflowError
from depthflow.observability.safe_text import escape_controls
from depthflow.storage.files import open_output
from depthflow.storage.location import is_uri
from depthflow.store.store import SampleStore, open_store
from depthflow.store.write.sources import Source, read_member, read_tree

MINI_DIODE = ["--scans", "48", "--samples-per-scan", "8", "--height", "192", "--width", "256"]
IMAGES_TRAINED_ON = 17_280
"""Epochs are chosen so that training sees about this many images."""
IMAGES_PREDICTED = 3
MARKER = ".depthflow-demo"


def list_source(source: str, out: Path) -> Source:
    """Lists the source: a folder of frames on a disk, or a table of them, outside the demo's own folder.

    Raises:
        DepthflowError: if it is not.
    """
    if is_archive(source) or is_uri(source):
        raise DepthflowError(
            f"The demo predicts images of its source, so it needs a folder on a disk. Received: {source}. "
            "preprocess.py reads archives and object stores as they are."
        )
    listed = read_tree(str(Path(source).resolve()), SPLITS)
    if Path(source).resolve().is_relative_to(out):
        raise DepthflowError(f"The source {source} lies in the demo's own folder {out}. Pass another --out.")
    return listed


def empty_folder(out: Path) -> None:
    """Makes an empty folder for the demo. The output of an earlier demo is removed, anything else is an error."""
    marker = out / MARKER
    open_output(str(out))
    if out.exists() and any(out.iterdir()):
        if not marker.is_file():
            raise DepthflowError(f"{out} is not empty and not a demo's. Pass --out another folder.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text("Made by pipelines/demo.py, which replaces this folder when it runs again.\n")


def run_chain(config: DemoConfig, source: Source | None, out: Path, pipelines: Path) -> dict[str, Any]:
    """Runs the commands of the folder `pipelines` on a running Ray, and returns each result under its command's name.

    Args:
        source: From `list_source`; None to make a mini-DIODE.

    Raises:
        DepthflowError: if a command fails.
    """
    run = partial(_run, pipelines)
    results: dict[str, Any] = {}
    samples, full = out / "samples", out / "val-full-resolution"
    if source is None:
        results["synthesize"] = run("synthesize", "--out", out / "mini-diode", *MINI_DIODE)
        source = read_tree(str(out / "mini-diode"), SPLITS)
    frames = ["--source", source.location, *_resplit(source.frames)]
    results["preprocess"] = run("preprocess", *frames, "--out", samples, "--height", 64, "--width", 64)
    store = open_store(str(samples))
    height, width = _source_size(store)
    size = ["--height", height, "--width", width]
    results["preprocess_full"] = run("preprocess", *frames, "--out", full, "--splits", "val", *size)
    epochs = config.epochs or min(100, max(2, IMAGES_TRAINED_ON // store.split_index("train").num_rows))
    job = ["--storage", out / "runs", "--epochs", epochs, "--num-workers", config.num_workers]
    results["train"] = run("train", "demo", "--samples", samples, *job)
    challenger, champion = "models:/depthflow@challenger", "models:/depthflow@champion"
    results["evaluate"] = run("evaluate", "--model", challenger, "--samples", full, "--out", out / "evaluation")
    results["promote"] = run("promote", "--samples", full)
    model = champion if results["promote"]["champion"] else challenger
    images = _some_images(source.frames, store, out / "photographs")
    results["predict"] = run("predict", "--model", model, "--images", *images, "--out", out / "predictions")
    return results


def _run(pipelines: Path, command: str, *arguments: object) -> dict[str, Any]:
    """Runs a command in this process, on the demo's Ray, and returns its result."""
    line = [*map(str, arguments)]
    print(f"\n$ python {escape_controls(shlex.join([f'pipelines/{command}.py', *line]))}", file=sys.stderr, flush=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return call_command(pipelines / f"{command}.py", line)
    except DepthflowError as error:
        raise DepthflowError(f"{command} failed: {error}", details=error.details) from error


def _resplit(frames: pa.Table) -> list[str]:
    """Returns the flags that divide frames of one split alone, such as those of val.tar.gz unpacked, into both."""
    readable = frames.filter(pc.equal(frames["reason"], ""))
    splits = pc.unique(readable["split"]).to_pylist()
    if len(splits) != 1:
        return []
    scans = readable.select(("scene_type", "scene", "scan")).group_by(["scene_type", "scene", "scan"]).aggregate([])
    divisible = len(scans) > len(pc.unique(scans["scene_type"]))
    return ["--resplit", splits[0] if divisible else "time"]


def _source_size(store: SampleStore) -> tuple[int, int]:
    """Returns height and width of the source's frames, which the protocol requires to be of one size."""
    sizes = set(zip(store.index["source_height"].to_pylist(), store.index["source_width"].to_pylist(), strict=True))
    if len(sizes) > 1:
        raise DepthflowError(
            f"The demo needs frames of one size. Received: {sorted(sizes)} (height, width). Pass --source a tree of "
            "one size, or run the commands one by one: preprocess.py resizes."
        )
    return sizes.pop()


def _some_images(frames: pa.Table, store: SampleStore, folder: Path) -> list[str]:
    """Returns a few of the val images; those that are no files of their own are written into a folder."""
    wanted = store.split_index("val")["sample_id"].combine_chunks()
    places = [path_of(place) for place in frames.filter(pc.is_in(frames["sample_id"], wanted))["image"].to_pylist()]
    some = places[:: max(1, len(places) // IMAGES_PREDICTED)][:IMAGES_PREDICTED]
    return [place if Path(place).is_file() else _written(place, folder / f"{n}.png") for n, place in enumerate(some)]


def _written(place: str, path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), decode_rgb(read_member(place))[..., ::-1])
    return str(path)
