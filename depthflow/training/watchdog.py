"""The watchdog of a worker. A worker that hangs in a collective still answers Ray's health check."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from depthflow.training.observers import Observer

EXIT_CODE = 75
"""Exit code of a worker that the watchdog ended: EX_TEMPFAIL, a failure that a retry may fix."""


def end_process(message: str) -> None:
    """Prints the message and every thread's stack, and exits at once without waiting for hung threads."""
    print(message, file=sys.stderr)
    faulthandler.dump_traceback(file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_CODE)


class Watchdog(Observer):
    """Ends this process if it hears no beat for too long. Ray Train then restarts all workers.

    Args:
        timeout_s: Longest time allowed between two beats.
        on_silence: Called with an error message when that time has passed.
    """

    def __init__(self, timeout_s: float, *, on_silence: Callable[[str], None] = end_process) -> None:
        self._timeout_s = timeout_s
        self._on_silence = on_silence
        self._doing, self._since = "starting", time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, doing: str) -> None:
        """Restarts the clock for what the worker does next."""
        self._doing, self._since = doing, time.monotonic()

    def stop(self) -> None:
        """Stops watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._timeout_s / 4)):
            silent_s = time.monotonic() - self._since
            if silent_s > self._timeout_s:
                self._on_silence(
                    f"error: {self._doing} has taken {silent_s:.0f} s, longer than --step-timeout-s "
                    f"{self._timeout_s:g}: this worker ends itself, and training goes on from the latest checkpoint."
                )
                return
