"""Background checkpoint writing: the training loop waits for the copy in memory, not for the disk."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from depthflow.training.checkpoint import Snapshot, TrainingProgress, annotate_checkpoint, prune, write_checkpoint
from depthflow.training.kept_checkpoints import KeptCheckpoints


class CheckpointSaver:
    """Writes checkpoints one after the other, in a separate thread.

    Args:
        kept: Destination of the checkpoints.
        keep: Number of best checkpoints to keep beside the latest.

    Attributes:
        paused_s: Total seconds that training has waited for it.
    """

    def __init__(self, kept: KeptCheckpoints, *, keep: int) -> None:
        self._kept = kept
        self._keep = keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: list[Future[None]] = []
        self.paused_s = 0.0

    def save(self, snapshot: Callable[[], Snapshot], progress: TrainingProgress, *, first: Callable[[], None]) -> None:
        """Takes a snapshot and starts writing it, once the previous checkpoint is written.

        Args:
            snapshot: Copies the variables; training waits for it.
            progress: Position of the run.
            first: Called in the writer's thread before the checkpoint counts. If this process is killed in between,
                what it logs is not lost but may be logged again.

        Raises:
            TrainingError: if the previous checkpoint could not be written.
        """
        began = time.monotonic()
        self.wait()
        taken = snapshot()

        def write() -> None:
            first()
            write_checkpoint(self._kept.folder, taken, progress)
            self._prune()

        self._under_way.append(self._pool.submit(write))
        self.paused_s += time.monotonic() - began

    def annotate(self, progress: TrainingProgress, *, first: Callable[[], None]) -> None:
        """Adds its epoch's metrics to the last checkpoint, once it is written; `first` is as in `save`."""

        def write() -> None:
            first()
            annotate_checkpoint(self._kept.folder, progress)
            self._prune()

        self._under_way.append(self._pool.submit(write))

    def _prune(self) -> None:
        prune(self._kept.folder, keep=self._keep)
        self._kept.publish()

    def wait(self) -> None:
        """Waits until all pending checkpoints are written.

        Raises:
            TrainingError: if one could not be written.
        """
        under_way, self._under_way = self._under_way, []
        for writing in under_way:
            writing.result()
