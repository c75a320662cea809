"""Flags of train.py that say where a recipe is trained."""

import math

from depthflow.flags import RayConfig, flags, require, require_folder, require_positive


@flags
class TrainJob(RayConfig):
    """Where a recipe is trained and what becomes of it."""

    samples: str
    """The sample store, with the splits train and val."""
    storage: str
    """Folder for checkpoints, on a disk that all nodes share; or s3:// or gs:// URI."""
    num_workers: int | None = None
    """Data-parallel workers. Default: one a GPU; two CPU workers where there is none."""
    model_name: str = "depthflow"
    """Registered model whose new version, alias challenger, the best checkpoint becomes."""
    experiment: str = "depthflow"
    """MLflow experiment of the run."""
    resume: bool = False
    """Go on with the last unfinished job of this recipe and these samples in --storage, in its MLflow run."""
    keep_checkpoints: int = 2
    """Checkpoints kept: so many best by val/abs_rel, and the latest."""
    checkpoint_every_steps: int | None = None
    """A checkpoint after so many steps, besides the one after each epoch. Default: none in the middle of an epoch."""
    max_failures: int = 2
    """Times a lost worker is made good from the latest checkpoint before the run is given up; preempted nodes do not
    count."""
    step_timeout_s: float = 600.0
    """A worker that takes longer for one step, the first with its compilation included, ends itself and is made good:
    a hung collective is no silent stall."""
    drain_poll_s: float = 5.0
    """How often to look for a node that is being drained; while one is, each look writes a checkpoint."""
    mlflow_wait_s: float = 60.0
    """How long to wait, when training is done, for an MLflow server that does not answer."""
    cache_gib: float = 2.0
    """GiB of memory a worker for decoded training samples. Those that lie uncompressed on a disk are mapped: they need
    none."""
    cache_dir: str | None = None
    """Folder on each node's own disk that the shards are copied to first, and found by later runs: for stores on s3://
    or gs:// and slow shared disks. Default: shards are read where they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_folder(cache_dir=self.cache_dir)
        require_positive(num_workers=self.num_workers, keep_checkpoints=self.keep_checkpoints)
        require_positive(checkpoint_every_steps=self.checkpoint_every_steps)
        require(self.max_failures >= 0, f"--max-failures must not be negative. Received: {self.max_failures}")
        require(self.step_timeout_s > 0, f"--step-timeout-s must be positive. Received: {self.step_timeout_s}")
        require(self.drain_poll_s > 0, f"--drain-poll-s must be positive. Received: {self.drain_poll_s}")
        require(self.mlflow_wait_s >= 0, f"--mlflow-wait-s must not be negative. Received: {self.mlflow_wait_s}")
        require(0 <= self.cache_gib < math.inf, f"--cache-gib must be finite, 0 or more. Received: {self.cache_gib}")
