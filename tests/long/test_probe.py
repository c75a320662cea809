"""Waiting for a probe on a real Ray, in a process of its own: what this guards against aborts the process."""

import subprocess
import sys

import pytest

TASKS = 1000
_SCRIPT = f"""
import logging, time

import ray
from ray.exceptions import GetTimeoutError

from depthflow.training.probe import result_within

ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
same = ray.remote(num_cpus=0, max_retries=0)(lambda value: value)
assert [result_within(60, same.remote(value)) for value in range({TASKS})] == list(range({TASKS}))

sleeping = ray.remote(num_cpus=0, max_retries=0)(lambda: time.sleep(600)).remote()
try:
    result_within(1, sleeping)
except GetTimeoutError:
    print("timed out", flush=True)
ready, _ = ray.wait([sleeping], timeout=60)
print("killed" if ready else "still running")
"""


@pytest.mark.timeout(180)
def test_tasks_that_end_are_not_cancelled_and_one_that_does_not_is_killed():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:2] == ["timed out", "killed"]
