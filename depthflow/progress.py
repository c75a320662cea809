"""Progress of long work, on stderr."""

import math
import sys
import time


class ProgressLine:
    """Progress on stderr: one live line on a terminal, a line every few seconds in a log file.

    Args:
        label: what is counted.
        every_s: seconds between two lines in a log file.
    """

    def __init__(self, label: str, *, every_s: float = 5.0) -> None:
        self._label = label
        self._live = sys.stderr.isatty()
        self._every_s = 0.2 if self._live else every_s
        self._started = time.monotonic()
        self._last = -math.inf

    def __call__(self, done: int, total: int) -> None:
        """Says that `done` of `total` are done."""
        now = time.monotonic()
        if now - self._last < self._every_s and done < total:
            return
        self._last = now
        rate = done / max(now - self._started, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate > 0 else ""
        line = f"{self._label}: {done}/{total}, {rate:.1f}/s{left}"
        if self._live:
            print(f"\r\x1b[K{line}", end="\n" if done >= total else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
