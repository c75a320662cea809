"""What every command on Ray may be given of the machine."""

from depthflow.config.checks import require_positive
from depthflow.config.flags import flags


@flags
class RayConfig:
    """Of every command that runs on Ray."""

    num_cpus: int | None = None
    """CPUs of the local Ray this command starts; ignored where RAY_ADDRESS names a cluster. Default: all."""

    def __post_init__(self) -> None:
        require_positive(num_cpus=self.num_cpus)


@flags
class PoolConfig(RayConfig):
    """Of every command that predicts."""

    num_workers: int | None = None
    """Processes that hold the model. Default: one a GPU; one where there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(num_workers=self.num_workers)
