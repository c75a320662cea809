"""The loop that every worker runs: steps, epochs, validation, checkpoints, and what workers tell each other meanwhile.

Workers talk through the step's own all-reduce: each adds its signals, and all see the sum, one step later, at the same
place. So nobody leaves the others waiting in a collective that it will not join.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import IntEnum
from typing import TypeVar

import numpy as np

from depthflow.errors import DepthflowError, TrainingError
from depthflow.models.augmentation import draw
from depthflow.observability.logs import tell
from depthflow.observability.progress import ProgressLine
from depthflow.registry.spool import MetricSpool
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.share import Position
from depthflow.training.checkpoint import Progress
from depthflow.training.feed import TrainingBatch, read_ahead, training_batches
from depthflow.training.live_metrics import LiveFigures
from depthflow.training.node_metrics import NOTHING, NodeMonitor
from depthflow.training.saver import CheckpointSaver
from depthflow.training.step import StepResult
from depthflow.training.task import BEST_METRIC
from depthflow.training.train_state import TrainState
from depthflow.training.validation import Validator
from depthflow.training.watchdog import Watchdog

T = TypeVar("T")


class Signal(IntEnum):
    """What a worker says to all with a step."""

    FAILED = 0
    """It cannot go on: the message follows."""
    LOOK_FOR_DRAIN = 1
    """It is time to ask whether a node is being drained."""


class TrainingLoop:
    """One worker's run from where its train_state stands to the last epoch.

    Args:
        train_state: what to train.
        reader: the training split.
        steps_per_epoch: of it.
        validator: of the validation split.
        watchdog: told of every step.
        saver: on worker 0; else None.
        spool: on worker 0; else None.
        monitor: on one worker of each node; else None.
        checkpoint_every_steps: besides every epoch; or None.
        draining: whether a node is being drained; all workers ask together.
        drain_poll_s: seconds between two such questions.
        live: on worker 0, where someone may watch; else None.
    """

    def __init__(
        self,
        train_state: TrainState,
        *,
        reader: SplitReader,
        steps_per_epoch: int,
        validator: Validator,
        watchdog: Watchdog,
        saver: CheckpointSaver | None,
        spool: MetricSpool | None,
        monitor: NodeMonitor | None,
        checkpoint_every_steps: int | None,
        draining: Callable[[], bool],
        drain_poll_s: float,
        live: LiveFigures | None = None,
    ) -> None:
        self._train_state, self._group, self._recipe = train_state, train_state.group, train_state.recipe
        self._reader, self._validator = reader, validator
        self._steps_per_epoch = steps_per_epoch
        self._watchdog, self._saver, self._spool, self._monitor = watchdog, saver, spool, monitor
        self._checkpoint_every_steps = checkpoint_every_steps
        self._draining, self._drain_poll_s, self._live = draining, drain_poll_s, live
        self._looked_at = time.monotonic()
        self._progress = train_state.progress
        self._unsaved: list[float] = []  # Losses of the steps since the last checkpoint.
        self._failure = ""
        total = self._recipe.epochs * steps_per_epoch
        line = ProgressLine("training steps", done_before=self._progress.steps_done)
        self._show = (lambda done: line(done, total)) if self._group.rank == 0 else (lambda done: None)

    def run(self) -> None:
        """Trains to the end; all checkpoints are written when this returns.

        Raises:
            TrainingError: on all workers alike, for what a retry would not mend.
        """
        while not self._is_done():
            speed = {} if self._progress.awaits_validation else self._train_epoch()
            self._end_epoch(speed)
        if self._saver:
            self._guard(self._saver.wait)
        self._group.agree(self._failure)

    def _is_done(self) -> bool:
        return self._progress.position.epoch >= self._recipe.epochs and not self._progress.awaits_validation

    def _train_epoch(self) -> dict[str, float]:
        """One pass, or what is left of it, and its checkpoint; returns its speed."""
        began, waited_s, images = time.monotonic(), 0.0, 0
        paused_before_s = self._paused_s()
        if self._live:
            self._live.begin(paused_s=paused_before_s)
        step_began, step_seconds = began, []
        pending: tuple[StepResult, TrainingBatch] | None = None
        for batch, wait_s in self._batches():
            self._watchdog.beat(f"step {self._progress.steps_done + 1}")
            waited_s += wait_s
            images += len(batch.batch_rows)
            result = self._train_state.step(batch, self._signals())
            signals = self._settle(pending)
            pending = (result, batch)
            if self._wants_checkpoint(signals, batch):
                self._settle(pending)
                pending = None
                self._save()
            now = time.monotonic()
            step_seconds.append(now - step_began)
            step_began = now
            if self._live:
                self._live.waited(wait_s)
                self._live.show(paused_s=self._paused_s())
        self._settle(pending)
        self._save()
        if self._live:
            self._live.show(paused_s=self._paused_s(), is_last=True)
        self._group.agree(self._failure)
        seconds = time.monotonic() - began
        waits = self._group.gather([waited_s / seconds])
        speed = {
            "perf/epoch_s": seconds,
            "perf/step_s": float(np.median(step_seconds)),
            "perf/images_per_s": images / seconds,
            "perf/images_per_s_per_worker": images / seconds / self._group.size,
            "perf/data_wait_fraction": float(waits.max()),
        }
        if self._saver:
            speed["perf/checkpoint_pause_fraction"] = (self._paused_s() - paused_before_s) / seconds
        return speed

    def _paused_s(self) -> float:
        """How long training has waited for checkpoints, in all."""
        return self._saver.paused_s if self._saver else 0.0

    def _batches(self) -> Iterator[tuple[TrainingBatch, float]]:
        """The epoch's batches and how long each was waited for. Once reading fails, a batch that teaches nothing."""
        position = self._progress.position
        batches = iter(
            read_ahead(
                training_batches(
                    self._reader,
                    self._recipe,
                    position=position,
                    rank=self._group.rank,
                    num_workers=self._group.size,
                )
            )
        )
        batch = None
        for step in range(position.step, self._steps_per_epoch):
            began = time.monotonic()
            if not self._failure:
                try:
                    batch = next(batches)
                except DepthflowError as error:
                    self._failure = str(error)
            if self._failure:
                batch = self._nothing(position, step=step)
            assert batch is not None
            yield batch, time.monotonic() - began

    def _nothing(self, position: Position, *, step: int) -> TrainingBatch:
        """A black image without a valid pixel: it keeps a worker in step that has nothing to read."""
        shape = (1, self._recipe.height, self._recipe.width)
        is_last = step + 1 == self._steps_per_epoch
        return TrainingBatch(
            rgb=np.zeros((*shape, 3), np.uint8),
            log_depth=np.zeros(shape, np.float32),
            valid_mask=np.zeros(shape, bool),
            draws=draw(self._recipe, seed=position.seed, epoch=position.epoch, sample_ids=["nothing"]),
            epoch=position.epoch,
            batch_rows=np.zeros(0, np.int64),
            then=Position(seed=position.seed, epoch=position.epoch + is_last, step=0 if is_last else step + 1),
        )

    def _signals(self) -> np.ndarray:
        signals = np.zeros(len(Signal), np.float32)
        signals[Signal.FAILED] = bool(self._failure)
        if self._group.rank == 0 and time.monotonic() - self._looked_at >= self._drain_poll_s:
            signals[Signal.LOOK_FOR_DRAIN] = 1
            self._looked_at = time.monotonic()
        return signals

    def _settle(self, pending: tuple[StepResult, TrainingBatch] | None) -> np.ndarray:
        """Waits for a step that was begun, and counts it; what all workers said with it."""
        if pending is None:
            return np.zeros(len(Signal))
        result, batch = pending
        signals, loss, norm = result.signals.numpy(), float(result.loss), float(result.gradient_norm)
        if signals[Signal.FAILED] > 0:
            self._group.agree(self._failure)
        before = self._progress
        if not np.isfinite(loss):
            sample_ids = [self._reader.sample_ids[row] for row in batch.batch_rows]
            raise TrainingError(
                f"The loss became {loss} in epoch {batch.epoch + 1}, step {before.position.step + 1}, on the samples "
                f"{', '.join(sample_ids)}. Lower --learning-rate, set --clip-norm, or look at these samples.",
                details={"sample_id": sample_ids},
            )
        self._unsaved.append(loss)
        self._progress = Progress(
            position=batch.then,
            steps_done=before.steps_done + 1,
            loss_sum=before.loss_sum + loss,
            norm_sum=before.norm_sum + (norm if np.isfinite(norm) else 0.0),  # A step that loss scaling skips.
            norm_count=before.norm_count + bool(np.isfinite(norm)),
        )
        self._show(self._progress.steps_done)
        if self._live:
            self._live.step(
                epoch=batch.epoch,
                steps_done=self._progress.steps_done,
                loss=loss,
                gradient_norm=norm,
                images=len(batch.batch_rows),
            )
        return signals

    def _wants_checkpoint(self, signals: np.ndarray, batch: TrainingBatch) -> bool:
        """All workers answer alike. The end of an epoch has a checkpoint anyway."""
        drained = signals[Signal.LOOK_FOR_DRAIN] > 0 and self._draining()
        every = self._checkpoint_every_steps
        is_due = every is not None and (self._progress.steps_done + 1) % every == 0
        return (drained or is_due) and batch.then.step > 0

    def _end_epoch(self, speed: dict[str, float]) -> None:
        """Figures of the epoch whose weights are saved: what comes after it is lost at worst, not the epoch."""
        progress = self._progress
        metrics = {"train/loss": progress.loss_sum / self._steps_per_epoch, **speed}
        if progress.norm_count:
            metrics["train/gradient_norm"] = progress.norm_sum / progress.norm_count
        with self._train_state.averaged():
            sums = self._guard(lambda: self._validator.sums(beat=self._watchdog.beat))
        self._group.agree(self._failure)
        metrics |= self._validator.figures(sums)
        self._compare_weights()
        metrics |= NodeMonitor.named(self._group.gather(self._monitor.collect() if self._monitor else NOTHING))
        epoch = self._progress.position.epoch
        self._progress = replace(self._progress, metrics=metrics, loss_sum=0.0, norm_sum=0.0, norm_count=0)
        if self._saver and self._spool:
            spool = self._spool
            self._saver.annotate(self._progress, first=lambda: spool.metrics(metrics, step=epoch))
            tell(_summary(epoch, self._recipe.epochs, metrics), {"epoch": epoch, **metrics}, logger=__name__)
        self._watchdog.beat("the first step of an epoch")

    def _compare_weights(self) -> None:
        """All workers must hold the same weights and optimizer, to the last bit."""
        if len(set(self._group.gather_texts(self._train_state.checksum()))) > 1:
            raise TrainingError(
                "The workers' weights have drifted apart, which the synchronised step rules out: their machines or "
                "libraries differ. Run pipelines/train.py on nodes of one kind."
            )

    def _save(self) -> None:
        """Worker 0 logs the losses up to here, then writes a checkpoint.

        A kill in between makes steps be logged again, of which the spool keeps the first: none is lost, none is twice.
        """
        losses, self._unsaved = self._unsaved, []
        saver, spool, progress = self._saver, self._spool, self._progress
        if saver is None or spool is None:
            return
        first_step = progress.steps_done - len(losses) + 1

        def log() -> None:
            spool.series("train/step_loss", losses, first_step=first_step)

        self._guard(lambda: saver.save(self._train_state.snapshot, progress, first=log))

    def _guard(self, act: Callable[[], T]) -> T | None:
        """Keeps a failure until all workers can be told of it."""
        try:
            return act()
        except DepthflowError as error:
            self._failure = self._failure or str(error)
            return None


def _summary(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """Such as: epoch 3/6: train/loss 0.2134, val/abs_rel 0.3021, 45.1 images/s."""
    parts = [f"{name} {metrics[name]:.4f}" for name in ("train/loss", BEST_METRIC) if name in metrics]
    if "perf/images_per_s" in metrics:
        parts.append(f"{metrics['perf/images_per_s']:.1f} images/s")
    return f"epoch {epoch}/{epochs}: {', '.join(parts)}"
