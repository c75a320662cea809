"""Flags of doctor.py and submit.py."""

import re
from typing import Annotated, Literal, get_args

import tyro

from depthflow.flags import RayConfig, flags, require, require_positive

CheckName = Literal["plan", "versions", "storage", "disk", "mlflow", "proxies", "gpus", "all-reduce"]


@flags
class DoctorConfig(RayConfig):
    """Checks this machine, or the cluster that RAY_ADDRESS names."""

    checks: tuple[CheckName, ...] = get_args(CheckName)
    """Checks to run."""
    storage: tuple[str, ...] = ()
    """Folders, s3:// or gs:// URIs that every node must be able to write to, and to read from what the others wrote."""
    samples: tuple[str, ...] = ()
    """Locations that must exist and that every node must be able to read."""
    work: Literal["training", "pool", "data"] = "training"
    """What the plan is for: training workers, processes that predict, or data tasks."""
    num_workers: int | None = None
    """Number of workers that must fit on the cluster. Default: as the command chooses it."""
    quick: bool = False
    """Skip the all-reduce unless it runs between GPUs."""
    timeout_s: float = 60.0
    """Timeout of each check on a node. The all-reduce gets three times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.checks) > 0, "--checks needs at least one name. Received: none")
        require_positive(num_workers=self.num_workers)
        require(self.timeout_s > 0, f"--timeout-s must be positive. Received: {self.timeout_s}")


@flags
class SubmitConfig:
    """Runs a command of pipelines/ as a Ray job, after a preflight. Flags of submit.py come before the command's name;
    everything after it belongs to the command."""

    command: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="COMMAND [ITS FLAGS]", help_behavior_hint="")
    ]
    """Command with its flags, as without submit.py: train diode --samples s3://bucket/store ..."""
    address: str | None = None
    """URL of the cluster's job server. Default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, else http://127.0.0.1:8265."""
    env: tuple[str, ...] = ()
    """Names of environment variables to pass to the job besides MLFLOW_TRACKING_URI, such as AWS_PROFILE. Anyone who
    can query the job can read them."""
    again: bool = False
    """Run a training again that has already finished. Without it, its result is printed."""
    wait: bool = True
    """Follow the job's log until it ends. --no-wait only submits it."""
    python: str = "python"
    """Name or path of the Python interpreter on the head node."""
    reconnect_s: float = 300.0
    """How long to try to reconnect to the job server."""

    def __post_init__(self) -> None:
        require(len(self.command) > 0, "A command is needed: submit.py train smoke --samples ... Received: none")
        for name in self.env:
            require(
                re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None,
                f"--env takes names of environment variables, not values. Received: {name}",
            )
        require(self.reconnect_s >= 0, f"--reconnect-s must not be negative. Received: {self.reconnect_s}")
