"""Client of a cluster's job server, which reconnects after a lost connection."""

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depthflow.cluster.package import write_files
from depthflow.cluster.submission import RUNNING, Ended, Job
from depthflow.errors import ClusterError

SILENCE_S = 30.0
"""Time without output after which to ask the server whether the job still runs."""
RETRY_PAUSE_S = 2.0
TAIL_PAUSE_S = 0.2
"""Pause between the end of a job's log and the check whether the job has ended."""
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that log every step; each sets its level on import."""


class Log:
    """A job's log, which passes every character on exactly once, even if the log is read again from its start.

    Args:
        write: Called with each new piece of text.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._text = ""
        self._read = 0

    @property
    def text(self) -> str:
        """The whole log so far."""
        return self._text

    def restart(self) -> None:
        """Announces that the next piece is from the start of the log."""
        self._read = 0

    def feed(self, piece: str) -> None:
        """Adds the next piece."""
        self._read += len(piece)
        new = self._read - len(self._text)
        if new > 0:
            self._text += piece[-new:]
            self._write(piece[-new:])


class JobServer:
    """Submits jobs and follows them.

    Args:
        address: http://HOST:PORT, or another address that Ray resolves.

    Raises:
        ClusterError: if the server does not answer or rejects the token, or if ray[default] is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers the environment to its argument.
        with self._cluster_errors():
            from ray.job_submission import JobSubmissionClient

            for name in _VERBOSE_LOGGERS:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client: Any = JobSubmissionClient(address)

    def statuses(self) -> dict[str, str]:
        """Returns every job's status by submission ID."""
        with self._cluster_errors():
            jobs = self._client.list_jobs()
        return {job.submission_id: str(job.status.value) for job in jobs if job.submission_id}

    def submit(self, job: Job, submission_id: str, files: Mapping[str, bytes]) -> bool:
        """Uploads the code, unless the cluster has it, and starts the job; returns False if the ID is taken."""
        with self._cluster_errors(), tempfile.TemporaryDirectory() as folder:
            write_files(files, Path(folder))
            try:
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=submission_id,
                    runtime_env={"working_dir": folder, "env_vars": dict(job.environment)},
                    metadata={"depthflow": job.name},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def follow(self, submission_id: str, write: Callable[[str], object], *, reconnect_s: float) -> Ended:
        """Follows the job's log until the job ends.

        Args:
            submission_id: ID of the job.
            write: Called with each piece of the log.
            reconnect_s: How long to try to reconnect.

        Raises:
            ClusterError: if the connection stays lost. The job keeps running.
        """
        log, lost_at = Log(write), None
        while True:
            try:
                if self._info(submission_id).status.value in RUNNING:
                    lost_at = None
                    asyncio.run(self._tail(submission_id, log))
                    time.sleep(TAIL_PAUSE_S)
                    continue
                log.restart()
                log.feed(self._client.get_job_logs(submission_id))
                info = self._info(submission_id)
                return Ended(
                    submission_id=submission_id,
                    status=str(info.status.value),
                    exit_code=info.driver_exit_code,
                    message=info.message or "",
                    log=log.text,
                )
            except _connection_errors() as error:
                if "does not exist" in str(error):
                    raise ClusterError(
                        f"The cluster at {self.address} no longer knows the job {submission_id}: its head was "
                        "restarted. The same command submits it again."
                    ) from None
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > reconnect_s:
                    raise ClusterError(
                        f"The connection to {self.address} is lost: {error}. The job {submission_id} keeps running if "
                        "the cluster does; the same command attaches to it."
                    ) from None
                print(f"connection to {self.address} lost ({error}): reconnecting", file=sys.stderr)
            time.sleep(RETRY_PAUSE_S)

    def _info(self, submission_id: str) -> Any:
        return self._client.get_job_info(submission_id)

    async def _tail(self, submission_id: str, log: Log) -> None:
        """Feeds the log until the server closes it, or until the job ends without the server closing it."""
        log.restart()
        pieces = aiter(self._client.tail_job_logs(submission_id))
        while True:
            piece = asyncio.ensure_future(anext(pieces, None))
            while not (await asyncio.wait({piece}, timeout=SILENCE_S))[0]:
                info = await asyncio.wait_for(asyncio.to_thread(self._info, submission_id), SILENCE_S)
                if info.status.value not in RUNNING:
                    piece.cancel()
                    return
            text = piece.result()
            if text is None:
                return
            log.feed(text)

    @contextmanager
    def _cluster_errors(self) -> Iterator[None]:
        """Turns errors of the connection and of Ray's client into a ClusterError with advice."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"The cluster at {self.address} rejected the token: {str(error).splitlines()[0]}. Set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token."
            ) from None
        except OSError as error:  # Including the errors of requests.
            raise ClusterError(
                f"No job server answers at {self.address}: {str(error).rstrip('.')}. Start one with `ray start "
                "--head`, or pass the address of the cluster with --address http://HOST:8265."
            ) from None
        except RuntimeError as error:
            missing = "ray[default]" in str(error)
            raise ClusterError(
                "Jobs need ray[default]: pip install 'depthflow[cluster]'."
                if missing
                else f"The job server at {self.address} reports: {error}"
            ) from None


def _connection_errors() -> tuple[type[Exception], ...]:
    """Returns what Ray's client raises if the server is away: errors of requests (OSError), of aiohttp, and its own."""
    import aiohttp

    return (OSError, aiohttp.ClientError, TimeoutError, RuntimeError)
