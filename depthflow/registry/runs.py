"""MLflow runs. A job is one run: the driver starts and ends it, worker 0 writes to it."""

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT

from depthflow.errors import RegistryError
from depthflow.observability.safe_text import without_credentials
from depthflow.registry.tracking import experiment_id, is_away, mlflow_at, one_attempt, reason, tracking_uri
from depthflow.reports.data_report import REPORT, read_report
from depthflow.store.store import SampleStore

HEADLINE = ("abs_rel", "rmse", "delta1")
"""Metrics that tags and descriptions show; the others are MLflow's metrics."""
METRICS_PER_CALL = 1000
"""MLflow's limit."""
REPORT_ARTIFACT = f"data/{REPORT}"
COMMIT_VARIABLE = "DEPTHFLOW_GIT_COMMIT"
"""Environment variable that submit.py sets for its jobs."""
END_PAUSES_S = (0.0, 1.0, 3.0)
"""Pause before each attempt to end a run."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """A run that any process can write to.

    Attributes:
        tracking_uri: Absolute URI.
        run_id: MLflow's run ID.
    """

    tracking_uri: str
    run_id: str

    def metrics(
        self,
        values: Mapping[str, float],
        *,
        step: int = 0,
        timed_as: str | None = None,
        model_id: str | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        """Logs one value per metric at a step.

        Args:
            values: Metric to value.
            step: Step.
            timed_as: Metric whose time at this step the values get, instead of now. Then logging them again changes
                nothing, since MLflow keeps one of two equal values.
            model_id: Logged model that gets the metrics as well.
            dataset: Dataset that the metrics of this model were measured on.
        """
        times_ms = []
        if timed_as is not None:
            history = self.client().get_metric_history(self.run_id, timed_as)
            times_ms = [metric.timestamp for metric in history if metric.step == step]
        time_ms = min(times_ms, default=int(time.time() * 1000))
        of_model = {"model_id": model_id}
        if dataset is not None:
            of_model |= {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
        self._log([Metric(name, value, time_ms, step, **of_model) for name, value in values.items()])

    def series(self, name: str, values: Sequence[float], *, first_step: int) -> None:
        """Logs consecutive values of one metric."""
        now = int(time.time() * 1000)
        self._log([Metric(name, value, now, first_step + k) for k, value in enumerate(values)])

    def _log(self, metrics: list[Metric]) -> None:
        with mlflow_at(self.tracking_uri) as client:
            for start in range(0, len(metrics), METRICS_PER_CALL):
                client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs the run's configuration."""
        params = [Param(name, without_credentials(str(value))) for name, value in values.items()]
        with mlflow_at(self.tracking_uri) as client:
            client.log_batch(self.run_id, params=params)

    def tag(self, values: Mapping[str, Any]) -> None:
        """Sets tags."""
        with mlflow_at(self.tracking_uri) as client:
            for name, value in values.items():
                client.set_tag(self.run_id, name, without_credentials(str(value)))

    def artifact(self, path: Path, folder: str) -> None:
        """Uploads a file into a folder of the run's artifacts."""
        with mlflow_at(self.tracking_uri) as client:
            client.log_artifact(self.run_id, str(path), folder)

    def document(self, content: Mapping[str, Any], path: str) -> None:
        """Uploads a JSON document."""
        text = json.dumps(dict(content), indent=2, default=str)
        with mlflow_at(self.tracking_uri) as client:
            client.log_text(self.run_id, without_credentials(text), path)

    def samples(self, store: SampleStore, *, context: str) -> Dataset:
        """Makes the sample store the run's dataset, and uploads the store's data report if it has one.

        Args:
            store: The store.
            context: What the run uses it for, such as training.
        """
        dataset = dataset_of(store)
        used_as = InputTag(MLFLOW_DATASET_CONTEXT, context)
        with mlflow_at(self.tracking_uri) as client:
            client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [used_as])])
        self.tag({"samples.location": store.files.root})
        report = read_report(store)
        if report is not None:
            with mlflow_at(self.tracking_uri) as client:
                client.log_text(self.run_id, report, REPORT_ARTIFACT)
            self.tag({"reports.data_report": f"{store.files.root}/{REPORT}"})
        return dataset

    def model(self, model_id: str) -> None:
        """Says that the run uses a logged model."""
        with mlflow_at(self.tracking_uri) as client:
            client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)])

    def client(self) -> MlflowClient:
        """Returns a client of the run's MLflow."""
        return MlflowClient(self.tracking_uri, self.tracking_uri)


def dataset_of(store: SampleStore) -> Dataset:
    """Returns the store as MLflow's dataset: its folder's name, its fingerprint as digest, and its location."""
    location = without_credentials(store.files.root)
    scheme, is_uri, _ = location.partition("://")
    return Dataset(
        name=location.rstrip("/").rpartition("/")[2],
        digest=store.fingerprint,
        source_type=scheme if is_uri else "local",
        source=json.dumps({"uri": location}),
    )


@contextmanager
def mlflow_run(*, experiment: str, name: str, tags: Mapping[str, str], run_id: str | None = None) -> Iterator[RunLog]:
    """Starts or continues a run, and ends it with the block: FINISHED, or FAILED or KILLED if the block raises.

    If MLflow is away at the end, this only warns, and the run stays RUNNING.

    Args:
        experiment: Experiment of a new run, created if necessary.
        name: Name of a new run.
        tags: Tags to set, besides the user, the command as source and its git commit.
        run_id: Run to continue. None starts a new one.

    Raises:
        RegistryError: at the start, if MLflow cannot be reached, or if the run does not exist or was deleted.
    """
    uri = tracking_uri()
    tags = {**resolve_tags(), **tags, MLFLOW_GIT_COMMIT: git_commit()}
    tags = {key: without_credentials(value) for key, value in tags.items()}
    try:
        with mlflow_at(uri) as client:
            if run_id is None:
                run_id = client.create_run(experiment_id(client, uri, experiment), run_name=name, tags=tags).info.run_id
            else:
                _reopen(client, run_id, tags)
    except MlflowException as error:
        raise RegistryError(
            f"MLflow at {uri} cannot start the run {run_id or name}: {error}. Check the server and MLFLOW_TRACKING_URI."
        ) from error
    run_log = RunLog(tracking_uri=uri, run_id=run_id)
    try:
        yield run_log
    except Exception:
        _end(run_log, "FAILED")
        raise
    except BaseException:
        _end(run_log, "KILLED")
        raise
    _end(run_log, "FINISHED")


def _reopen(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.update_run(run_id, status="RUNNING")
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


def _end(run_log: RunLog, status: str) -> None:
    """Sets the status within seconds, or warns: it must not fail the job or hide the error that ended it."""
    why = ""
    for pause_s in END_PAUSES_S:
        time.sleep(pause_s)
        try:
            with one_attempt():
                run_log.client().set_terminated(run_log.run_id, status)
            return
        except Exception as error:
            why = reason(error)
            if not is_away(error):
                break
    _log.warning(
        "The run %s is %s, but MLflow at %s could not be told and still shows it as running: %s. "
        "Continue the run, or set its status once MLflow is back.",
        run_log.run_id,
        status,
        run_log.tracking_uri,
        why,
    )


def git_commit() -> str:
    """Returns the commit of the code. A job's code is no checkout: it is told the commit it was submitted from."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT_VARIABLE, "unknown")
