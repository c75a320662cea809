"""The loop that every worker runs: steps, epochs, validation, and the signals that workers exchange meanwhile.

Each worker adds its signals to the step's own all-reduce, and all workers see the sum one step later, at the same
point. So no worker waits in a collective that another one never joins.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import IntEnum

import numpy as np

from depthflow.errors import DepthflowError, TrainingError
from depthflow.models.augmentation import draw
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.share import Position
from depthflow.training.checkpoint import TrainingProgress
from depthflow.training.config import TrainJob
from depthflow.training.feed import TrainingBatch, no_views, read_ahead, training_batches
from depthflow.training.observers import Observer, StepReport, rates
from depthflow.training.scale import METRES_PER_UNIT, ScaleMeter
from depthflow.training.step import StepResult
from depthflow.training.train_state import TrainState
from depthflow.training.validation import Validator


class Signal(IntEnum):
    """Index of a signal in what a worker sends to all others with a step."""

    FAILED = 0
    """The worker cannot continue; its message follows."""
    CHECK_DRAIN = 1
    """It is time to check whether a node is being drained."""


class TrainingLoop:
    """One worker's run, from the position of its train state to the last epoch.

    Args:
        job: Its `checkpoint_every_steps` and `drain_poll_s` apply.
        reader: Reader of the training split.
        validator: Validator of the validation split.
        scale_meter: Measures the unit of the network's depth after each epoch; None if it is metres or stays unknown.
        draining: Returns whether a node is being drained; all workers call it after the same step.
    """

    def __init__(
        self,
        train_state: TrainState,
        job: TrainJob,
        *,
        reader: SplitReader,
        validator: Validator,
        observers: Sequence[Observer],
        draining: Callable[[], bool],
        scale_meter: ScaleMeter | None = None,
    ) -> None:
        self._train_state, self._group, self._recipe = train_state, train_state.group, train_state.recipe
        self._steps_per_epoch = train_state.steps_per_epoch
        self._progress = train_state.progress
        self._job, self._reader, self._validator, self._scale_meter = job, reader, validator, scale_meter
        self._observers, self._draining = observers, draining
        self._drain_checked_at = self._reported_at = time.monotonic()
        self._loss = self._gradient_norm = math.nan
        self._unsaved: list[float] = []  # Losses of the steps since the last checkpoint.
        self._failure = ""

    def run(self) -> None:
        """Trains to the end. All checkpoints are written when this returns.

        Raises:
            TrainingError: on all workers alike, for a failure that a retry would not fix.
        """
        while not self._is_done():
            speed = {} if self._progress.awaits_validation else self._train_epoch()
            self._end_epoch(speed)
        self._notify(lambda observer: observer.on_end())
        self._group.agree(self._failure)

    def _is_done(self) -> bool:
        return self._progress.position.epoch >= self._recipe.epochs and not self._progress.awaits_validation

    def _train_epoch(self) -> dict[str, float]:
        """Trains what is left of an epoch and saves a checkpoint; returns the speed metrics."""
        epoch, reports = self._progress.position.epoch, []
        pending: tuple[StepResult, TrainingBatch] | None = None
        self._reported_at = time.monotonic()
        for batch, wait_s in self._batches():
            self._beat(f"step {self._progress.steps_done + 1}")
            result = self._train_state.step(batch, self._signals())
            signals = self._settle(pending)
            pending, pause_s = (result, batch), 0.0
            if self._wants_checkpoint(signals, batch):
                self._settle(pending)
                pending, pause_s = None, self._save()
            reports.append(self._report(epoch, images=len(batch.batch_rows), wait_s=wait_s, pause_s=pause_s))
        self._settle(pending)
        pause_s = self._save()
        self._group.agree(self._failure)
        reports.append(self._report(epoch, pause_s=pause_s, ends_epoch=True))
        return self._speed(reports)

    def _report(
        self, epoch: int, *, pause_s: float, images: int = 0, wait_s: float = 0.0, ends_epoch: bool = False
    ) -> StepReport:
        """Reports to the observers what was done since the last report."""
        began, self._reported_at = self._reported_at, time.monotonic()
        report = StepReport(
            epoch=epoch,
            steps_done=self._progress.steps_done,
            loss=self._loss,
            gradient_norm=self._gradient_norm,
            images=images,
            seconds=self._reported_at - began,
            wait_s=wait_s,
            pause_s=pause_s,
            ends_epoch=ends_epoch,
        )
        self._notify(lambda observer: observer.on_step(report))
        return report

    def _speed(self, reports: Sequence[StepReport]) -> dict[str, float]:
        """Returns perf/NAME of an epoch, with the data wait of the worker that waited longest."""
        epoch_rates = rates(reports)
        waits = self._group.gather([epoch_rates["data_wait_fraction"]])
        return {
            "perf/epoch_s": sum(report.seconds for report in reports),
            "perf/step_s": float(np.median([report.seconds for report in reports if not report.ends_epoch])),
            "perf/images_per_s": epoch_rates["images_per_s"],
            "perf/images_per_s_per_worker": epoch_rates["images_per_s"] / self._group.size,
            "perf/data_wait_fraction": float(waits.max()),
            "perf/checkpoint_pause_fraction": epoch_rates["checkpoint_pause_fraction"],
        }

    def _batches(self) -> Iterator[tuple[TrainingBatch, float]]:
        """Yields the epoch's batches and how long each was waited for. Once reading fails, they are empty."""
        position, group = self._progress.position, self._group
        batches = read_ahead(
            training_batches(self._reader, self._recipe, position=position, rank=group.rank, num_workers=group.size)
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
                batch = self._empty_batch(position, step=step)
            assert batch is not None
            yield batch, time.monotonic() - began

    def _empty_batch(self, position: Position, *, step: int) -> TrainingBatch:
        """Returns a black image without a valid pixel: it keeps a worker in step that has nothing to read."""
        shape = (1, *self._reader.image_size)
        is_last = step + 1 == self._steps_per_epoch
        return TrainingBatch(
            rgb=np.zeros((*shape, 3), np.uint8),
            log_depth=np.zeros(shape, np.float32),
            valid_mask=np.zeros(shape, bool),
            draws=draw(self._recipe, seed=position.seed, epoch=position.epoch, sample_ids=["nothing"]),
            views=no_views(self._recipe, self._recipe.size),
            epoch=position.epoch,
            batch_rows=np.zeros(0, np.int64),
            next_position=Position(seed=position.seed, epoch=position.epoch + is_last, step=0 if is_last else step + 1),
        )

    def _signals(self) -> np.ndarray:
        signals = np.zeros(len(Signal), np.float32)
        signals[Signal.FAILED] = bool(self._failure)
        if self._group.rank == 0 and time.monotonic() - self._drain_checked_at >= self._job.drain_poll_s:
            signals[Signal.CHECK_DRAIN] = 1
            self._drain_checked_at = time.monotonic()
        return signals

    def _settle(self, pending: tuple[StepResult, TrainingBatch] | None) -> np.ndarray:
        """Waits for a step that is under way and counts it; returns the sum of all workers' signals."""
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
        self._loss, self._gradient_norm = loss, norm
        self._progress = TrainingProgress(
            position=batch.next_position,
            steps_done=before.steps_done + 1,
            loss_sum=before.loss_sum + loss,
            norm_sum=before.norm_sum + (norm if np.isfinite(norm) else 0.0),  # Loss scaling skips such a step.
            norm_count=before.norm_count + bool(np.isfinite(norm)),
        )
        return signals

    def _wants_checkpoint(self, signals: np.ndarray, batch: TrainingBatch) -> bool:
        """Whether to save in the middle of an epoch; the same on all workers. The end of an epoch is saved anyway."""
        drained = signals[Signal.CHECK_DRAIN] > 0 and self._draining()
        every = self._job.checkpoint_every_steps
        is_due = every is not None and (self._progress.steps_done + 1) % every == 0
        return (drained or is_due) and batch.next_position.step > 0

    def _save(self) -> float:
        """Has a checkpoint saved; returns for how many seconds training stood still."""
        began = time.monotonic()
        losses, self._unsaved = self._unsaved, []
        self._notify(lambda observer: observer.on_checkpoint(self._train_state, self._progress, losses))
        return time.monotonic() - began

    def _end_epoch(self, speed: dict[str, float]) -> None:
        """Validates an epoch whose weights are saved, so a failure loses its metrics at worst."""
        progress = self._progress
        metrics = {"train/loss": progress.loss_sum / self._steps_per_epoch, **speed}
        if progress.norm_count:
            metrics["train/gradient_norm"] = progress.norm_sum / progress.norm_count
        with self._train_state.averaged():
            if (meter := self._scale_meter) is not None:
                logs = self._on_all(lambda: meter.logs(beat=self._beat))
                metrics[METRES_PER_UNIT] = self._validator.metres_per_unit = meter.metres_per_unit(logs)
            sums = self._on_all(lambda: self._validator.sums(beat=self._beat))
        metrics |= self._validator.metrics(sums)
        self._compare_weights()
        for observer in self._observers:
            metrics |= observer.metrics()
        self._progress = replace(self._progress, metrics=metrics, loss_sum=0.0, norm_sum=0.0, norm_count=0)
        self._notify(lambda observer: observer.on_epoch(self._progress))
        self._beat("the first step of an epoch")

    def _on_all(self, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns what this worker measures, once all workers have; ends the run on all of them if one failed."""
        found = None
        try:
            found = measure()
        except DepthflowError as error:
            self._failure = self._failure or str(error)
        self._group.agree(self._failure)
        assert found is not None
        return found

    def _compare_weights(self) -> None:
        """Raises TrainingError unless all workers hold the same weights and optimizer state, to the last bit."""
        if len(set(self._group.gather_texts(self._train_state.checksum()))) > 1:
            raise TrainingError(
                "The workers' weights have drifted apart, which the synchronised step rules out: their machines or "
                "libraries differ. Run pipelines/train.py on nodes of one kind."
            )

    def _beat(self, doing: str) -> None:
        self._notify(lambda observer: observer.beat(doing))

    def _notify(self, event: Callable[[Observer], None]) -> None:
        """Calls every observer. A failure is kept until all workers agree to end the run."""
        for observer in self._observers:
            try:
                event(observer)
            except DepthflowError as error:
                self._failure = self._failure or str(error)
