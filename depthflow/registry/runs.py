"""One job is one MLflow run: the driver begins and ends it, worker 0 writes to it."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from depthflow.registry.tracking import experiment_id, tracking_uri, use_tracking_uri
from depthflow.samples.report import REPORT, read_report
from depthflow.samples.store import SampleStore

METRICS_PER_CALL = 1000
"""MLflow's limit for one batch."""
REPORT_ARTIFACT = f"data/{REPORT}"


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """A run to write to, from any process.

    Attributes:
        tracking_uri: absolute.
        run_id: MLflow's.
    """

    tracking_uri: str
    run_id: str

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Logs one value a metric at a step."""
        now = int(time.time() * 1000)
        self._log([Metric(name, value, now, step) for name, value in values.items()])

    def series(self, name: str, values: Sequence[float], *, first_step: int) -> None:
        """Logs consecutive values of one metric."""
        now = int(time.time() * 1000)
        self._log([Metric(name, value, now, first_step + k) for k, value in enumerate(values)])

    def _log(self, metrics: list[Metric]) -> None:
        client = self._client()
        for start in range(0, len(metrics), METRICS_PER_CALL):
            client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs the run's configuration."""
        self._client().log_batch(self.run_id, params=[Param(name, str(value)) for name, value in values.items()])

    def tag(self, values: Mapping[str, Any]) -> None:
        """Sets tags."""
        client = self._client()
        for name, value in values.items():
            client.set_tag(self.run_id, name, value)

    def artifact(self, path: Path, folder: str) -> None:
        """Uploads a file into a folder of the run's artifacts."""
        self._client().log_artifact(self.run_id, str(path), folder)

    def document(self, content: Mapping[str, Any], path: str) -> None:
        """Uploads a JSON document."""
        self._client().log_dict(self.run_id, dict(content), path)

    def samples(self, store: SampleStore) -> None:
        """Says which sample store the run uses, and uploads the store's data report if it has one."""
        self.tag({"samples.location": store.files.root})
        report = read_report(store)
        if report is not None:
            self._client().log_text(self.run_id, report, REPORT_ARTIFACT)
            self.tag({"samples.report": f"{store.files.root}/{REPORT}"})

    def _client(self) -> MlflowClient:
        return MlflowClient(self.tracking_uri, self.tracking_uri)


@contextmanager
def mlflow_run(*, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[RunLog]:
    """A run that is FINISHED when the block ends, and FAILED or KILLED when an error leaves it.

    Raises:
        RegistryError: if MLflow cannot be reached.
    """
    uri = tracking_uri()
    client = use_tracking_uri(uri)
    run = client.create_run(
        experiment_id(client, uri, experiment),
        run_name=name,
        tags={**tags, "mlflow.source.git.commit": git_commit()},
    )
    try:
        yield RunLog(tracking_uri=uri, run_id=run.info.run_id)
    except Exception:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    except BaseException:
        client.set_terminated(run.info.run_id, "KILLED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def git_commit() -> str:
    """The commit of the code that runs, or unknown where it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
