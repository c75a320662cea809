"""Which MLflow server, said once and absolutely."""

import os
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from depthflow.errors import RegistryError

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE_PREFIX = "sqlite:///"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the working directory; a relative SQLite file is made absolute.

    Workers run in other directories, so they are handed this URI and never look at the environment.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if uri.startswith(SQLITE_PREFIX):
        return SQLITE_PREFIX + str(Path(uri.removeprefix(SQLITE_PREFIX)).absolute())
    return uri


def use_tracking_uri(uri: str) -> MlflowClient:
    """Points this process's MLflow at a server.

    Raises:
        RegistryError: if the server cannot be reached.
    """
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise RegistryError(f"MLflow at {uri} does not answer: {error}. Check MLFLOW_TRACKING_URI.") from error
    return client


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id; it is created if need be, with artifacts beside the database where that is a file."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if uri.startswith(SQLITE_PREFIX):
        location = (Path(uri.removeprefix(SQLITE_PREFIX)).parent / "mlartifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id
