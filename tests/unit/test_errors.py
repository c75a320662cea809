"""Which error of a chain is the user's. tests/integration/test_errors.py raises them in Ray's own processes."""

import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from depthflow.errors import DepthflowError, StoreError, TrainingError, full_disk_reported, unwrapped
from tests.full_disk import files_at_most


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


# --- full disks ---


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(2000)),
        lambda path: np.save(path, np.zeros(2000)),
        lambda path: feather.write_feather(pa.table({"a": np.arange(2000)}), str(path)),
    ],
    ids=["python", "numpy", "arrow"],
)
def test_a_full_disk_is_told_whoever_writes(tmp_path, write):
    """NumPy raises an error without its number, and Arrow one of its own."""
    told = r"^A disk is full: .*\. Free space, or"
    with files_at_most(1000), pytest.raises(DepthflowError, match=told), full_disk_reported():
        write(tmp_path / "file.npy")


def test_a_full_disk_is_found_among_causes_and_in_their_text():
    failed = RuntimeError("the workers failed")
    failed.worker_failures = {0: RuntimeError("Traceback:\n  a line\nOSError: [Errno 28] No space left on device\n")}
    told = r"^A disk is full: OSError: \[Errno 28\] No space left on device\. It may be that of temporary files"
    with pytest.raises(DepthflowError, match=told), full_disk_reported():
        raise failed
    full = sqlite3.OperationalError("database or disk is full")
    with pytest.raises(DepthflowError, match=r"^A disk is full: database or disk is full\."), full_disk_reported():
        raise RuntimeError("query failed") from full


@pytest.mark.parametrize(
    "error", [StoreError("b: No space left on device"), OSError(2, "No such file"), KeyError("full")]
)
def test_another_error_passes_a_full_disk_unchanged(error):
    with pytest.raises(type(error)) as caught, full_disk_reported():
        raise error
    assert caught.value is error
