"""Which MLflow server, said once and absolutely; and the calls to it that must not hold up a job."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request_safe

from depthflow.errors import RegistryError

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE_PREFIX = "sqlite:///"
ATTEMPT_S = 10
"""How long a server may take to accept a connection, and again to answer."""
HISTORY_PAGE = 25_000
"""Values that MLflow's own client asks for at a time."""
AWAY_CODES = frozenset(
    {
        "ABORTED",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "ENDPOINT_NOT_FOUND",  # What stands before a server that is starting answers so.
        "INTERNAL_ERROR",  # MLflow's code for a connection that failed, too.
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_CONFLICT",
        "RESOURCE_EXHAUSTED",
        "TEMPORARILY_UNAVAILABLE",  # A locked database, too.
    }
)


class OneAttemptClient:
    """Calls of one attempt each: a server that is away is an error after ATTEMPT_S, not after minutes.

    MlflowClient takes its 7 retries and its timeout of 120 s from the environment (MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT) at every request, and from nowhere else. To change them there would change all other
    MLflow calls of the process, and the environment under running threads. So a server is asked by its REST API
    through MLflow's http_request, which takes both as arguments and signs in as MLflow always does.

    Databases are asked through MlflowClient. SQLite waits up to 20 s for a lock, which MLflow sets and nobody can
    change; a database that cannot be opened at all is tried for about 100 s when a process opens it first.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._is_server = uri.startswith(("http://", "https://"))

    def steps(self, run_id: str, metric: str) -> set[int]:
        """The steps at which the run has a value of the metric."""
        if not self._is_server:
            return {value.step for value in self._client().get_metric_history(run_id, metric)}
        asked = {"run_id": run_id, "metric_key": metric, "max_results": HISTORY_PAGE}
        found: set[int] = set()
        page_token = None
        while page_token != "":
            page = {"page_token": page_token} if page_token else {}
            answer = self._call("GET", "metrics/get-history", params={**asked, **page})
            found.update(int(value.get("step", 0)) for value in answer.get("metrics", []))
            page_token = answer.get("next_page_token", "")
        return found

    def log(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Logs up to 1000 values."""
        if not self._is_server:
            self._client().log_batch(run_id, metrics=metrics)
            return
        values = [
            {"key": metric.key, "value": _json_value(metric.value), "timestamp": metric.timestamp, "step": metric.step}
            for metric in metrics
        ]
        self._call("POST", "runs/log-batch", json={"run_id": run_id, "metrics": values})

    def end(self, run_id: str, status: str) -> None:
        """Sets the run's status, and now as its end."""
        if not self._is_server:
            self._client().set_terminated(run_id, status)
            return
        self._call("POST", "runs/update", json={"run_id": run_id, "status": status, "end_time": int(time.time() * 1e3)})

    def ask(self) -> None:
        """Asks for as little as there is to ask for: an MLflow that does not answer raises."""
        if self._is_server:
            self._call("POST", "experiments/search", json={"max_results": 1})
        else:
            self._client().search_experiments(max_results=1)

    def _client(self) -> MlflowClient:
        return MlflowClient(self._uri, self._uri)

    def _call(self, method: str, endpoint: str, **request: Any) -> dict[str, Any]:
        response = http_request_safe(
            get_default_host_creds(self._uri),
            f"/api/2.0/mlflow/{endpoint}",
            method,
            max_retries=0,
            timeout=ATTEMPT_S,
            raise_on_status=False,  # The answer says more than the status does.
            **request,
        )
        return response.json()


def is_away(error: Exception) -> bool:
    """Whether the same call may succeed later, and not only once somebody mends the run or the record."""
    return not isinstance(error, MlflowException) or error.error_code in AWAY_CODES


def _json_value(value: float) -> float | str:
    """JSON has no NaN and no infinity: protobuf takes their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


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
        RegistryError: if the server cannot be reached, or the database's file can be none.
    """
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        said = str(error).strip().rstrip(".")
        raise RegistryError(f"MLflow at {uri} does not answer: {said}. Check MLFLOW_TRACKING_URI.") from error
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
