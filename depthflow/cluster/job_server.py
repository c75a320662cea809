"""A cluster's job server, asked over HTTP; a connection that is lost is made anew."""

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
"""After so long without a line the server is asked whether the job still runs."""
RETRY_PAUSE_S = 2.0
TAIL_PAUSE_S = 0.2
"""Between the end of a log and the job's own."""


_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray's that tell of every step; each sets its own level when it is imported."""


class Log:
    """What a job printed, written on as it comes and each character once, however often the log is read from its start.

    Args:
        write: takes text.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._text = ""
        self._read = 0

    @property
    def text(self) -> str:
        """All of it."""
        return self._text

    def restart(self) -> None:
        """What comes next is the log from its start."""
        self._read = 0

    def feed(self, piece: str) -> None:
        """Takes the next piece."""
        self._read += len(piece)
        new = self._read - len(self._text)
        if new > 0:
            self._text += piece[-new:]
            self._write(piece[-new:])


class JobServer:
    """Submits jobs and follows them.

    Args:
        address: http://HOST:PORT, or what Ray makes one of.

    Raises:
        ClusterError: if it does not answer, refuses the token, or ray[default] is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray takes the environment's over what it is passed.
        with self._told():
            from ray.job_submission import JobSubmissionClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client: Any = JobSubmissionClient(address)

    def statuses(self) -> dict[str, str]:
        """Every job's status, by submission id."""
        with self._told():
            jobs = self._client.list_jobs()
        return {job.submission_id: str(job.status.value) for job in jobs if job.submission_id}

    def submit(self, job: Job, submission_id: str, files: Mapping[str, bytes]) -> bool:
        """Uploads the code, unless the cluster has it, and starts the job; False if one of this id is there already."""
        with self._told(), tempfile.TemporaryDirectory() as folder:
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
        """Writes the job's log as it grows, until the job ends.

        Args:
            submission_id: the job's.
            write: takes what the job printed.
            reconnect_s: how long to try again where the connection is lost.

        Raises:
            ClusterError: if it stays lost; the job goes on.
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
                return self._ended(submission_id, log.text)
            except _connection_errors() as error:
                if "does not exist" in str(error):
                    raise ClusterError(
                        f"The cluster at {self.address} knows no job {submission_id} any more: its head was started "
                        "anew. The same command submits it again."
                    ) from None
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > reconnect_s:
                    raise ClusterError(
                        f"The connection to {self.address} is lost: {error}. The job {submission_id} goes on if the "
                        "cluster does; the same command attaches to it."
                    ) from None
                print(f"connection to {self.address} lost ({error}): trying again", file=sys.stderr)
            time.sleep(RETRY_PAUSE_S)

    def _info(self, submission_id: str) -> Any:
        return self._client.get_job_info(submission_id)

    def _ended(self, submission_id: str, log: str) -> Ended:
        info = self._info(submission_id)
        return Ended(
            submission_id=submission_id,
            status=str(info.status.value),
            exit_code=info.driver_exit_code,
            message=info.message or "",
            log=log,
        )

    async def _tail(self, submission_id: str, log: Log) -> None:
        """Feeds the log until the server closes it, or the job ends in silence."""
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
    def _told(self) -> Iterator[None]:
        """Tells what the server refuses as a message to the user."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"The cluster at {self.address} refused the token: {str(error).splitlines()[0]}. Set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own token."
            ) from None
        except OSError as error:  # Those of requests, too.
            raise ClusterError(
                f"No job server answers at {self.address}: {str(error).rstrip('.')}. Start one with `ray start "
                "--head`, or pass the address of the cluster's, with --address http://HOST:8265."
            ) from None
        except RuntimeError as error:
            missing = "ray[default]" in str(error)
            raise ClusterError(
                "Jobs need another package: pip install 'depthflow[cluster]'."
                if missing
                else f"The job server at {self.address} refused: {error}"
            ) from None


def _connection_errors() -> tuple[type[Exception], ...]:
    """What Ray's client raises where the server is away: of requests (OSErrors), of aiohttp, and its own."""
    import aiohttp

    return (OSError, aiohttp.ClientError, TimeoutError, RuntimeError)
