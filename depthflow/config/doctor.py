"""Flags of doctor.py."""

from typing import Literal, get_args

from depthflow.config.checks import require, require_positive
from depthflow.config.flags import flags
from depthflow.config.resources import RayConfig

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
