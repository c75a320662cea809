"""Errors that a user can cause and fix. Everything else is a defect and keeps its traceback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class DepthflowError(Exception):
    """A message for the user: what was wrong, what was received, what to do.

    Args:
        message: Text for people.
        details: Values for programs, added to the command's JSON result.
        exit_code: Exit code of the command.
    """

    def __init__(self, message: str = "", *, details: Mapping[str, Any] | None = None, exit_code: int = 1) -> None:
        super().__init__(message)
        self._message = message  # Ray Data appends its advice on retries to `args`.
        self.details = dict(details or {})
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self._message


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


def _inside(error: BaseException | None) -> DepthflowError | None:
    cause = getattr(error, "cause", None)  # Of Ray's task errors, which pass for the error that they wrap.
    if isinstance(error, DepthflowError) and not isinstance(cause, DepthflowError):
        return error
    workers = getattr(error, "worker_failures", None) or {}  # Errors of Ray Train, by rank.
    causes = [cause, getattr(error, "__cause__", None), *workers.values()]
    return next((found for cause in causes if isinstance(cause, BaseException) and (found := _inside(cause))), None)
