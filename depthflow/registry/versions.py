"""Model versions: packages networks so that they serve anywhere, registers them, and finds them again."""

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2
import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Dataset
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from depthflow.errors import RegistryError
from depthflow.models.canonical_camera import CAMERA, ModelCamera
from depthflow.models.interface import (
    ARRAY,
    FX_PX,
    FY_PX,
    MODEL_OUTPUT,
    NETWORK_ARTIFACT,
    NETWORK_SHA256,
    OUTPUT_FORMAT,
    Output,
    file_sha256,
    saved_output,
)
from depthflow.observability.safe_text import without_credentials
from depthflow.registry.runs import RunLog
from depthflow.registry.tracking import mlflow_at, tracking_uri

if TYPE_CHECKING:
    import keras

CHALLENGER = "challenger"
CHAMPION = "champion"
BASELINE_TAG = "baseline_depth_m"
SERVING_PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python", "kornia-rs", "pillow", "mlflow")
"""Packages that the packaged model imports. MLflow would take 20 s to infer them."""

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(object), (-1,))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1))]),
    params=ParamSchema(
        [
            ParamSpec(OUTPUT_FORMAT, DataType.string, ARRAY),
            *(ParamSpec(focal, DataType.double, None) for focal in (FX_PX, FY_PX)),
        ]
    ),
)
"""Images to metres or relative depth (B, H, W) at their size. MLflow passes on anything for a tensor of objects, and
the model checks it: uint8 RGB (B, H, W, 3), or a column of image files."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    version: str

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What people read about a version.

    Attributes:
        description: Markdown.
        tags: Short texts.
        metrics: Metrics of its epoch that the run has logged, for the logged model.
        epoch: The epoch.
        dataset: What the metrics were measured on.
    """

    description: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    epoch: int
    dataset: Dataset


def register_network(
    network: "keras.Model",
    *,
    run_log: RunLog,
    model_name: str,
    serving_code: Path,
    example_rgb: np.ndarray,
    facts: VersionFacts,
    camera: ModelCamera,
    output: Output = "metres",
) -> ModelVersion:
    """Packages a network, logs it to the run, and registers it as the model's newest version, alias challenger.

    Args:
        network: Maps uint8 (B, H, W, 3) of a fixed size to log-depth (B, H, W, 1).
        run_log: Run to log to.
        model_name: Registered model.
        serving_code: File of the pyfunc.
        example_rgb: (H, W, 3) uint8.
        facts: What people read about it.
        camera: What the network knows about cameras; the packaged model keeps it.
        output: metres, or relative depth if its scale is unknown; the packaged model and the version's tags keep it.

    Raises:
        ValueError: if no log-depth network can predict this output.
    """
    stated = {MODEL_OUTPUT: saved_output({MODEL_OUTPUT: output})}
    with TemporaryDirectory() as folder, mlflow_at(run_log.tracking_uri):
        path = Path(folder) / "network.keras"
        network.save(path)
        stated |= {NETWORK_SHA256: file_sha256(path)}
        with mlflow.start_run(run_id=run_log.run_id, nested=True):
            logged = _log_model(path, serving_code, example_rgb, config={**stated, CAMERA: camera.to_json()})
        created = mlflow.register_model(logged.model_uri, model_name)
    of_model = {"model_id": logged.model_id, "dataset": facts.dataset}
    run_log.metrics(facts.metrics, step=facts.epoch, timed_as=next(iter(facts.metrics)), **of_model)
    registered = ModelVersion(name=model_name, version=str(created.version))
    tag_version(registered, {**facts.tags, **stated}, run_log.tracking_uri)
    with mlflow_at(run_log.tracking_uri) as client:
        client.update_model_version(model_name, registered.version, facts.description)
        client.set_registered_model_alias(model_name, CHALLENGER, registered.version)
    return registered


