"""Checkpoints written beside the training: the loop waits for the copy in memory, not for the disk."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from depthflow.training.checkpoint import Snapshot, TrainingProgress, annotate_checkpoint, prune, write_checkpoint
from depthflow.training.kept_checkpoints import KeptCheckpoints


class CheckpointSaver:
    """Writes checkpoints in a thread of its own, one after the other.

    Args:
        kept: where the checkpoints go.
        keep: the best so many are kept, and the latest.

    Attributes:
        paused_s: how long the training has waited for it, in all.
    """

    def __init__(self, kept: KeptCheckpoints, *, keep: int) -> None:
        self._kept = kept
        self._keep = keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: list[Future[None]] = []
        self.paused_s = 0.0

    def save(self, snapshot: Callable[[], Snapshot], progress: TrainingProgress, *, first: Callable[[], None]) -> None:
        """Takes a snapshot and begins to write it, once the one before is written.

        Args:
            snapshot: copies the variables; training waits for it.
            progress: where the run stands.
            first: called in the writer's thread before the checkpoint counts: what it logs is not lost if this process
                is killed in between, but may be logged anew.

        Raises:
            TrainingError: if the one before could not be written.
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
        """Gives the checkpoint saved last its epoch's figures, once it is written; `first` as for `save`."""

        def write() -> None:
            first()
            annotate_checkpoint(self._kept.folder, progress)
            self._prune()

        self._under_way.append(self._pool.submit(write))

    def _prune(self) -> None:
        prune(self._kept.folder, keep=self._keep)
        self._kept.publish()

    def wait(self) -> None:
        """Until all that was handed over is written.

        Raises:
            TrainingError: if it could not be.
        """
        under_way, self._under_way = self._under_way, []
        for writing in under_way:
            writing.result()
