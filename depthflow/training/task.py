"""What the driver and its workers agree on. Imports no TensorFlow."""

from dataclasses import dataclass

from depthflow.recipe import Recipe
from depthflow.registry.runs import RunLog

BEST_METRIC = "val/abs_rel"


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What the driver hands to every worker.

    Attributes:
        recipe: what to train.
        samples: the store's folder, absolute, or URI.
        run_log: where worker 0 writes metrics.
        checkpoints: folder on a disk that all nodes share, absolute, or URI.
        spool: the same for metrics on their way to MLflow.
        cpus: threads of one worker.
        cache_bytes: memory for decoded training samples, a worker.
        cache_dir: folder on each node's own disk that shards are copied to first, absolute; or None.
        keep_checkpoints: the best so many, beside the latest.
        checkpoint_every_steps: besides every epoch; or None.
        step_timeout_s: a worker that stands still for longer is ended.
        drain_poll_s: seconds between two looks for a node that is being drained.
    """

    recipe: Recipe
    samples: str
    run_log: RunLog
    checkpoints: str
    spool: str
    cpus: int
    cache_bytes: int
    cache_dir: str | None
    keep_checkpoints: int
    checkpoint_every_steps: int | None
    step_timeout_s: float
    drain_poll_s: float
