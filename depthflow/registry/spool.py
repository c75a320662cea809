"""Sends metrics to MLflow across outages: first to disk, then to the server, each value once."""

import itertools
import json
import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path

from mlflow.entities import Metric

from depthflow.errors import RegistryError, StoreError
from depthflow.registry.records import RECORD, Records
from depthflow.registry.runs import METRICS_PER_CALL, RunLog
from depthflow.registry.tracking import is_away, one_attempt, reason

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_log = logging.getLogger(__name__)


class MetricSpool:
    """Writes each call to a folder as a record and returns; a thread sends the records to MLflow.

    A record is a file or object, durable when the call returns: {"time_ms", "first_step", "values": {metric: [value,
    ...]}} in Python's JSON, which keeps NaN and infinities. Its name starts with a number higher than any in the
    folder, so records are sent in order, even after a restart on another node. Sent records are removed.

    MLflow gets one value per metric and step: the first. Before a metric's first value and after every failure, the
    thread asks MLflow which steps it has, because an answer may have been lost, or a worker that resumed may repeat
    steps. MLflow may still accept a request that timed out after that question. This does no harm: a record keeps its
    time, and MLflow's databases keep one of two equal values. Only one process at a time may write a run's metrics.

    If MLflow is away, the thread tries again after 1 s, then with growing pauses up to 30 s. A record that MLflow
    rejects (deleted run, invalid name) stays, is warned of once, does not block others and is tried every 30 s.

    While a spool is open, its process's requests to MLflow are limited to one attempt.

    Args:
        folder: Folder, created if necessary, or s3:// or gs:// URI.
        run_log: The run.

    Raises:
        RegistryError: if the folder cannot be created or read.
    """

    def __init__(self, folder: str | Path, run_log: RunLog) -> None:
        self.folder, self.run_log = folder, run_log
        self._records = Records(folder)
        self._records.make()
        self._numbers = itertools.count(1 + max(map(_number, self._records.names()), default=0))
        self._sender = _Sender(self._records, run_log)
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._closing = False
        self._limits = ExitStack()
        self._limits.enter_context(one_attempt())
        self._thread = threading.Thread(target=self._work, name="metric-spool", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs one value per metric at a step.

        Raises:
            RegistryError: if the folder's disk is full or gone.
        """
        self._write({name: [float(value)] for name, value in values.items()}, step)

    def series(self, name: str, values: Sequence[float], *, first_step: int) -> None:
        """Logs consecutive values of one metric.

        Raises:
            RegistryError: if the folder's disk is full or gone.
        """
        self._write({name: [float(value) for value in values]}, first_step)

    def close(self, timeout_s: float) -> int:
        """Waits at most this long until MLflow has all records that it does not reject.

        Returns:
            Number of records left in the folder, for `replay`.
        """
        self._closing = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._sender.stopped = True
        self._hurry.set()
        self._wake.set()
        self._limits.close()
        return len(self._records.names())

    def _write(self, values: Mapping[str, list[float]], first_step: int) -> None:
        record = {"time_ms": int(time.time() * 1000), "first_step": int(first_step), "values": values}
        name = f"{next(self._numbers):010d}-{secrets.token_hex(4)}{RECORD}"
        try:
            self._records.write(name, json.dumps(record))
        except (OSError, StoreError) as error:
            raise RegistryError(
                f"The metrics of step {first_step} cannot be kept in {self.folder}: {error}. Make room there."
            ) from error
        self._wake.set()

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._sender.stopped:
            closing = self._closing  # Read first: what was written before close() is in the listing that follows.
            self._wake.clear()
            outcome = self._sender.send()
            if outcome is _Outcome.AWAY:
                hurried = self._hurry.wait(pause_s)
                self._hurry.clear()
                pause_s = FIRST_PAUSE_S if hurried else min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if closing:
                return
            pause_s = FIRST_PAUSE_S
            self._wake.wait(LONGEST_PAUSE_S if outcome is _Outcome.REJECTED else None)


def replay(folder: str | Path, run_log: RunLog, *, timeout_s: float) -> int:
    """Sends to MLflow the records that earlier processes left in a folder or under a URI.

    Returns:
        Number of records left: 0 if MLflow has them all, or if there is no such folder.

    Raises:
        RegistryError: if the folder cannot be read.
    """
    if not Records(folder).exists():
        return 0
    return MetricSpool(folder, run_log).close(timeout_s)


class _Outcome(Enum):
    DONE = "MLflow has all records"
    REJECTED = "MLflow has all records except those it rejects"
    AWAY = "MLflow does not answer"


class _Sender:
    """Sends records to MLflow, in order.

    Attributes:
        stopped: Set from outside to end a pass early.
    """

    def __init__(self, records: Records, run_log: RunLog) -> None:
        self.stopped = False
        self._records, self._run_log = records, run_log
        self._known_steps: dict[str, set[int]] = {}
        self._is_away = False
        self._rejections: set[str] = set()

    def send(self) -> _Outcome:
        """Makes one pass over the folder, which ends at the first record for which MLflow is away."""
        outcome = _Outcome.DONE
        try:
            for name in self._records.names():
                if self.stopped:
                    break
                if not self._send_unless_rejected(name):
                    outcome = _Outcome.REJECTED
        except Exception as error:
            self._warn_of_outage(error)
            return _Outcome.AWAY
        if self._is_away:
            self._is_away = False
            _log.warning("MLflow at %s answers again.", self._run_log.tracking_uri)
        return outcome

    def _send_unless_rejected(self, name: str) -> bool:
        """Sends a record, and returns False if MLflow rejects it. Raises any other error."""
        try:
            self._send(name)
        except Exception as error:
            self._known_steps.clear()  # MLflow may have some of its values.
            if is_away(error) and not isinstance(error, RegistryError):
                raise
            self._warn_of_rejection(name, error)
            return False
        return True

    def _send(self, name: str) -> None:
        left = [metric for metric in self._read(name) if metric.step not in self._steps(metric.key)]
        for start in range(0, len(left), METRICS_PER_CALL):
            if self.stopped:
                return
            batch = left[start : start + METRICS_PER_CALL]
            self._run_log.client().log_batch(self._run_log.run_id, metrics=batch)
            for metric in batch:
                self._steps(metric.key).add(metric.step)
        self._records.remove(name)

    def _read(self, name: str) -> list[Metric]:
        """Returns the record's values; none if another process sent and removed it."""
        try:
            record = json.loads(self._records.read(name))
            return [
                Metric(metric, value, record["time_ms"], record["first_step"] + k)
                for metric, values in record["values"].items()
                for k, value in enumerate(values)
            ]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"The record is damaged ({error})") from error

    def _steps(self, name: str) -> set[int]:
        if name not in self._known_steps:
            history = self._run_log.client().get_metric_history(self._run_log.run_id, name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]

    def _warn_of_outage(self, error: Exception) -> None:
        if self._is_away:
            return
        self._is_away = True
        _log.warning(
            "MLflow at %s does not answer: %s. The job continues; metrics wait in %s.",
            self._run_log.tracking_uri,
            reason(error),
            self._records.location,
        )

    def _warn_of_rejection(self, name: str, error: Exception) -> None:
        if str(error) in self._rejections:
            return
        self._rejections.add(str(error))
        _log.warning(
            "MLflow at %s rejects %s/%s for the run %s: %s. The record stays there and is tried again.",
            self._run_log.tracking_uri,
            self._records.location,
            name,
            self._run_log.run_id,
            error,
        )


def _number(name: str) -> int:
    try:
        return int(name.partition("-")[0])
    except ValueError:
        raise RegistryError(f"{name} is not a record of metrics. Move it elsewhere.") from None
