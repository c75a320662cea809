"""What the driver and its workers agree on. Imports no TensorFlow."""

from dataclasses import dataclass

from depthflow.config import Recipe
from depthflow.registry.runs import RunLog

BEST_METRIC = "val/abs_rel"


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What the driver hands to every worker.

    Attributes:
        recipe: what to train.
        samples: the store's folder, absolute.
        run_log: where worker 0 writes metrics.
        cpus: threads of one worker.
        cache_bytes: memory for decoded training samples, a worker.
        cache_dir: folder on each node's own disk that shards are copied to first, absolute; or None.
    """

    recipe: Recipe
    samples: str
    run_log: RunLog
    cpus: int
    cache_bytes: int
    cache_dir: str | None
