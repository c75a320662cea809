"""Photographs to depth files, with Ray Data and a pool of processes that load the model once."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray

from depthflow.datasets.triplet import RejectError
from depthflow.errors import unwrapped
from depthflow.inference.formats import FORMATS, Prediction
from depthflow.inference.outputs import SIDECAR, Outputs, output_names
from depthflow.inference.photographs import read_photograph
from depthflow.models.interface import LoadPredictor
from depthflow.observability.gauges import StageGauges
from depthflow.observability.progress import ProgressLine
from depthflow.placement import ANYWHERE
from depthflow.storage.files import open_files

BATCH_SIZE = 8
BATCHES_AT_ONCE = 3
"""In each process: one is read, one predicted, one written."""
LOOKS_AT_ONCE = 16
"""For what is done already."""
CHUNK_PIXELS = 8_000_000
"""So many pixels are predicted together, or one photograph that has more."""
LARGE_PIXELS = 16_000_000
"""Of photographs with more, a process predicts and writes one at a time; others that were read wait."""


class _Photograph(NamedTuple):
    """One that was read, with what its files depend on, as it was before."""

    path: str
    name: str
    rgb: np.ndarray
    facts: dict[str, Any]


class PhotographPredictor:
    """One process of the pool: reads photographs, predicts, writes their files; several batches at once.

    Args:
        load: makes the predictor, once.
        outputs: what to write.
    """

    def __init__(self, load: LoadPredictor, outputs: Outputs) -> None:
        self._predictor = load()
        self._outputs = outputs
        self._predicting, self._holding_a_large_one = Lock(), Lock()

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """From columns path and name to a column of rows as JSON: path, outputs, reason, message."""
        rows: list[dict[str, Any]] = []
        for photographs in self._chunks(batch, rows):
            large = photographs[0].rgb[..., 0].size > LARGE_PIXELS
            with self._holding_a_large_one if large else nullcontext():
                rows += self._predicted(photographs)
        return {"row": [json.dumps(row) for row in rows]}

    def _chunks(self, batch: Mapping[str, Sequence[str]], rejects: list[dict[str, Any]]) -> Iterator[list[_Photograph]]:
        """Photographs of one size that fit in memory together; what cannot be read is added to the rejects."""
        chunk: list[_Photograph] = []
        for path, name in zip(batch["path"], batch["name"], strict=True):
            try:
                facts = self._outputs.facts(str(path))
                photograph = _Photograph(str(path), str(name), read_photograph(str(path)), facts)
            except RejectError as error:
                rejects.append(_reject(str(path), error))
                continue
            pixels = photograph.rgb[..., 0].size
            fits = chunk and chunk[0].rgb.shape == photograph.rgb.shape and (len(chunk) + 1) * pixels <= CHUNK_PIXELS
            if chunk and not fits:
                yield chunk
                chunk = []
            chunk.append(photograph)
        if chunk:
            yield chunk

    def _predicted(self, photographs: list[_Photograph]) -> list[dict[str, Any]]:
        with self._predicting:
            depth_m = self._predictor(np.stack([photograph.rgb for photograph in photographs]))
        return [self._written(photograph, one) for photograph, one in zip(photographs, depth_m, strict=True)]

    def _written(self, photograph: _Photograph, depth_m: np.ndarray) -> dict[str, Any]:
        """Writes a photograph's files elsewhere, then commits them: none is ever seen half-written.

        What an earlier run left of it, of another model perhaps, goes: all files of a photograph are of one run.
        """
        positive = (depth_m > 0).all() if self._outputs.output == "metres" else (depth_m >= 0).all()
        if not np.isfinite(depth_m).all() or not positive:
            message = "the model predicts depths that are not finite and positive"
            return _reject(photograph.path, RejectError("insane_depth", message))
        prediction = Prediction(rgb=photograph.rgb, depth=depth_m, output=self._outputs.output, lens=self._outputs.lens)
        out, files = open_files(self._outputs.folder), self._outputs.files(photograph.name)
        facts = {**photograph.facts, "files": self._outputs.kinds}
        sidecar = f"{photograph.name}.{SIDECAR}"
        with TemporaryDirectory() as scratch:
            for kind, file in zip(self._outputs.kinds, files, strict=True):
                facts |= FORMATS[kind].write(Path(scratch, file), prediction) or {}
            out.unlink(sidecar)
            for other in self._outputs.stale_files(photograph.name):
                out.unlink(other)
            for file in files:
                with Path(scratch, file).open("rb") as written, out.commit(file, durable=False) as committed:
                    shutil.copyfileobj(written, committed)
        with out.commit(sidecar, durable=False) as committed:
            committed.write(json.dumps(facts).encode())
        return _accept(photograph.path, self._outputs.locations(photograph.name))


def _accept(path: str, outputs: list[str]) -> dict[str, Any]:
    return {"path": path, "outputs": outputs, "reason": "", "message": ""}


def _reject(path: str, error: RejectError) -> dict[str, Any]:
    return {"path": path, "outputs": [], "reason": error.reason, "message": error.message}


def predict_photographs(
    paths: list[str],
    *,
    load: LoadPredictor,
    outputs: Outputs,
    num_workers: int,
    use_gpu: bool,
    label_selector: Mapping[str, str] = ANYWHERE,
    python: str | None = None,
) -> list[dict[str, Any]]:
    """Predicts every photograph; a broken one is reported and the rest goes on, what is done already is left.

    Args:
        paths: absolute, or URIs.
        load: makes a predictor in a worker process.
        outputs: what to write.
        num_workers: processes that hold the model.
        use_gpu: one GPU each.
        label_selector: of the nodes that may have them.
        python: the interpreter of these processes; None for Ray's own.

    Returns:
        A row a photograph, sorted by path: path, outputs, reason and message (empty where it went well), and whether
        it was done_before.
    """
    named = [{"path": path, "name": name} for path, name in zip(paths, output_names(paths), strict=True)]
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:  # A bucket takes its time to answer.
        is_done = dict(zip(paths, pool.map(lambda row: outputs.is_done(**row), named), strict=True))
    done = [
        {**_accept(row["path"], outputs.locations(row["name"])), "done_before": True}
        for row in named
        if is_done[row["path"]]
    ]
    todo = [row for row in named if not is_done[row["path"]]]
    line = ProgressLine("photographs")
    gauges, rejects = StageGauges("prediction", total=len(named), done_before=len(done)), 0
    if todo:
        blocks = -(-len(todo) // BATCH_SIZE)
        processes = min(num_workers, blocks)
        results = ray.data.from_items(todo, override_num_blocks=blocks).map_batches(
            PhotographPredictor,  # pyright: ignore[reportArgumentType]  # Ray takes a class, its types do not say so.
            fn_constructor_args=(load, outputs),
            batch_size=BATCH_SIZE,
            compute=ray.data.ActorPoolStrategy(size=processes, max_concurrent_calls_per_actor=BATCHES_AT_ONCE),
            num_gpus=1 if use_gpu else None,
            label_selector=dict(label_selector),
            runtime_env={"py_executable": python} if python else {},
        )
        with unwrapped():
            for result in results.iter_rows():
                done.append({**json.loads(result["row"]), "done_before": False})
                line(len(done), len(named))
                rejects += bool(done[-1]["reason"])
                gauges(len(done), rejects)
    return sorted(done, key=lambda row: row["path"])
