"""Exported networks: ONNX and LiteRT files and TensorFlow's SavedModel folders, each run by its own runtime.

Beside each is NAME.json, which says what goes in, what comes out, and which model it is of.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from depthflow.errors import RegistryError
from depthflow.inference.predictor import NetworkPredictor
from depthflow.models.canonical_camera import CAMERA, ModelCamera
from depthflow.models.interface import Output, file_sha256, saved_output
from depthflow.observability.noise import quiet_native_code

Run = Callable[[np.ndarray], np.ndarray]
"""Maps uint8 (B, h, w, 3) to log-depth (B, h, w, 1)."""

FACTS_ENDING = ".json"


class Runtime(NamedTuple):
    """What runs the networks of a format.

    Attributes:
        title: Name, for people.
        ending: Ending of an exported network's name.
        keras_name: What `keras.Model.export` calls the format.
        batch: Number of images that a network takes at once; None for any number. LiteRT's XNNPACK, which is what makes
            it fast, cannot resize the tensors of a transformer.
        packages: Modules that converting to the format and running it need.
        open: Loads an exported network.
    """

    title: str
    ending: str
    keras_name: str
    batch: int | None
    packages: tuple[str, ...]
    open: Callable[[str], Run]


def _open_onnx(path: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rgb: np.asarray(session.run(None, {name: rgb})[0])


def _open_litert(path: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path, num_threads=len(os.sched_getaffinity(0))).get_signature_runner()
    [name] = run.get_input_details()
    return lambda rgb: np.concatenate([next(iter(run(**{name: one[None]}).values())) for one in rgb])


def _open_saved_model(path: str) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda rgb: loaded.serve(rgb).numpy()


RUNTIMES = {
    "onnx": Runtime("onnxruntime", ".onnx", "onnx", None, ("tf2onnx", "onnxruntime"), _open_onnx),
    "litert": Runtime("LiteRT", ".tflite", "litert", 1, ("ai_edge_litert",), _open_litert),
    "saved_model": Runtime("TensorFlow", ".saved_model", "tf_saved_model", None, (), _open_saved_model),
}
"""By value of --format."""


class ExportedNetwork:
    """An exported network with the two attributes of a `keras.Model` that `NetworkPredictor` needs.

    Args:
        run: Runs it.
        height, width: Size of its input in pixels.
    """

    def __init__(self, run: Run, *, height: int, width: int) -> None:
        self._run, self.input_shape = run, (None, height, width, 3)

    def predict_on_batch(self, rgb: np.ndarray) -> np.ndarray:
        """Predicts log-depth (B, h, w, 1) from uint8 (B, h, w, 3)."""
        return self._run(rgb)


@dataclass(frozen=True, kw_only=True)
class ExportedFacts:
    """What NAME.json says of an exported network.

    Attributes:
        format: Key of `RUNTIMES`.
        height, width: Size of its input in pixels.
        camera: What it knows about cameras.
        output: What it predicts.
        sha256: Its `export_sha256`.
        about: All of the file.
    """

    format: str
    height: int
    width: int
    camera: ModelCamera
    output: Output
    sha256: str
    about: dict[str, Any]


def is_exported(name: str) -> bool:
    """Whether a path is that of an exported network."""
    path = Path(name)
    return path.suffix in (".onnx", ".tflite") or (path / "saved_model.pb").is_file()


def read_facts(path: str) -> ExportedFacts:
    """Reads the facts beside an exported network.

    Raises:
        RegistryError: if one of the two is missing, or the facts are not those of this network.
    """
    facts = Path(path + FACTS_ENDING)
    if not Path(path).exists() or not facts.is_file():
        missing = facts if Path(path).exists() else path
        raise RegistryError(
            f"There is no {missing}. Pass a file that export.py wrote, with its {FACTS_ENDING} beside it."
        )
    try:
        about = json.loads(facts.read_text())
        height, width = (int(about["input"][side]) for side in ("height", "width"))
        found = ExportedFacts(
            format=about["format"],
            height=height,
            width=width,
            camera=ModelCamera.from_json(about[CAMERA]),
            output=saved_output(about),
            sha256=about["sha256"],
            about=about,
        )
        RUNTIMES[found.format]
    except (OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise RegistryError(f"{facts} is not what export.py wrote: {error!r}. Export the model again.") from None
    if export_sha256(Path(path)) != found.sha256:
        raise RegistryError(
            f"{path} is not the network that {facts} describes: its SHA-256 is another one. Export the model again."
        )
    return found


def load_exported(path: str) -> NetworkPredictor:
    """Loads an exported network as a predictor.

    Raises:
        RegistryError: if it is damaged, or its runtime is missing or refuses it.
    """
    facts = read_facts(path)
    network = open_network(path, facts.format, height=facts.height, width=facts.width)
    return NetworkPredictor(network, facts.camera, facts.output)


def open_network(path: str, format_name: str, *, height: int, width: int) -> ExportedNetwork:
    """Loads an exported network in its runtime.

    Raises:
        RegistryError: if the runtime is missing or refuses it.
    """
    require_packages(format_name)
    runtime = RUNTIMES[format_name]
    try:
        with quiet_native_code():
            network = ExportedNetwork(runtime.open(path), height=height, width=width)
            network.predict_on_batch(np.zeros((1, height, width, 3), np.uint8))  # LiteRT refuses only now.
            return network
    except Exception as error:  # Each runtime has errors of its own.
        raise RegistryError(
            f"{runtime.title} refuses {Path(path).name}: {first_line(error)} Export the model again, or pass another "
            "--format."
        ) from None


def require_packages(format_name: str) -> None:
    """Imports what a format needs.

    Raises:
        RegistryError: if it is not installed.
    """
    for package in RUNTIMES[format_name].packages:
        try:
            import_module(package)
        except ImportError as error:
            raise RegistryError(
                f"The format {format_name} needs packages that are not installed: {error}. Run: pip install "
                "'depthflow[export]'"
            ) from None


def export_sha256(path: Path) -> str:
    """Returns the SHA-256 of an exported file or, for a folder, of the names and SHA-256s of its files."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(inner for inner in path.rglob("*") if inner.is_file())
    lines = [f"{file_sha256(inner)}  {inner.relative_to(path).as_posix()}\n" for inner in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, as a sentence."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."
