"""Predicts depth files for images, with Ray Data and a pool of processes that load the model once."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray

from depthflow.datasets.camera import CAMERA_FILE, Camera
from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.listing import read_camera
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError, unwrapped
from depthflow.inference.formats import FORMATS, Prediction
from depthflow.inference.images import read_image_file
from depthflow.inference.lens import ImageCamera, camera_of_image
from depthflow.inference.outputs import SIDECAR, Outputs, output_names
from depthflow.models.interface import LoadPredictor
from depthflow.observability.gauges import StageGauges
from depthflow.observability.progress import ProgressLine
from depthflow.placement import ANYWHERE
from depthflow.storage.files import StoreFiles, open_files

BATCH_SIZE = 8
BATCHES_AT_ONCE = 3
"""Number of batches in each process: one is read, one predicted, one written."""
CHECKS_AT_ONCE = 16
"""Number of images that are checked at once for files of an earlier run."""
CHUNK_PIXELS = 8_000_000
"""Number of pixels that are predicted together, unless a single image has more."""
LARGE_PIXELS = 16_000_000
"""A process predicts and writes only one image larger than this at a time, to limit its memory."""


class _Image(NamedTuple):
    """An image that was read, with the facts as they were before it was, and its files of earlier runs."""

    path: str
    name: str
    rgb: np.ndarray
    camera: ImageCamera | None
    facts: dict[str, Any]
    made: set[str]


class ImagePredictor:
    """A process of the pool: reads images, predicts, and writes their files, several batches at once.

    Args:
        load: Loads the predictor, once.
        outputs: What to write.
    """

    def __init__(self, load: LoadPredictor, outputs: Outputs) -> None:
        self._load, self._predictor = load, None  # Loaded by the first batch: a constructor's error would be lost.
        self._outputs, self._cameras = outputs, dict[str, Camera | None]()
        self._predicting, self._holding_a_large_one = Lock(), Lock()

    def __call__(self, batch: Mapping[str, Sequence[str | bytes]]) -> dict[str, list[str]]:
        """Turns columns path and name, as strings or bytes, into JSON rows: path, outputs, reason, message."""
        rows: list[dict[str, Any]] = []
        for images in self._chunks(batch, rows):
            large = images[0].rgb[..., 0].size > LARGE_PIXELS
            with self._holding_a_large_one if large else nullcontext():
                rows += self._predict(images)
        return {"row": [json.dumps(row) for row in rows]}

    def _chunks(
        self, batch: Mapping[str, Sequence[str | bytes]], rejects: list[dict[str, Any]]
    ) -> Iterator[list[_Image]]:
        """Yields images of one size that fit in memory together, and adds unreadable ones to the rejects."""
        chunk: list[_Image] = []
        for path, name in zip(map(os.fsdecode, batch["path"]), map(os.fsdecode, batch["name"]), strict=True):
            try:
                with _long_names_rejected():
                    made = self._outputs.claim(path, name)
                facts = self._outputs.facts(path)
                rgb, camera = self._read(path)
                image = _Image(path, name, rgb, camera, facts, made)
            except RejectError as error:
                rejects.append(_reject(path, error))
                continue
            pixels = image.rgb[..., 0].size
            if chunk and (chunk[0].rgb.shape != image.rgb.shape or (len(chunk) + 1) * pixels > CHUNK_PIXELS):
                yield chunk
                chunk = []
            chunk.append(image)
        if chunk:
            yield chunk

    def _read(self, path: str) -> tuple[np.ndarray, ImageCamera | None]:
        """Returns an image and its camera."""
        content = read_image_file(path)
        rgb = decode_rgb(content)
        height, width = rgb.shape[:2]
        try:
            camera = camera_of_image(
                content,
                height=height,
                width=width,
                lens=self._outputs.lens,
                beside=self._camera_in(path.rpartition("/")[0]),
                median_focal=self._outputs.median_focal,
            )
        except (SourceError, ValueError) as error:
            raise RejectError("wrong_camera", f"the {CAMERA_FILE} in its folder does not fit: {error}") from None
        if camera is None and any(FORMATS[kind].needs_camera for kind in self._outputs.kinds):
            raise RejectError("no_camera", "its camera is unknown: pass --fx and --fy or --fov-deg")
        return rgb, camera

    def _camera_in(self, folder: str) -> Camera | None:
        """Returns the camera that a folder's camera.json states, reading it once; raises SourceError if it is none."""
        if self._outputs.lens is None and folder not in self._cameras:
            self._cameras[folder] = read_camera(folder)
        return self._cameras.get(folder)

    def _predict(self, images: list[_Image]) -> list[dict[str, Any]]:
        with self._predicting:
            self._predictor = self._predictor or self._load()
            focal = [image.camera.camera.relative_focal if image.camera else np.nan for image in images]
            depth = self._predictor(np.stack([image.rgb for image in images]), np.array(focal))
        return [self._finish(image, one) for image, one in zip(images, depth, strict=True)]

    def _finish(self, image: _Image, depth: np.ndarray) -> dict[str, Any]:
        try:
            with _long_names_rejected():
                self._write(image, depth)
        except RejectError as error:
            return _reject(image.path, error)
        return _accept(image.path, self._outputs.locations(image.name), image.camera.source if image.camera else "")

    def _write(self, image: _Image, depth: np.ndarray) -> None:
        """Writes an image's files elsewhere and then commits them, so that no file is ever seen half-written.

        The sidecar comes first, so that a killed run's files are known to be ours. Files of earlier runs, perhaps of
        another model, are removed: all files of an image are of one run.
        """
        positive = (depth >= 0).all() if self._outputs.output == "relative inverse depth" else (depth > 0).all()
        if not np.isfinite(depth).all() or not positive:
            message = "the model predicts depths that are not finite and positive"
            raise RejectError("insane_depth", message)
        if self._outputs.max_depth_m is not None:
            depth = np.where(depth <= self._outputs.max_depth_m, depth, np.float32(np.nan))
        camera = image.camera.camera if image.camera else None
        prediction = Prediction(rgb=image.rgb, depth=depth, output=self._outputs.output, camera=camera, name=image.name)
        out, files = open_files(self._outputs.folder), self._outputs.files(image.name)
        reserved = self._outputs.reserved(image.name)
        facts = {
            **image.facts,
            "camera": _camera_facts(image.camera),
            "files": self._outputs.kinds,
            "outputs": reserved,
        }
        with TemporaryDirectory() as scratch:
            scratch_files = [Path(scratch, file.removeprefix(f"{image.name}.")) for file in files]
            for kind, path in zip(self._outputs.kinds, scratch_files, strict=True):
                facts |= FORMATS[kind].write(path, prediction) or {}
            unfinished = {"photograph": image.path, "outputs": sorted({*reserved} | image.made)}
            self._write_sidecar(out, image, unfinished)
            for file in image.made - {*files}:
                out.unlink(file)
            for file, path in zip(files, scratch_files, strict=True):
                with path.open("rb") as written, out.commit(file, durable=False) as committed:
                    shutil.copyfileobj(written, committed)
        self._write_sidecar(out, image, facts)

    @staticmethod
    def _write_sidecar(out: StoreFiles, image: _Image, facts: Mapping[str, Any]) -> None:
        with out.commit(f"{image.name}.{SIDECAR}", durable=False) as committed:
            committed.write(json.dumps(facts).encode())


