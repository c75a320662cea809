"""Exports a registered network: converts it, compares it in the runtime that will run it, and commits the files."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.reject import RejectError
from depthflow.errors import DepthflowError, RegistryError, SourceError
from depthflow.inference.conversion import Variant, convert, in_float32
from depthflow.inference.exported import (
    FACTS_ENDING,
    RUNTIMES,
    export_sha256,
    first_line,
    open_network,
    require_packages,
)
from depthflow.inference.images import find_images, read_image
from depthflow.inference.named_model import NamedModel
from depthflow.inference.predictor import NetworkPredictor, find_network
from depthflow.models.canonical_camera import CAMERA
from depthflow.models.interface import LICENCE_TAG, MODEL_OUTPUT, Predictor, file_sha256
from depthflow.observability.noise import quiet_native_code
from depthflow.registry.versions import input_example
from depthflow.storage.files import StoreFiles
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import SampleStore
from depthflow.store.write.planes import resize_rgb

if TYPE_CHECKING:
    import keras

CALIBRATION_IMAGES = 64
"""Number of a store's images that the ranges of int8 activations are measured on."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A registered network to export.

    Attributes:
        model: The model.
        network: Its network, computing in float32.
        sha256: SHA-256 of its .keras file.
        example: Image file that the version was registered with; None if there is none.
    """

    model: NamedModel
    network: "keras.Model"
    sha256: str
    example: bytes | None = None

    @property
    def predictor(self) -> NetworkPredictor:
        """What the exported networks are compared with."""
        return NetworkPredictor(self.network, self.model.camera, self.model.output)


def open_source(model: NamedModel) -> Source:
    """Loads the network of a registered model.

    Raises:
        RegistryError: if it is not a model that train.py registered.
    """
    if model.resolved is None:
        raise RegistryError(f"Only a model that train.py registered can be exported. Received: {model.uri}")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Whatever the user's keras.json says.
    with quiet_native_code():
        import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # Its TF32 differs by more than the tolerance, and Ray's workers need it.
    folder = model.resolved.download()
    path = find_network(folder, sha256=model.resolved.network_sha256).path
    network: Any = NetworkPredictor.load(path).network
    return Source(
        model=model, network=in_float32(network), sha256=file_sha256(Path(path)), example=input_example(folder)
    )


def images_to_compare(source: Source, images: tuple[str, ...]) -> Iterator[np.ndarray]:
    """Yields (H, W, 3) uint8: the version's input example, then the user's images.

    Raises:
        SourceError: if an image cannot be found or read.
        RegistryError: if there is no image at all.
    """
    paths = find_images(images) if images else []
    if source.example is None and not paths:
        raise RegistryError(f"{source.model.uri} has no input example to compare on. Pass some --images.")
    if source.example is not None:
        yield decode_rgb(source.example)
    for path in paths:
        try:
            yield read_image(path)
        except RejectError as error:
            raise SourceError(f"{path} cannot be read: {error.message}. Leave it out of --images.") from None


def representative_images(source: Source, store: SampleStore, split: str) -> list[np.ndarray]:
    """Returns up to `CALIBRATION_IMAGES` images of train, or else of `split`, (h, w, 3) uint8 at the network's size."""
    height, width = source.network.input_shape[1:3]
    reader = SplitReader(store, "train" if "train" in store.splits else split, planes=("rgb",), cache_bytes=0)
    count = len(reader.sample_ids)
    rows = np.unique(np.linspace(0, count - 1, min(count, CALIBRATION_IMAGES)).astype(int)).tolist()
    return [resize_rgb(reader.read([row]).rgb[0], height=height, width=width) for row in rows]


