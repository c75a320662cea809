"""Run a command as a Ray job, after a preflight; run it again to attach to it.

submit.py [its own flags] COMMAND [the command's flags]
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthflow.cluster.config import SubmitConfig
from depthflow.cluster.job_server import JobServer
from depthflow.cluster.package import digest, find_files
from depthflow.cluster.requirements import (
    RUN_ONCE,
    WITHOUT_PREFLIGHT,
    check_submittable,
    job_environment,
    preflight_flags,
)
from depthflow.cluster.submission import Decision, Job, api_server, decide, outcome
from depthflow.command import EXIT_INTERRUPTED, parse_command, run_command
from depthflow.errors import ClusterError

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))


def main(config: SubmitConfig) -> dict[str, Any]:
    """Submits the command or attaches to its job; returns the job's result and exit code."""
    job = checked_job(config)
    files = find_files(ROOT)
    server = JobServer(api_server(config.address, os.environ))
    base = job.submission_id(digest(files))
    decision = decide(base, server.statuses(), run_once=job.name in RUN_ONCE, again=config.again)
    if decision.action == "submit" and not server.submit(job, decision.submission_id, files):
        decision = Decision(action="attach", submission_id=decision.submission_id)
    said = {"submit": "submitted", "attach": "running already, attached", "report": "done before; --again runs it anew"}
    print(f"job {decision.submission_id} at {server.address}: {said[decision.action]}", file=sys.stderr, flush=True)
    about = {"submission_id": decision.submission_id, "action": decision.action}
    if not config.wait:
        return {**about, "job_status": server.statuses()[decision.submission_id]}
    try:
        ended = server.follow(decision.submission_id, write_log, reconnect_s=config.reconnect_s)
    except KeyboardInterrupt:
        raise ClusterError(
            f"Followed no longer; the job goes on. The same command attaches to it again; to stop it: "
            f"ray job stop --address {server.address} {decision.submission_id}",
            details={**about, "job_status": "RUNNING"},
            exit_code=EXIT_INTERRUPTED,
        ) from None
    return outcome(ended, decision.action)


def checked_job(config: SubmitConfig) -> Job:
    """Checks the command line and returns its job."""
    from depthflow.registry.runs import git_commit

    name, *arguments = config.command
    if name not in COMMANDS:
        raise ClusterError(f"There is no command {name}. Pass one of: {', '.join(COMMANDS)}.", exit_code=2)
    parsed = parse_command(ROOT / "pipelines" / f"{name}.py", arguments)
    check_submittable(name, parsed, os.environ)
    return Job(
        name=name,
        arguments=tuple(arguments),
        preflight=None if name in WITHOUT_PREFLIGHT else tuple(preflight_flags(name, parsed)),
        environment=job_environment(config.env, os.environ, git_commit=git_commit()),
        python=config.python,
    )


def write_log(text: str) -> None:
    """Writes the job's output to stderr: stdout holds only the result."""
    print(text, end="", file=sys.stderr, flush=True)


def own_flags_first(arguments: Sequence[str]) -> list[str]:
    """Puts `--` before the command's name: the flags that follow are not those of submit.py."""
    at = next((k for k, word in enumerate(arguments) if word in COMMANDS), None)
    return list(arguments) if at is None else [*arguments[:at], "--", *arguments[at:]]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__, own_flags_first(sys.argv[1:])))
