"""Errors that a user can cause and fix. Everything else is a defect and keeps its traceback."""

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FREE_SPACE = "Free space, or raise the quota, and run the same command again"
_FULL_DISK_WORDS = re.compile(
    "|".join([*map(os.strerror, DISK_IS_FULL), "database or disk is full", r"\d+ requested and \d+ written"])
)
"""What is left of such an error from SQLite, from NumPy, and from libraries that hand over its text alone."""


class DepthflowError(Exception):
    """A message for the user: what was wrong, what was received, what to do.

    Args:
        message: Text for people, a line.
        lines: Further lines, without control characters.
        details: Values for programs, added to the command's JSON result.
        exit_code: Exit code of the command.
    """

    def __init__(
        self,
        message: str = "",
        *,
        lines: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
        exit_code: int = 1,
    ) -> None:
        super().__init__(message)
        self.lines = (message, *lines)  # Ray Data appends its advice on retries to `args`.
        self.details = dict(details or {})
        self.exit_code = exit_code

    def __str__(self) -> str:
        return "\n".join(self.lines)


class SourceError(DepthflowError):
    """The raw data cannot be used: missing, empty, or not in DIODE's layout."""


class StoreError(DepthflowError):
    """A sample store cannot be read or written."""


class LockLostError(StoreError):
    """Another process has taken over a folder that this one was writing."""


class RegistryError(DepthflowError):
    """A run, model or version that MLflow does not have, or does not have as asked."""


class TrainingError(DepthflowError):
    """Training cannot start, or ended in a way that a retry would not fix."""


class WeightsError(TrainingError):
    """Pre-trained weights that cannot be read, or are not those of the network."""


class PlacementError(DepthflowError):
    """Work that never fits on this machine or cluster."""


class ClusterError(DepthflowError):
    """A cluster that cannot be reached, rejects a job or fails its checks; a job that failed there."""


class ProtocolError(DepthflowError):
    """An evaluation that the protocol does not allow."""


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raises a DepthflowError itself instead of the error that Ray wraps around it.

    An error raised in an actor's constructor is lost: Ray hands over its text alone.
    """
    try:
        yield
    except Exception as error:
        found = _inside(error)
        if found is None:
            raise
        raise found from None


@contextmanager
def full_disk_reported() -> Iterator[None]:
    """Turns an error that a full disk caused into a message for the user; any other error passes unchanged."""
    try:
        yield
    except DepthflowError:
        raise
    except Exception as error:
        for cause in _causes(error):
            found = _FULL_DISK_WORDS.search(str(cause))
            if found:
                line = next(line for line in str(cause).splitlines() if found[0] in line)
                which = "" if "/" in line else " It may be that of temporary files (TMPDIR)."
                raise DepthflowError(f"A disk is full: {line.strip()}.{which} {FREE_SPACE}.") from error
        raise


def _inside(error: BaseException) -> DepthflowError | None:
    """Returns the first DepthflowError among an error's causes that is no copy by Ray of another one."""
    users = (cause for cause in _causes(error) if isinstance(cause, DepthflowError))
    return next((cause for cause in users if not isinstance(getattr(cause, "cause", None), DepthflowError)), None)


def _causes(error: object) -> Iterator[BaseException]:
    """Yields an error and, depth first, what caused it."""
    if isinstance(error, BaseException):
        yield error
        workers = getattr(error, "worker_failures", None) or {}  # Errors of Ray Train, by rank.
        # Ray's task errors pass for the error that they wrap, which is their `cause`.
        for cause in (getattr(error, "cause", None), error.__cause__, *workers.values()):
            yield from _causes(cause)
