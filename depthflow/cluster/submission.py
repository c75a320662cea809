"""A command as a Ray job: which job it is, and its end told as the command itself would tell it."""

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
BESIDE_THE_POINT = ("DEPTHFLOW_GIT_COMMIT", LOG_FORMAT)
"""Variables of a job that change nothing of what it does."""
EXIT_NOT_FOUND = 127
"""A shell's, where there is no such program."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is submitted.

    Attributes:
        name: the command's.
        arguments: its flags.
        preflight: flags of doctor.py, which runs before it; None for none.
        environment: variables of the job.
        python: the interpreter on the head node.
    """

    name: str
    arguments: tuple[str, ...]
    preflight: tuple[str, ...] | None
    environment: Mapping[str, str]
    python: str

    @property
    def entrypoint(self) -> str:
        """The shell's command line: the command begins only after a preflight without a failure."""
        command = f"exec {shlex.join([self.python, f'pipelines/{self.name}.py', *self.arguments])}"
        if self.preflight is None:
            return command
        return f"{shlex.join([self.python, 'pipelines/doctor.py', *self.preflight])} && {command}"

    def submission_id(self, code: str) -> str:
        """The same for the same command, environment and code; the commit and the log's format change nothing.

        Args:
            code: the package's digest.
        """
        environment = {name: value for name, value in self.environment.items() if name not in BESIDE_THE_POINT}
        text = json.dumps([self.name, self.arguments, self.python, environment, code], sort_keys=True)
        return f"depthflow-{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is done about a command that is submitted.

    Attributes:
        action: submit it; attach to its job, which is running; report its job's result, which stands.
        submission_id: of that job.
    """

    action: Literal["submit", "attach", "report"]
    submission_id: str


def decide(base: str, statuses: Mapping[str, str], *, keeps_outcome: bool, again: bool) -> Decision:
    """One job at a time for one command: the first is called `base`, those after it base-2, base-3, ...

    Args:
        base: the command's submission id.
        statuses: the status of every job of the cluster, by submission id.
        keeps_outcome: whether a job that succeeded stands for good.
        again: unless it is asked for once more.
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
    if statuses[latest] == SUCCEEDED and keeps_outcome and not again:
        return Decision(action="report", submission_id=latest)
    return Decision(action="submit", submission_id=f"{base}-{number + 1}")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job that ended, as Ray tells it.

    Attributes:
        submission_id: the job's.
        status: SUCCEEDED, FAILED or STOPPED.
        exit_code: of its shell; None where it never ran to an end.
        message: Ray's own.
        log: all that it printed, stdout and stderr in one.
    """

    submission_id: str
    status: str
    exit_code: int | None
    message: str
    log: str


def outcome(ended: Ended, action: str) -> dict[str, Any]:
    """The job's result, with the job it is of.

    Args:
        ended: the job.
        action: what was done to have it, a `Decision`'s.

    Raises:
        ClusterError: with the job's reason and its exit code, if it did not succeed.
    """
    result = last_json_line(ended.log) or {}
    about = {"submission_id": ended.submission_id, "job_status": ended.status, "action": action}
    succeeded = result.get("status") in ("ok", "rejects")
    if succeeded and ended.exit_code in (0, EXIT_REJECTS):
        return {**result, **about}
    told = {} if succeeded else dict(result)  # The preflight's own success is no word of a command killed after it.
    told.pop("status", None)
    error = told.pop("error", None)
    raise ClusterError(
        f"The job failed: {error}" if error else _reason(ended),
        details={**told, **about},
        exit_code=_exit_code(ended),
    )


def _reason(ended: Ended) -> str:
    if ended.status == STOPPED:
        return f"The job {ended.submission_id} was stopped. The same command runs it again."
    if ended.exit_code == EXIT_NOT_FOUND:
        return "The head node has no such interpreter on its PATH. Pass --python with the path of the one Ray runs on."
    if ended.exit_code is None:
        return f"The job never ran to an end: {ended.message or 'Ray says no more'}. The same command runs it again."
    return f"The job ended with exit code {ended.exit_code} before it printed a result: see its log above."


def _exit_code(ended: Ended) -> int:
    """The command's own; as a shell gives it where a signal ended it; never 0."""
    if ended.status == STOPPED:
        return EXIT_INTERRUPTED
    code = ended.exit_code or 1
    return 128 - code if code < 0 else code


def api_server(asked: str | None, environment: Mapping[str, str]) -> str:
    """Where jobs are submitted; what is not http(s):// is left to Ray, which asks the cluster."""
    address = asked or environment.get("RAY_API_SERVER_ADDRESS") or environment.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    return address.rstrip("/")
