"""Flags of submit.py."""

import re
from typing import Annotated

import tyro

from depthflow.config.checks import require
from depthflow.config.flags import flags


@flags
class SubmitConfig:
    """A command of pipelines/ as a Ray job, with a preflight before it. Everything after the command's name is the
    command's; flags of submit.py itself come before it."""

    command: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="COMMAND [ITS FLAGS]", help_behavior_hint="")
    ]
    """The command with its flags, as without submit.py: train diode --samples s3://bucket/store ..."""
    address: str | None = None
    """The cluster's job server. Default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, else http://127.0.0.1:8265."""
    env: tuple[str, ...] = ()
    """Environment variables to hand to the job besides MLFLOW_TRACKING_URI: AWS_PROFILE, say. Only those named here
    go; whoever may ask the cluster for the job can read them."""
    again: bool = False
    """Run a training anew whose result stands. Without it the result is printed again."""
    wait: bool = True
    """Follow the job's log to its end. With --no-wait, only submit it."""
    python: str = "python"
    """The interpreter's name or path on the cluster's head node."""
    reconnect_s: float = 300.0
    """How long to try to reach the job server again when the connection is lost."""

    def __post_init__(self) -> None:
        require(len(self.command) > 0, "A command is needed: submit.py train smoke --samples ... Received: none")
        for name in self.env:
            require(
                re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None,
                f"--env takes names of environment variables, not values. Received: {name}",
            )
        require(self.reconnect_s >= 0, f"--reconnect-s must not be negative. Received: {self.reconnect_s}")