def export_network(
    source: Source,
    variants: Sequence[Variant],
    folder: Path,
    *,
    images: Iterable[np.ndarray],
    tolerance: float,
    representative: Sequence[np.ndarray] = (),
) -> dict[str, float]:
    """Writes each variant, and its facts once it has been compared with the registered network in its own runtime.

    Args:
        folder: Where to write.
        images: (H, W, 3) uint8 images of any size to compare on.
        tolerance: Largest relative difference in metres of a float32 variant.
        representative: (h, w, 3) uint8 images at the network's size, for int8.

    Returns:
        Name of each variant to its largest relative difference in metres.

    Raises:
        RegistryError: if a network cannot be converted, its runtime is missing or refuses it, or it differs too much.
    """
    exported: dict[str, Predictor] = {}
    height, width = source.network.input_shape[1:3]
    for variant in variants:
        require_packages(variant.format)
        path = folder / variant.name
        with _reported(f"The network cannot be converted to {variant.format}"), quiet_native_code():
            convert(source.network, variant, path, representative)
        run = open_network(str(path), variant.format, height=height, width=width)
        exported[variant.name] = NetworkPredictor(run, source.model.camera, source.model.output)
    with _reported("An exported network cannot be run"):
        differences = largest_differences(source.predictor, exported, images)
    for variant in variants:
        difference = differences[variant.name]
        if not difference <= (tolerance if variant.weights == "float32" else np.inf):  # Nor is NaN.
            raise RegistryError(
                f"{variant.name} differs from {source.model.uri} by {difference:.3g} of the depth in metres, and "
                f"--tolerance is {tolerance:g}. Nothing was written. Pass another --format."
            )
        facts = json.dumps(facts_of(source, variant, folder / variant.name, difference), indent=2)
        (folder / f"{variant.name}{FACTS_ENDING}").write_text(f"{facts}\n")
    return differences


def largest_differences(
    registered: Predictor, exported: Mapping[str, Predictor], images: Iterable[np.ndarray]
) -> dict[str, float]:
    """Returns the largest |metres / registered metres - 1| of each exported network; NaN if any is NaN.

    Args:
        images: (H, W, 3) uint8. Each is predicted together with its mirror image, since exported networks take batches.
    """
    found = dict.fromkeys(exported, 0.0)
    for rgb in images:
        pair = np.stack([rgb, rgb[:, ::-1]])
        depth_m = registered(pair)
        for name, predictor in exported.items():
            found[name] = float(np.maximum(found[name], np.abs(predictor(pair) / depth_m - 1).max()))
    return found


def facts_of(source: Source, variant: Variant, path: Path, difference: float) -> dict[str, Any]:
    """Returns what a program needs to know to use an exported network, for the JSON file beside it."""
    height, width = source.network.input_shape[1:3]
    model, camera = source.model, source.model.camera
    unit = "metres" if model.output == "metres" else f"{model.output}, which is metres up to an unknown factor"
    unit += "" if camera.camera == "none" else " as the canonical camera would see them"
    return {
        "format": variant.format,
        "weights": variant.weights,
        "model": model.uri,
        "licence": model.resolved.tags.get(LICENCE_TAG) if model.resolved else None,
        "network_sha256": source.sha256,
        "sha256": export_sha256(path),
        "input": {
            "batch": RUNTIMES[variant.format].batch or "any",
            "height": height,
            "width": width,
            "layout": "NHWC, RGB",
            "dtype": "uint8",
            "scaling": "none: pass 0 to 255, which the network scales itself",
        },
        "output": {"layout": "NHWC, one channel", "dtype": "float32", "unit": f"natural logarithm of {unit}"},
        MODEL_OUTPUT: model.output,
        CAMERA: camera.to_json(),
        "largest_difference": difference,
    }


def commit_exports(folder: Path, names: Iterable[str], out: StoreFiles) -> list[str]:
    """Commits exported networks, and returns their paths. Facts come last: without them, no network is loaded."""
    for name in names:
        out.unlink(f"{name}{FACTS_ENDING}")
        out.remove(name)
        files = [folder / name, *sorted((folder / name).rglob("*")), folder / f"{name}{FACTS_ENDING}"]
        for file in (file for file in files if file.is_file()):
            out.write(file.relative_to(folder).as_posix(), file.read_bytes())
    return [f"{out.root}/{name}" for name in names]


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turns whatever a converter or runtime raises into one line for the user."""
    try:
        yield
    except (DepthflowError, OSError):
        raise
    except Exception as error:
        raise RegistryError(f"{what}: {first_line(error)} Pass another --format.") from None
