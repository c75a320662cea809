"""What training is at between two epochs, for Ray's metrics."""

import time

from depthflow.observability.gauges import SET_EVERY_S, Gauges


class LiveFigures:
    """On worker 0: counts every step, and sets the gauges once a second and at the end of an epoch.

    Args:
        run_id: MLflow's.
        every_s: seconds between two settings.
    """

    def __init__(self, run_id: str, *, every_s: float = SET_EVERY_S) -> None:
        self._gauges = Gauges({"run": run_id}, every_s=every_s)
        self._latest: dict[str, float] = {}
        self.begin(paused_s=0.0)

    def begin(self, *, paused_s: float) -> None:
        """Rates count from now: after a validation, say.

        Args:
            paused_s: how long training has waited for checkpoints, in all.
        """
        self._since, self._paused_before_s = time.monotonic(), paused_s
        self._steps, self._images, self._waited_s = 0, 0, 0.0

    def step(self, *, epoch: int, steps_done: int, loss: float, gradient_norm: float, images: int) -> None:
        """A step is done.

        Args:
            epoch: from 0.
            images: of all workers.
        """
        self._steps += 1
        self._images += images
        self._latest = {
            "depthflow_train_epoch": epoch + 1,
            "depthflow_train_step": steps_done,
            "depthflow_train_loss": loss,
            "depthflow_train_gradient_norm": gradient_norm,
        }

    def waited(self, seconds: float) -> None:
        """For data."""
        self._waited_s += seconds

    def show(self, *, paused_s: float, is_last: bool = False) -> None:
        """Sets the gauges if it is time to, or if it is the epoch's last time."""
        if self._steps and (self._gauges.is_due() or is_last):
            seconds = max(time.monotonic() - self._since, 1e-6)
            self._gauges.set(
                {
                    **self._latest,
                    "depthflow_train_images_per_s": self._images / seconds,
                    "depthflow_train_step_seconds": seconds / self._steps,
                    "depthflow_train_data_wait_fraction": self._waited_s / seconds,
                    "depthflow_train_checkpoint_pause_fraction": (paused_s - self._paused_before_s) / seconds,
                }
            )
            self.begin(paused_s=paused_s)
