"""Finds the MLflow server, and limits how long it may hold up a job."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException

from depthflow.errors import RegistryError
from depthflow.observability.logs import tell

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE_PREFIX = "sqlite:///"
RETRY_S = 2
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
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ATTEMPT_S),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # Printing it takes another request.
    }
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def ask(uri: str) -> None:
    """Makes one small request to MLflow, and raises its error if there is no answer."""
    with one_attempt():
        MlflowClient(uri, uri).search_experiments(max_results=1)


def _wait_for(uri: str) -> None:
    """Asks until MLflow answers, as often as MLflow itself would, but with a word about it."""
    retries = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() if uri.startswith("http") else 0
    for attempt in range(1, retries + 1):
        try:
            return ask(uri)
        except Exception as error:
            if not is_away(error):
                raise
        tell(f"MLflow at {uri} does not answer: attempt {attempt} of {retries + 1}")
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
    try:
        client = MlflowClient(uri, uri)
        _wait_for(uri)
    except (MlflowException, OSError) as error:
        reason = str(error).strip().rstrip(".")
        raise RegistryError(f"MLflow at {uri} does not answer: {reason}. Check MLFLOW_TRACKING_URI.") from error
    return client


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
