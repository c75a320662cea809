"""Each worker watches itself: one that hangs in a collective still answers Ray's health check, but trains no more."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from depthflow.training.observers import Observer

EXIT_CODE = 75
"""Of a worker that ended itself: EX_TEMPFAIL, which a retry may mend."""


def end_process(message: str) -> None:
    """Prints the message and where every thread stands, and ends the process at once: a hung thread waits for none."""
    print(message, file=sys.stderr)
    faulthandler.dump_traceback(file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_CODE)


class Watchdog(Observer):
    """Ends this process if nothing is heard for too long; Ray Train then starts all workers anew.

    Args:
        timeout_s: the longest silence allowed.
        on_silence: what is done about it.
    """

    def __init__(self, timeout_s: float, *, on_silence: Callable[[str], None] = end_process) -> None:
        self._timeout_s = timeout_s
        self._on_silence = on_silence
        self._doing, self._since = "starting", time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, doing: str) -> None:
        """Says that this worker is alive, and what it turns to."""
        self._doing, self._since = doing, time.monotonic()

    def stop(self) -> None:
        """Watches no more."""
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