@contextmanager
def _long_names_rejected() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = "with an ending, its name is longer than the 255 bytes that a disk allows"
        raise RejectError("name_too_long", message) from None


def _camera_facts(found: ImageCamera | None) -> dict[str, Any] | None:
    """Returns an image's camera and where it is known from, for NAME.depth.json."""
    return {**asdict(found.camera), "source": found.source} if found else None


def _accept(path: str, outputs: list[str], camera: str = "") -> dict[str, Any]:
    return {"path": path, "outputs": outputs, "camera": camera, "reason": "", "message": ""}


def _reject(path: str, error: RejectError) -> dict[str, Any]:
    return {"path": path, "outputs": [], "camera": "", "reason": error.reason, "message": error.message}


def predict_images(
    paths: list[str],
    *,
    load: LoadPredictor,
    outputs: Outputs,
    num_workers: int,
    use_gpu: bool,
    label_selector: Mapping[str, str] = ANYWHERE,
) -> list[dict[str, Any]]:
    """Predicts every image that lacks its files. Broken images are reported and do not stop the others.

    Args:
        paths: Absolute paths or URIs.
        load: Loads the predictor in a worker process.
        outputs: What to write.
        num_workers: Number of processes that hold the model.
        use_gpu: Whether each process gets a GPU.
        label_selector: Labels of the nodes that may run them.

    Returns:
        One row per image, sorted by path: path, outputs, camera (where it is known from), reason and message (empty
        unless it was rejected), and done_before, whether an earlier run left its files.
    """
    names = output_names(paths)
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:  # Each check waits for the storage.
        named = list(zip(paths, names, pool.map(outputs.is_done, paths, names), strict=True))
    done = [{**_accept(path, outputs.locations(name)), "done_before": True} for path, name, is_done in named if is_done]
    # As bytes, since Arrow has no strings for names that are not valid UTF-8.
    todo = [{"path": os.fsencode(path), "name": os.fsencode(name)} for path, name, is_done in named if not is_done]
    line = ProgressLine("images")
    gauges, rejects = StageGauges("prediction", total=len(named), done_before=len(done)), 0
    if todo:
        blocks = -(-len(todo) // BATCH_SIZE)
        results = ray.data.from_items(todo, override_num_blocks=blocks).map_batches(
            ImagePredictor,  # pyright: ignore[reportArgumentType]  # Ray takes a class, its types do not say so.
            fn_constructor_args=(load, outputs),
            batch_size=BATCH_SIZE,
            compute=ray.data.ActorPoolStrategy(
                size=min(num_workers, blocks), max_concurrent_calls_per_actor=BATCHES_AT_ONCE
            ),
            num_gpus=1 if use_gpu else None,
            label_selector=dict(label_selector),
        )
        with unwrapped():
            for result in results.iter_rows():
                done.append({**json.loads(result["row"]), "done_before": False})
                line(len(done), len(named))
                rejects += bool(done[-1]["reason"])
                gauges(len(done), rejects)
    return sorted(done, key=lambda row: row["path"])
