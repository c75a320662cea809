"""Which error of a chain is the user's. tests/integration/test_errors.py raises them in Ray's own processes."""

import pytest

from depthflow.errors import StoreError, TrainingError, unwrapped


def test_the_first_of_rays_workers_that_failed_with_a_users_error_is_reported():
    failed = RuntimeError("worker errors")
    failed.worker_failures = {0: RuntimeError("collective"), 1: StoreError("Broken shard.")}
    with pytest.raises(StoreError, match=r"^Broken shard\.$"), unwrapped():
        raise failed


def test_a_users_error_that_explains_another_one_is_raised_itself():
    with pytest.raises(TrainingError, match=r"^Training failed\.$"), unwrapped():
        raise TrainingError("Training failed.") from StoreError("Broken shard.")


def test_the_cause_of_another_error_is_raised():
    with pytest.raises(StoreError, match=r"^Broken shard\.$"), unwrapped():
        raise RuntimeError("the actor died") from StoreError("Broken shard.")


def test_a_defect_in_the_handling_of_a_users_error_is_not_hidden():
    def defect():
        try:
            raise StoreError("Broken shard.")
        except StoreError:
            return 1 / 0

    with pytest.raises(ZeroDivisionError), unwrapped():
        defect()
