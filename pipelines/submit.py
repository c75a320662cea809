"""Run a command as a Ray job, after a preflight; run it again to attach to it.

submit.py [its own flags] COMMAND [the command's flags]
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthflow.cluster.config import SubmitConfig
from depthflow.cluster.job_server import JobServer
from depthflow.cluster.package import digest, find_files
from depthflow.cluster.requirements import RUN_ONCE, plan_job
from depthflow.cluster.submission import api_server, decide, left_running, outcome
from depthflow.command import run_command

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {path.stem: path for path in sorted((ROOT / "pipelines").glob("*.py"))}

SAID = {"submit": "submitted", "attach": "running already, attached", "report": "done before; --again runs it again"}


def main(config: SubmitConfig) -> dict[str, Any]:
    """Submits the command or attaches to its job; returns the job's result and exit code."""
    from depthflow.registry.runs import git_commit

    job = plan_job(config, COMMANDS, os.environ, git_commit=git_commit())
    files = find_files(ROOT)
    server = JobServer(api_server(config.address, os.environ))
    base = job.submission_id(digest(files))
    decision = decide(base, server.statuses(), run_once=job.name in RUN_ONCE, again=config.again)
    if decision.action == "submit" and not server.submit(job, decision.submission_id, files):
        decision = replace(decision, action="attach")
    submission_id, action = decision.submission_id, decision.action
    print(f"job {submission_id} at {server.address}: {SAID[action]}", file=sys.stderr, flush=True)
    if not config.wait:
        return {"submission_id": submission_id, "action": action, "job_status": server.statuses()[submission_id]}
    try:
        ended = server.follow(submission_id, write_log, reconnect_s=config.reconnect_s)
    except KeyboardInterrupt:
        raise left_running(submission_id, action, address=server.address) from None
    return outcome(ended, action)


def write_log(text: str) -> None:
    """Writes the job's output to stderr: stdout holds only the result."""
    print(text, end="", file=sys.stderr, flush=True)


def own_flags_first(arguments: Sequence[str]) -> list[str]:
    """Puts `--` before the command's name: the flags that follow are not those of submit.py."""
    at = next((k for k, word in enumerate(arguments) if word in COMMANDS), None)
    return list(arguments) if at is None else [*arguments[:at], "--", *arguments[at:]]


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__, own_flags_first(sys.argv[1:])))
