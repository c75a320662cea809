"""Finds the MLflow server, and limits how long it may hold up a job."""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException

from depthflow.errors import RegistryError, full_disk_reported
from depthflow.observability.progress import waiting

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE_PREFIX = "sqlite:///"
RETRY_S = 2
REASON_CHARACTERS = 600
ATTEMPT_S = 10
"""Seconds within which a server must accept a connection, and again within which it must answer."""
AWAY_CODES = frozenset(
    {
        "ABORTED",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "ENDPOINT_NOT_FOUND",  # The answer of a gateway whose server is starting.
        "INTERNAL_ERROR",  # Also for a failed connection.
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_CONFLICT",
        "RESOURCE_EXHAUSTED",
        "TEMPORARILY_UNAVAILABLE",  # Also for a locked database.
    }
)


@contextmanager
def one_attempt() -> Iterator[None]:
    """Limits requests to an MLflow server to one attempt of a few seconds until the block ends. Blocks may nest.

    MLflow reads its limits, 7 retries and 120 s, from the environment at every request, and from nowhere else. So this
    is for processes and moments in which nothing else calls MLflow: a training worker, a replay, the end of a run.

    It does not limit databases. SQLite waits up to 20 s for a lock, and a process that cannot open a database keeps
    trying for about 100 s.
    """
    with _environment(
        {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ATTEMPT_S),
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # Printing it takes another request.
        }
    ):
        yield


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def mlflow_at(uri: str) -> Iterator[MlflowClient]:
    """Makes this the MLflow of this process, and yields a client once it answers. For one step of a command.

    A line says every 10 s how long the step has taken. As MLflow has just answered, its requests are retried only once,
    unless MLFLOW_HTTP_REQUEST_MAX_RETRIES is set. They keep MLflow's time limit of 120 s, since uploads may take long,
    and a request that has been given up may still start a second run or version.

    Raises:
        RegistryError: if MLflow cannot be reached, or stops answering before the block ends.
    """
    with waiting(f"Waiting for MLflow at {uri}"):
        client = use_tracking_uri(uri)
        retries = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") or "1"
        try:
            with _environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries}), full_disk_reported():
                yield client
        except MlflowException as error:
            if not is_away(error):
                raise
            raise RegistryError(
                f"MLflow at {uri} no longer answers: {reason(error)}. Run the same command again once it does."
            ) from error


def ask(uri: str) -> None:
    """Makes one small request to MLflow, and raises its error if there is no answer."""
    with one_attempt():
        MlflowClient(uri, uri).search_experiments(max_results=1)


def _wait_for(uri: str) -> None:
    """Asks until MLflow answers, as often as MLflow itself would, but giving up each request sooner."""
    retries = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() if uri.startswith("http") else 0
    for _ in range(retries):
        try:
            return ask(uri)
        except Exception as error:
            if not is_away(error):
                raise
        time.sleep(RETRY_S)
    ask(uri)


def is_away(error: Exception) -> bool:
    """Returns whether the same call may succeed later, without a change to the run or the record."""
    return not isinstance(error, MlflowException) or error.error_code in AWAY_CODES


def tracking_uri() -> str:
    """Returns MLFLOW_TRACKING_URI, by default SQLite in the working directory, with an absolute path.

    Workers run in other directories, so they are given this URI and do not read the environment.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = uri.removeprefix(SQLITE_PREFIX)
    return uri if path.startswith("/") or path == uri else f"{sqlite_uri(Path.cwd())}/{path}"


def sqlite_uri(path: Path) -> str:
    """Returns the URI of a database file at an absolute path, or the start of one for a folder."""
    return SQLITE_PREFIX + re.sub("[%?#]", lambda found: quote(found[0]), str(path))


def use_tracking_uri(uri: str) -> MlflowClient:
    """Makes this the MLflow of this process, and returns a client.

    Raises:
        RegistryError: if the server cannot be reached or the database cannot be opened.
    """
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # Tracebacks of what it raises as well.
    try:
        client = MlflowClient(uri, uri)
        _wait_for(uri)
    except (MlflowException, OSError) as error:
        raise RegistryError(f"MLflow at {uri} does not answer: {reason(error)}. Check MLFLOW_TRACKING_URI.") from error
    return client


def reason(error: Exception) -> str:
    """Returns an error's text as one line, without SQL or the rest of a web page."""
    return " ".join(str(error).partition("[SQL")[0].split())[:REASON_CHARACTERS].rstrip(". ")


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Returns the experiment's ID. A new experiment of a SQLite database keeps its artifacts beside the file."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if uri.startswith(SQLITE_PREFIX):
        database = Path(unquote(uri.removeprefix(SQLITE_PREFIX).partition("?")[0]))
        location = (database.parent / "mlartifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id
