"""Model versions: packages networks so that they serve anywhere, registers them, and finds them again."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from depthflow.errors import RegistryError
from depthflow.models.interface import NETWORK_ARTIFACT, NETWORK_SHA256, file_sha256
from depthflow.registry.runs import RunLog
from depthflow.registry.tracking import mlflow_at, tracking_uri

if TYPE_CHECKING:
    import keras

CHALLENGER = "challenger"
CHAMPION = "champion"
BASELINE_TAG = "baseline_depth_m"
SERVING_PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python", "mlflow")
"""Packages that the packaged model imports. MLflow would take 20 s to infer them."""

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1))]),
)
"""uint8 RGB images (B, H, W, 3) of any size to metres (B, H, W) at that size."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    version: str

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


def register_network(
    network: "keras.Model",
    *,
    run_log: RunLog,
    model_name: str,
    serving_code: Path,
    input_example: np.ndarray,
    description: Mapping[str, Any],
) -> ModelVersion:
    """Packages a network, logs it to the run, and registers it as the model's newest version, alias challenger.

    The artifact is a models-from-code pyfunc with this package in its code paths, around a .keras file of built-in
    layers. It loads without depthflow installed, without custom objects and without pickle.

    Args:
        network: Maps uint8 (B, H, W, 3) of a fixed size to log-depth (B, H, W, 1).
        run_log: Run to log to.
        model_name: Registered model.
        serving_code: File of the pyfunc.
        input_example: (1, H, W, 3) uint8.
        description: Tags of the version: metrics, fingerprint, recipe and so on.
    """
    with TemporaryDirectory() as folder, mlflow_at(run_log.tracking_uri):
        path = Path(folder) / "network.keras"
        network.save(path)
        checksum = {NETWORK_SHA256: file_sha256(path)}
        with mlflow.start_run(run_id=run_log.run_id, nested=True):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(serving_code),
                artifacts={NETWORK_ARTIFACT: str(path)},
                model_config=checksum,
                code_paths=[str(Path(__file__).parents[1])],
                signature=SIGNATURE,
                input_example=input_example,
                pip_requirements=[f"{package}=={version(package)}" for package in SERVING_PACKAGES],
            )
        created = mlflow.register_model(logged.model_uri, model_name)
    registered = ModelVersion(name=model_name, version=str(created.version))
    tag_version(registered, {**description, **checksum}, run_log.tracking_uri)
    with mlflow_at(run_log.tracking_uri) as client:
        client.set_registered_model_alias(model_name, CHALLENGER, registered.version)
    return registered


def tag_version(version: ModelVersion, tags: Mapping[str, Any], tracking: str) -> None:
    """Adds tags to a version. Values other than text become JSON."""
    with mlflow_at(tracking) as client:
        for key, value in tags.items():
            text = value if isinstance(value, str) else json.dumps(value)
            client.set_model_version_tag(version.name, version.version, key, text)


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model that any process can find, whatever its alias names later.

    Attributes:
        uri: models:/NAME/VERSION for a registered model, else as given.
        tracking_uri: Absolute URI of its MLflow.
        version: Registered version, or None.
        tags: Tags of the version.
    """

    uri: str
    tracking_uri: str
    version: ModelVersion | None
    tags: Mapping[str, str]

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
    return ResolvedModel(uri=version.uri, tracking_uri=tracking, version=version, tags=found.tags)
