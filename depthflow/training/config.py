"""Flags of train.py that say where a recipe is trained."""

import math

from depthflow.flags import RayConfig, flags, require, require_folder, require_model_name, require_positive

BEST_METRICS = ("val/abs_rel", "val/photometric")
"""The first that was measured ranks checkpoints; lower is better. Without depth in the validation split it is the
photometric error."""


@flags
class TrainJob(RayConfig):
    """Where a recipe is trained and what happens to the result."""

    samples: str
    """Sample store with a train and a val split."""
    storage: str
    """Folder for checkpoints on a disk that all nodes share, or an s3:// or gs:// URI."""
    num_workers: int | None = None
    """Number of data-parallel workers. Default: one per GPU, or two CPU workers without GPUs."""
    model_name: str = "depthflow"
    """Registered model that the best checkpoint becomes a new version of, with the alias challenger."""
    experiment: str = "depthflow"
    """MLflow experiment of the run."""
    resume: bool = False
    """Resume the last unfinished job of this recipe and these samples in --storage, in its MLflow run."""
    keep_checkpoints: int = 2
    """Number of best checkpoints to keep, by val/abs_rel or, without depth, val/photometric. The latest is always
    kept."""
    checkpoint_every_steps: int | None = None
    """Also write a checkpoint every N steps. Default: only after each epoch."""
    max_failures: int = 2
    """How many times lost workers are restarted from the latest checkpoint before the run fails. Preempted nodes do not
    count."""
    step_timeout_s: float = 600.0
    """Restart a worker whose step takes longer than this, compilation of the first step included, so that a hung
    collective does not stall the run."""
    drain_poll_s: float = 5.0
    """How often to check for nodes that are being drained. Each check that finds one writes a checkpoint."""
    mlflow_wait_s: float = 60.0
    """How long to wait for an unresponsive MLflow server after training."""
    cache_gib: float = 2.0
    """Memory per worker for decoded training samples, in GiB. Samples that lie uncompressed on a local disk are mapped
    and need none."""
    cache_dir: str | None = None
    """Folder on each node's local disk that shards are copied to and that later runs reuse; for stores on s3://, gs://
    or slow shared disks. Default: read shards in place."""

    @property
    def cache_bytes(self) -> int:
        """`cache_gib` in bytes."""
        return int(self.cache_gib * 2**30)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_model_name(self.model_name)
        require_folder(cache_dir=self.cache_dir)
        require_positive(num_workers=self.num_workers, keep_checkpoints=self.keep_checkpoints)
        require_positive(checkpoint_every_steps=self.checkpoint_every_steps)
        require(self.max_failures >= 0, f"--max-failures must not be negative. Received: {self.max_failures}")
        require(self.step_timeout_s > 0, f"--step-timeout-s must be positive. Received: {self.step_timeout_s}")
        require(self.drain_poll_s > 0, f"--drain-poll-s must be positive. Received: {self.drain_poll_s}")
        require(self.mlflow_wait_s >= 0, f"--mlflow-wait-s must not be negative. Received: {self.mlflow_wait_s}")
        require(0 <= self.cache_gib < math.inf, f"--cache-gib must be finite, 0 or more. Received: {self.cache_gib}")
