"""The watchdog: beats keep it quiet, silence makes it act once, and in a real process it ends the process."""

import subprocess
import sys
import threading
import time

import pytest

from depthflow.training.watchdog import EXIT_CODE, Watchdog


@pytest.fixture
def watching():
    """Starts watchdogs that record their messages, and stops them."""
    watchdogs = []

    def start(timeout_s):
        messages = []
        watchdogs.append(Watchdog(timeout_s, on_silence=messages.append))
        return watchdogs[-1], messages

    yield start
    for watchdog in watchdogs:
        watchdog.stop()


def wait_for(messages, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not messages and time.monotonic() < end:
        time.sleep(0.005)
    return messages


def test_silence_is_reported_once_with_the_activity(watching):
    watchdog, messages = watching(0.1)
    watchdog.beat("step 41")
    (message,) = wait_for(messages)
    assert message.startswith("error: step 41 has taken 0 s, longer than --step-timeout-s 0.1: this worker ends itself")
    time.sleep(0.5)
    assert messages == [message]


def test_the_first_activity_is_starting(watching):
    _, messages = watching(0.05)
    assert wait_for(messages)[0].startswith("error: starting has taken")


def test_seconds_count_from_the_last_beat(watching):
    watchdog, messages = watching(1.6)
    watchdog.beat("a batch of the validation")
    assert "validation has taken 2 s, longer than --step-timeout-s 1.6" in wait_for(messages)[0]


def test_beats_keep_it_quiet(watching):
    """Each gap is well within the timeout, which the gaps together exceed."""
    watchdog, messages = watching(2.0)
    for k in range(5):
        watchdog.beat(f"step {k}")
        time.sleep(0.5)
    assert messages == []


def test_a_stopped_watchdog_does_nothing():
    messages = []
    before = threading.active_count()
    watchdog = Watchdog(0.2, on_silence=messages.append)
    watchdog.stop()
    assert threading.active_count() == before
    time.sleep(0.5)
    assert messages == []


HANGS = """
import threading, time
from depthflow.training.watchdog import Watchdog

def hung_in_a_collective():
    time.sleep(600)

threading.Thread(target=hung_in_a_collective).start()  # Not a daemon: an ordinary exit would wait for it.
watchdog = Watchdog(0.3)
watchdog.beat("step 7")
time.sleep(600)
"""


def test_a_hung_process_ends_and_prints_its_stacks():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - began < 100
    assert done.returncode == EXIT_CODE == 75
    assert "error: step 7 has taken" in done.stderr
    assert "hung_in_a_collective" in done.stderr
    assert "_watch" in done.stderr
