"""Progress of long work, on stderr."""

import itertools
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from depthflow.observability.logs import is_json, tell

TELL_EVERY_S = 10


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says every `TELL_EVERY_S` what has been waited for, and for how long, until the block ends."""
    ended = threading.Event()

    def tell_time() -> None:
        for count in itertools.count(1):
            if ended.wait(TELL_EVERY_S):
                return
            tell(f"{what}: {count * TELL_EVERY_S} s so far", logger=__name__)

    teller = threading.Thread(target=tell_time, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


class ProgressLine:
    """Progress on stderr: one live line on a terminal, a line every few seconds in a log file.

    Args:
        label: what is counted.
        unit: bytes are shown in MB or GB, with the rate since the first call: what an earlier run brought is no merit
            of this one.
        every_s: seconds between two lines in a log file.
        done_before: items that an earlier run did: no merit of this one either.
    """

    def __init__(
        self, label: str, *, unit: Literal["items", "bytes"] = "items", every_s: float = 5.0, done_before: int = 0
    ) -> None:
        self._label = label
        self._unit = unit
        self._live = sys.stderr.isatty() and not is_json()
        self._every_s = 0.2 if self._live else every_s
        self._since: tuple[float, int] | None = None if unit == "bytes" else (time.monotonic(), done_before)
        self._last = -math.inf

    def __call__(self, done: int, total: int) -> None:
        """Says that `done` of `total` are done."""
        now = time.monotonic()
        self._since = self._since or (now, done)
        if now - self._last < self._every_s and done < total:
            return
        self._last = now
        since_s, since_done = self._since
        rate = (done - since_done) / max(now - since_s, 1e-6)
        text = _of_bytes(done, total, rate) if self._unit == "bytes" else _of_items(done, total, rate)
        line = f"{self._label}: {text}"
        if self._live:
            print(f"\r\x1b[K{line}", end="\n" if done >= total else "", file=sys.stderr, flush=True)
        else:
            tell(line, {"stage": self._label, "done": done, "total": total, "per_s": round(rate, 3)}, logger=__name__)


def _of_items(done: int, total: int, rate: float) -> str:
    left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate > 0 else ""
    return f"{done}/{total}, {rate:.1f}/s{left}"


def _of_bytes(done: int, total: int, rate: float) -> str:
    """Such as: 1.2/2.6 GB, 43.1 MB/s, 32 s left."""
    scale, unit = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    left = f", {_duration(round((total - done) / rate))} left" if done < total and rate > 0 else ""
    return f"{done / scale:.1f}/{total / scale:.1f} {unit}, {rate / 1e6:.1f} MB/s{left}"


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
