"""Background checkpoint writing: the training loop waits for the copy in memory, not for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from depthflow.training.checkpoint import Snapshot, TrainingProgress, annotate_checkpoint, prune, write_checkpoint
from depthflow.training.kept_checkpoints import KeptCheckpoints


class CheckpointSaver:
    """Writes checkpoints one after the other, in a separate thread.

    Args:
        keep: Number of best checkpoints to keep beside the latest.
    """

    def __init__(self, kept: KeptCheckpoints, *, keep: int) -> None:
        self._kept, self._keep = kept, keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: list[Future[None]] = []

    def save(self, snapshot: Callable[[], Snapshot], progress: TrainingProgress, *, first: Callable[[], None]) -> None:
        """Takes a snapshot and starts writing it, once the previous checkpoint is written.

        Args:
            snapshot: Copies the variables; training waits for it.
            first: Called in the writer's thread before the checkpoint counts. If this process is killed in between,
                what it logs is not lost but may be logged again.

        Raises:
            TrainingError: if the previous checkpoint could not be written.
        """
        self.wait()
        taken = snapshot()
        self._submit(first, lambda: write_checkpoint(self._kept.folder, taken, progress))

    def annotate(self, progress: TrainingProgress, *, first: Callable[[], None]) -> None:
        """Adds its epoch's metrics to the last checkpoint, once it is written; `first` is as in `save`."""
        self._submit(first, lambda: annotate_checkpoint(self._kept.folder, progress))

    def _submit(self, first: Callable[[], None], write: Callable[[], object]) -> None:
        def work() -> None:
            self._kept.check_lock()
            first()
            write()
            prune(self._kept.folder, keep=self._keep)
            self._kept.publish()

        self._under_way.append(self._pool.submit(work))

    def wait(self) -> None:
        """Waits until all pending checkpoints are written.

        Raises:
            TrainingError: if one could not be written.
        """
        under_way, self._under_way = self._under_way, []
        for writing in under_way:
            writing.result()
