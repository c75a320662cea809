"""What a job is at, in numbers: gauges that Ray exports to Prometheus, each as ray_ and its name here.

A gauge that cannot be set is not worth a job: nothing here raises, and without a running Ray nothing happens.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple


class GaugeKind(NamedTuple):
    """A row of the table of gauges.

    Attributes:
        description: of what is measured, with its unit.
        tags: what tells two series of the gauge apart.
    """

    description: str
    tags: tuple[str, ...]


_OF_A_STAGE = ("run", "stage")
_OF_A_RUN = ("run",)

GAUGES: Mapping[str, GaugeKind] = {
    "depthflow_samples_done": GaugeKind("Samples or images done, rejects included.", _OF_A_STAGE),
    "depthflow_samples_total": GaugeKind("Samples or images that the stage has to do.", _OF_A_STAGE),
    "depthflow_samples_per_s": GaugeKind("Samples or images done a second, lately.", _OF_A_STAGE),
    "depthflow_rejects": GaugeKind("Inputs refused by the stage so far.", _OF_A_STAGE),
    "depthflow_train_epoch": GaugeKind("Epoch that is being trained, from 1.", _OF_A_RUN),
    "depthflow_train_step": GaugeKind("Optimizer steps done in the run.", _OF_A_RUN),
    "depthflow_train_loss": GaugeKind("Loss of the latest step.", _OF_A_RUN),
    "depthflow_train_gradient_norm": GaugeKind(
        "Global norm of the latest step's gradient over all workers, before clipping, without the loss scale.",
        _OF_A_RUN,
    ),
    "depthflow_train_images_per_s": GaugeKind("Images trained on a second by all workers, lately.", _OF_A_RUN),
    "depthflow_train_step_seconds": GaugeKind("Seconds a step, lately, pauses included.", _OF_A_RUN),
    "depthflow_train_data_wait_fraction": GaugeKind("Share of the time that worker 0 waited for data.", _OF_A_RUN),
    "depthflow_train_checkpoint_pause_fraction": GaugeKind(
        "Share of the time that training stood still for checkpoints.", _OF_A_RUN
    ),
}
"""Name to what it is. `run` is the MLflow run of a training, and Ray's job elsewhere; `stage` is staging, shards,
evaluation or prediction."""

SET_EVERY_S = 1.0


class Gauges:
    """Sets gauges under the same tags. Made anew by each process; the gauges are made when they are first set.

    Args:
        tags: of all that is set here, such as run and stage.
        every_s: seconds between two settings by `is_due`.
    """

    def __init__(self, tags: Mapping[str, str], *, every_s: float = SET_EVERY_S) -> None:
        self._tags = dict(tags)
        self._every_s = every_s
        self._next = -math.inf
        self._made: dict[str, Any] = {}

    def is_due(self) -> bool:
        """Whether the time has come to set them again; True at most once in `every_s`."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True

    def set(self, values: Mapping[str, float]) -> None:
        """Sets gauges by name.

        Raises:
            KeyError: for a name that is not in the table, a defect of the caller.
        """
        for name, value in values.items():
            kind = GAUGES[name]
            try:
                self._gauge(name, kind).set(float(value), tags={tag: self._tags.get(tag, "") for tag in kind.tags})
            except Exception:  # Whatever Ray has against it: the job is worth more than its gauges.
                return

    def _gauge(self, name: str, kind: GaugeKind) -> Any:
        if name not in self._made:
            from ray.util.metrics import Gauge  # Where nothing is set, nothing is loaded.

            self._made[name] = Gauge(name, kind.description, tag_keys=kind.tags)
        return self._made[name]


class StageGauges:
    """Samples done, their rate and rejects of one stage of work that the driver watches.

    Args:
        stage: such as shards.
        total: what it has to do.
        done_before: what an earlier run did: no merit of this one.
        every_s: seconds between two settings.
    """

    def __init__(self, stage: str, *, total: int, done_before: int = 0, every_s: float = SET_EVERY_S) -> None:
        self._gauges = Gauges({"run": ray_job(), "stage": stage}, every_s=every_s)
        self._total = total
        self._rate = Rate(done_before)

    def __call__(self, done: int, rejects: int) -> None:
        """Says how far the stage is. What comes too soon is passed over, but not the last."""
        if self._gauges.is_due() or done >= self._total:
            self._gauges.set(
                {
                    "depthflow_samples_done": done,
                    "depthflow_samples_total": self._total,
                    "depthflow_samples_per_s": self._rate.at(done),
                    "depthflow_rejects": rejects,
                }
            )


class Rate:
    """What is done a second, between two looks.

    Args:
        done: what is done already.
    """

    def __init__(self, done: float = 0) -> None:
        self._done, self._at = done, time.monotonic()

    def at(self, done: float) -> float:
        """The rate since the look before, never below 0: a lost worker's work is begun anew."""
        now = time.monotonic()
        rate = max(0.0, (done - self._done) / max(now - self._at, 1e-6))
        self._done, self._at = done, now
        return rate


def ray_job() -> str:
    """The id of this process's Ray job; empty where no Ray runs."""
    try:
        import ray

        return ray.get_runtime_context().get_job_id() if ray.is_initialized() else ""
    except Exception:  # As above.
        return ""
