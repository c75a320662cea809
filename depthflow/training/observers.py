"""What watches a training loop: an interface of a few methods, and the observers of worker 0."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from depthflow.observability.gauges import Gauges
from depthflow.observability.logs import tell
from depthflow.observability.progress import ProgressLine
from depthflow.training.config import BEST_METRICS

if TYPE_CHECKING:  # These modules import TensorFlow, which takes seconds.
    from depthflow.registry.spool import MetricSpool
    from depthflow.training.checkpoint import TrainingProgress
    from depthflow.training.saver import CheckpointSaver
    from depthflow.training.train_state import TrainState


class StepReport(NamedTuple):
    """What the loop did since its last report, which is usually one step.

    Attributes:
        epoch: Epoch being trained, from 0.
        steps_done: Number of finished optimizer steps of the run.
        loss: Loss of the latest finished step; NaN before the first one of this process.
        gradient_norm: Gradient norm of that step.
        images: Number of images that all workers trained on.
        seconds: Wall time.
        wait_s: Part of the time that this worker waited for data.
        pause_s: Part of the time that training stood still for a checkpoint.
        ends_epoch: Whether this is the last report of an epoch: it has no step, but the time to finish and save.
    """

    epoch: int
    steps_done: int
    loss: float
    gradient_norm: float
    images: int
    seconds: float
    wait_s: float
    pause_s: float
    ends_epoch: bool


def rates(reports: Sequence[StepReport]) -> dict[str, float]:
    """Returns images_per_s, data_wait_fraction and checkpoint_pause_fraction over some reports."""
    seconds = max(sum(report.seconds for report in reports), 1e-6)
    return {
        "images_per_s": sum(report.images for report in reports) / seconds,
        "data_wait_fraction": sum(report.wait_s for report in reports) / seconds,
        "checkpoint_pause_fraction": sum(report.pause_s for report in reports) / seconds,
    }


class Observer:
    """Watches a training loop on one worker. Methods that a subclass does not override do nothing.

    A DepthflowError that a method raises ends the run on all workers.
    """

    def beat(self, doing: str) -> None:
        """Called before the worker turns to something that could hang, such as a step."""

    def on_step(self, report: StepReport) -> None:
        """Called after every step, and once after an epoch is trained and saved."""

    def on_checkpoint(self, train_state: "TrainState", progress: "TrainingProgress", losses: Sequence[float]) -> None:
        """Called when a checkpoint is due, with the losses of the steps since the last one."""

    def metrics(self) -> Mapping[str, float]:
        """Returns metrics to log with an epoch. All workers call it at the same point, so it may communicate."""
        return {}

    def on_epoch(self, progress: "TrainingProgress") -> None:
        """Called after an epoch is validated; `progress.metrics` has its metrics."""

    def on_end(self) -> None:
        """Called after the last epoch."""


class RunRecorder(Observer):
    """Saves checkpoints and logs metrics, so that after a kill no step is missing or logged twice.

    Losses are logged before the checkpoint that follows them counts. A kill in between repeats steps, and the spool
    keeps the first value of each.
    """

    def __init__(self, saver: "CheckpointSaver", spool: "MetricSpool") -> None:
        self._saver, self._spool = saver, spool

    def on_checkpoint(self, train_state: "TrainState", progress: "TrainingProgress", losses: Sequence[float]) -> None:
        """Logs the losses, then writes the checkpoint."""
        first_step = progress.steps_done - len(losses) + 1
        self._saver.save(
            train_state.snapshot,
            progress,
            first=lambda: self._spool.series("train/step_loss", losses, first_step=first_step),
        )

    def on_epoch(self, progress: "TrainingProgress") -> None:
        """Logs the metrics, then adds them to the epoch's checkpoint."""
        epoch = progress.position.epoch
        self._saver.annotate(progress, first=lambda: self._spool.metrics(progress.metrics, step=epoch))

    def on_end(self) -> None:
        """Waits until everything is written."""
        self._saver.wait()


class ProgressDisplay(Observer):
    """Shows on stderr how many steps are done, and a summary of every epoch."""

    def __init__(self, train_state: "TrainState") -> None:
        self._epochs = train_state.recipe.epochs
        self._steps = self._epochs * train_state.steps_per_epoch
        self._show = ProgressLine("training steps", done_before=train_state.progress.steps_done)

    def on_step(self, report: StepReport) -> None:
        """Updates the progress line."""
        if not math.isnan(report.loss):
            self._show(report.steps_done, self._steps)

    def on_epoch(self, progress: "TrainingProgress") -> None:
        """Prints a line like: epoch 3/6: train/loss 0.2134, val/abs_rel 0.3021, 45.1 images/s."""
        epoch, metrics = progress.position.epoch, progress.metrics
        parts = [f"{name} {metrics[name]:.4f}" for name in ("train/loss", *BEST_METRICS) if name in metrics]
        if "perf/images_per_s" in metrics:
            parts.append(f"{metrics['perf/images_per_s']:.1f} images/s")
        tell(f"epoch {epoch}/{self._epochs}: {', '.join(parts)}", {"epoch": epoch, **metrics}, logger=__name__)


class TrainingGauges(Observer):
    """Sets Ray's gauges about once a second and at the end of every epoch, with rates since they were last set."""

    def __init__(self, run_id: str) -> None:
        self._gauges = Gauges({"run": run_id})
        self._reports: list[StepReport] = []

    def on_step(self, report: StepReport) -> None:
        """Sets the gauges if it is time."""
        self._reports.append(report)
        if math.isnan(report.loss) or not (self._gauges.is_due() or report.ends_epoch):
            return
        steps = sum(not each.ends_epoch for each in self._reports)
        values = {
            "epoch": report.epoch + 1,
            "step": report.steps_done,
            "loss": report.loss,
            "gradient_norm": report.gradient_norm,
            "step_seconds": sum(each.seconds for each in self._reports) / max(1, steps),
            **rates(self._reports),
        }
        self._gauges.set({f"depthflow_train_{name}": value for name, value in values.items()})
        self._reports = []