def _log_model(network: Path, serving_code: Path, example_rgb: np.ndarray, *, config: Mapping[str, Any]) -> ModelInfo:
    """Logs a network file to the active run as a models-from-code pyfunc with this package in its code paths.

    The model loads without depthflow installed, without custom objects and without pickle.
    """
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(example_rgb, cv2.COLOR_RGB2BGR))
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(serving_code),
        artifacts={NETWORK_ARTIFACT: str(network)},
        model_config=dict(config),
        code_paths=[str(Path(__file__).parents[1])],
        signature=SIGNATURE,
        # As a request over HTTP: the artifact's serving_input_example.json is one that curl can send.
        input_example=(pd.DataFrame({"image": [b64encode(jpeg.tobytes()).decode()]}), {OUTPUT_FORMAT: "png"}),
        pip_requirements=[f"{package}=={version(package)}" for package in SERVING_PACKAGES],
    )


def input_example(model_folder: str) -> bytes | None:
    """Returns the image file that `register_network` logged as a packaged model's input example; None without one."""
    try:
        example: Any = Model.load(model_folder).load_input_example(model_folder)
        return b64decode(example["image"][0], validate=True)
    except (MlflowException, OSError, LookupError, TypeError, ValueError):
        return None


def tag_version(version: ModelVersion, tags: Mapping[str, str], tracking: str) -> None:
    """Adds tags to a version."""
    with mlflow_at(tracking) as client:
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.version, key, without_credentials(value))


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model that any process can find, whatever its alias names later.

    Attributes:
        uri: models:/NAME/VERSION for a registered model, else as given.
        tracking_uri: Absolute URI of its MLflow.
        version: Registered version, or None.
        tags: Tags of the version.
        model_id: MLflow's ID of the logged model that was registered; None if unknown.
    """

    uri: str
    tracking_uri: str
    version: ModelVersion | None
    tags: Mapping[str, str]
    model_id: str | None = None

    @property
    def baseline_depth_m(self) -> float | None:
        """Mean depth of its training data in metres; None if unknown.

        Raises:
            RegistryError: if the version's tag is not a depth.
        """
        value = self.tags.get(BASELINE_TAG)
        if value is None:
            return None
        with suppress(ValueError):
            if 0 < float(value) < math.inf:
                return float(value)
        raise RegistryError(f"The tag {BASELINE_TAG} of {self.uri} must be a depth in metres. Received: {value!r}")

    @property
    def network_sha256(self) -> str | None:
        """SHA-256 of its network's file; None if unknown."""
        return self.tags.get(NETWORK_SHA256)

    def download(self) -> str:
        """Returns a local folder with the model.

        Raises:
            RegistryError: if there is no such model.
        """
        try:
            with mlflow_at(self.tracking_uri):
                return mlflow.artifacts.download_artifacts(self.uri)
        except (MlflowException, OSError, ValueError) as error:
            raise RegistryError(
                f"There is no model {self.uri} at {self.tracking_uri}: {error}. Pass models:/NAME@champion, "
                "models:/NAME/3, runs:/RUN_ID/model or a folder, and check MLFLOW_TRACKING_URI."
            ) from None


def resolve_model(uri: str) -> ResolvedModel:
    """Finds the model of a URI. An alias is resolved to the version it names now.

    Raises:
        RegistryError: if there is no such model.
    """
    tracking = tracking_uri()
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/]+)|/(?P<version>\d+))", uri)
    if match is None:
        if uri.startswith("models:/"):
            raise RegistryError(f"{uri} is not a model URI. Pass models:/NAME@ALIAS or models:/NAME/VERSION.")
        local = uri if ":/" in uri else str(Path(uri).absolute())
        if local != uri and not Path(local).is_dir():
            raise RegistryError(f"There is no folder {uri}. Pass models:/NAME@ALIAS, models:/NAME/VERSION or a folder.")
        return ResolvedModel(uri=local, tracking_uri=tracking, version=None, tags={})
    try:
        with mlflow_at(tracking) as client:
            if match["alias"]:
                found = client.get_model_version_by_alias(match["name"], match["alias"])
            else:
                found = client.get_model_version(match["name"], match["version"])
    except MlflowException as error:
        reason = error.message.rstrip(".")
        raise RegistryError(
            f"There is no model {uri} at {tracking}: {reason}. Check the name and MLFLOW_TRACKING_URI."
        ) from None
    version = ModelVersion(name=match["name"], version=str(found.version))
    logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", found.source or "")
    return ResolvedModel(
        uri=version.uri,
        tracking_uri=tracking,
        version=version,
        tags=found.tags,
        model_id=logged[1] if logged else None,
    )
