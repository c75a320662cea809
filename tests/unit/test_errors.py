"""A user's error is unwrapped from the errors that Ray raises."""

import pytest

from depthflow.errors import StoreError, unwrapped


class Wrapped(Exception):
    """Holds the original error, as Ray's task errors do."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a long traceback")
        self.cause = cause


class Workers(Exception):
    """Holds the error of each worker, as Ray Train's errors do."""

    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__("worker errors")
        self.worker_failures = failures


@pytest.mark.parametrize(
    "wrapped",
    [
        StoreError("broken shard"),
        Wrapped(Wrapped(StoreError("broken shard"))),
        Workers({0: RuntimeError("collective"), 1: Wrapped(StoreError("broken shard"))}),
    ],
)
def test_a_users_error_is_unwrapped(wrapped):
    with pytest.raises(StoreError, match=r"^broken shard$"), unwrapped():
        raise wrapped


def test_a_chained_error_is_unwrapped():
    died = RuntimeError("the actor died")
    died.__cause__ = StoreError("broken shard")
    with pytest.raises(StoreError, match=r"^broken shard$"), unwrapped():
        raise died


def test_a_defect_is_raised_unchanged():
    with pytest.raises(ZeroDivisionError), unwrapped():
        raise ZeroDivisionError
