"""A command as a Ray job: its submission ID, whether to submit or attach to it, and its result."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depthflow.command import EXIT_INTERRUPTED, EXIT_REJECTS, last_json_line
from depthflow.errors import ClusterError
from depthflow.observability.logs import LOG_FORMAT

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
RUNNING = ("PENDING", "RUNNING")
SUCCEEDED = "SUCCEEDED"
STOPPED = "STOPPED"
NOT_IN_ID = ("DEPTHFLOW_GIT_COMMIT", LOG_FORMAT)
"""Variables of a job that do not affect its result."""
EXIT_NOT_FOUND = 127
"""Exit code of a shell that does not find the program."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to submit.

    Attributes:
        name: command name.
        arguments: command-line arguments of the command.
        preflight: command-line arguments of the doctor.py that runs first; None for no preflight.
        environment: environment variables of the job.
        python: Python interpreter on the head node.
    """

    name: str
    arguments: tuple[str, ...]
    preflight: tuple[str, ...] | None
    environment: Mapping[str, str]
    python: str

    @property
    def entrypoint(self) -> str:
        """The job's shell command, which runs the command only if the preflight succeeds."""
        command = f"exec {shlex.join([self.python, f'pipelines/{self.name}.py', *self.arguments])}"
        if self.preflight is None:
            return command
        return f"{shlex.join([self.python, 'pipelines/doctor.py', *self.preflight])} && {command}"

    def submission_id(self, code: str) -> str:
        """Returns an ID that depends only on command, environment and code, not on git commit or log format.

        Args:
            code: Digest of the uploaded code.
        """
        environment = {name: value for name, value in self.environment.items() if name not in NOT_IN_ID}
        text = json.dumps([self.name, self.arguments, self.python, environment, code], sort_keys=True)
        return f"depthflow-{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with a command.

    Attributes:
        action: submit it, attach to its running job, or report the result of its finished job.
        submission_id: ID of that job.
    """

    action: Literal["submit", "attach", "report"]
    submission_id: str


def decide(base: str, statuses: Mapping[str, str], *, run_once: bool, again: bool) -> Decision:
    """Allows one job at a time per command; its attempts are named `base`, base-2, base-3, ...

    Args:
        base: Submission ID of the command.
        statuses: Status of every job on the cluster, by submission ID.
        run_once: Whether to report a job that succeeded instead of running the command again.
        again: Overrides `run_once`.
    """
    attempts = {
        int(found[1] or 1): name for name in statuses if (found := re.fullmatch(rf"{re.escape(base)}(?:-(\d+))?", name))
    }
    if not attempts:
        return Decision(action="submit", submission_id=base)
    number = max(attempts)
    latest = attempts[number]
    if statuses[latest] in RUNNING:
        return Decision(action="attach", submission_id=latest)
    if statuses[latest] == SUCCEEDED and run_once and not again:
        return Decision(action="report", submission_id=latest)
    return Decision(action="submit", submission_id=f"{base}-{number + 1}")


def left_running(submission_id: str, action: str, *, address: str) -> ClusterError:
    """Returns the error of a command that was interrupted while it followed its job."""
    return ClusterError(
        "Followed no longer; the job goes on. The same command attaches to it again; to stop it: "
        f"ray job stop --address {address} {submission_id}",
        details={"submission_id": submission_id, "action": action, "job_status": "RUNNING"},
        exit_code=EXIT_INTERRUPTED,
    )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job that ended, as reported by Ray.

    Attributes:
        submission_id: ID of the job.
        status: SUCCEEDED, FAILED or STOPPED.
        exit_code: exit code of its shell; None if it never finished.
        message: Ray's message.
        log: everything the job printed to stdout and stderr.
    """

    submission_id: str
    status: str
    exit_code: int | None
    message: str
    log: str


def outcome(ended: Ended, action: str) -> dict[str, Any]:
    """Returns the job's result, together with the job's ID and status.

    Args:
        ended: The job.
        action: Action of the `Decision`.

    Raises:
        ClusterError: if the job did not succeed, with its error message and exit code.
    """
    result = last_json_line(ended.log) or {}
    about = {"submission_id": ended.submission_id, "job_status": ended.status, "action": action}
    succeeded = result.get("status") in ("ok", "rejects")
    if succeeded and ended.exit_code in (0, EXIT_REJECTS):
        return {**result, **about}
    details = {} if succeeded else dict(result)  # The last line may be the preflight's, if the command was killed.
    details.pop("status", None)
    error = details.pop("error", None)
    raise ClusterError(
        f"The job failed: {error}" if error else _reason(ended),
        details={**details, **about},
        exit_code=_exit_code(ended),
    )


def _reason(ended: Ended) -> str:
    if ended.status == STOPPED:
        return f"The job {ended.submission_id} was stopped. The same command runs it again."
    if ended.exit_code == EXIT_NOT_FOUND:
        return (
            "The head node has no such interpreter on its PATH. Pass the path of the one that runs Ray with --python."
        )
    if ended.exit_code is None:
        return f"The job never finished: {ended.message or 'Ray gives no reason'}. The same command runs it again."
    return f"The job ended with exit code {ended.exit_code} before it printed a result: see its log above."


def _exit_code(ended: Ended) -> int:
    """Returns the command's exit code, as a shell reports it if a signal killed the command; never 0."""
    if ended.status == STOPPED:
        return EXIT_INTERRUPTED
    code = ended.exit_code or 1
    return 128 - code if code < 0 else code


def api_server(asked: str | None, environment: Mapping[str, str]) -> str:
    """Returns the address to submit jobs to. Ray resolves addresses that are not http(s)://."""
    address = asked or environment.get("RAY_API_SERVER_ADDRESS") or environment.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    return address.rstrip("/")
