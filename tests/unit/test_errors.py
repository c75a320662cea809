"""A user's error comes out of whatever Ray wraps around it."""

import pytest

from depthflow.errors import StoreError, unwrapped


class Wrapped(Exception):
    """As Ray's task errors do, it holds what was raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a long traceback")
        self.cause = cause


class Workers(Exception):
    """As Ray Train's errors do, it holds each worker's."""

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
def test_a_users_error_comes_out(wrapped):
    with pytest.raises(StoreError, match=r"^broken shard$"), unwrapped():
        raise wrapped


def test_a_chained_one_too():
    died = RuntimeError("the actor died")
    died.__cause__ = StoreError("broken shard")
    with pytest.raises(StoreError, match=r"^broken shard$"), unwrapped():
        raise died


def test_a_defect_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), unwrapped():
        raise ZeroDivisionError
