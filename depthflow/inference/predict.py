"""Photographs to depth files, with Ray Data and a pool of processes that load the model once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray

from depthflow.diode.triplet import RejectError
from depthflow.errors import unwrapped
from depthflow.inference.photographs import read_photograph
from depthflow.inference.predictor import Predictor
from depthflow.inference.writers import write_npy, write_png16
from depthflow.pictures.panels import DepthMap, draw_panel
from depthflow.progress import ProgressLine


class PhotographPredictor:
    """One process of the pool: reads a photograph, predicts, writes the files.

    Args:
        load: makes the predictor, once.
        out: the folder to write to.
    """

    def __init__(self, load: Callable[[], Predictor], out: str) -> None:
        self._predictor = load()
        self._out = Path(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """From {path, name} to {path, outputs, reason, message}."""
        try:
            rgb = read_photograph(row["path"])
            depth_m = self._predictor(rgb[None])[0]
            if not np.isfinite(depth_m).all() or (depth_m <= 0).any():
                raise RejectError("insane_depth", "the model predicts depths that are not finite and positive")
        except RejectError as error:
            return {"path": row["path"], "outputs": [], "reason": error.reason, "message": error.message}
        outputs = self._write(row["name"], rgb, depth_m)
        return {"path": row["path"], "outputs": outputs, "reason": "", "message": ""}

    def _write(self, name: str, rgb: np.ndarray, depth_m: np.ndarray) -> list[str]:
        """Writes a photograph's files beside their place, then renames them: none is ever seen half-written."""
        self._out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".tmp-", dir=self._out) as scratch:
            folder = Path(scratch)
            write_npy(folder / f"{name}.depth.npy", depth_m)
            write_png16(folder / f"{name}.depth.png", depth_m)
            draw_panel(folder / f"{name}.panel.png", rgb=rgb, maps=[DepthMap(title="predicted depth", depth_m=depth_m)])
            for path in folder.iterdir():
                path.rename(self._out / path.name)
        return [str(self._out / f"{name}.{kind}") for kind in ("depth.npy", "depth.png", "panel.png")]


def predict_photographs(
    paths: list[str], *, load: Callable[[], Predictor], out: str, num_workers: int, use_gpu: bool
) -> list[dict[str, Any]]:
    """Predicts every photograph; a broken one is reported and the rest goes on.

    Args:
        paths: absolute.
        load: makes a predictor in a worker process.
        out: folder for NAME.depth.npy, NAME.depth.png (with NAME.depth.json) and NAME.panel.png.
        num_workers: processes that hold the model.
        use_gpu: one GPU each.

    Returns:
        A row a photograph, sorted by path: path, outputs, reason and message (empty where it went well).
    """
    rows = [{"path": path, "name": name} for path, name in zip(paths, output_names(paths), strict=True)]
    results = ray.data.from_items(rows, override_num_blocks=min(len(rows), 4 * num_workers)).map(
        PhotographPredictor,  # pyright: ignore[reportArgumentType]  # Ray takes a class here, its types do not say so.
        fn_constructor_args=(load, str(Path(out).absolute())),
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_gpus=1 if use_gpu else None,
    )
    line = ProgressLine("photographs")
    done: list[dict[str, Any]] = []
    with unwrapped():
        for row in results.iter_rows():
            done.append(row)
            line(len(done), len(rows))
    return sorted(done, key=lambda row: row["path"])


def output_names(paths: list[str]) -> list[str]:
    """A name a photograph, unique: its stem, or, where stems clash, its file name with the folder before it."""
    stems = Counter(Path(path).stem for path in paths)
    names = []
    for path in map(Path, paths):
        clashes = stems[path.stem] > 1
        names.append(f"{path.parent.name}_{path.name}".replace(".", "_") if clashes else path.stem)
    if len(set(names)) < len(names):
        names = [f"{k:05d}_{name}" for k, name in enumerate(names)]
    return names
