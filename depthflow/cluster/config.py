"""Flags of doctor.py and submit.py."""

import re
from typing import Annotated, Literal, get_args

import tyro

from depthflow.flags import RayConfig, flags, require, require_positive

CheckName = Literal["plan", "versions", "storage", "disk", "mlflow", "proxies", "gpus", "all-reduce"]


@flags
class DoctorConfig(RayConfig):
    """What this machine, or the cluster that RAY_ADDRESS names, can and cannot do."""

    checks: tuple[CheckName, ...] = get_args(CheckName)
    """What to look at."""
    storage: tuple[str, ...] = ()
    """Locations that every node must be able to write, and to read what the others wrote: folders, s3:// or gs://."""
    samples: tuple[str, ...] = ()
    """Locations that must be there, and that every node must be able to read."""
    work: Literal["training", "pool", "data"] = "training"
    """What the plan is of: training workers, processes that predict, or data tasks."""
    num_workers: int | None = None
    """Workers of training or of the pool that must find room. Default: as their commands take them."""
    quick: bool = False
    """Leave out the all-reduce unless it goes between GPUs: what a job has time for before it starts."""
    timeout_s: float = 60.0
    """How long one look may take on a node; the all-reduce may take three times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.checks) > 0, "--checks needs at least one name. Received: none")
        require_positive(num_workers=self.num_workers)
        require(self.timeout_s > 0, f"--timeout-s must be positive. Received: {self.timeout_s}")


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
