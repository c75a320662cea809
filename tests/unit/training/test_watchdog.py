"""The watchdog: quiet while it hears beats, once silent it acts once, and for real it ends the process."""

import subprocess
import sys
import threading
import time

import pytest

from depthflow.training.watchdog import EXIT_CODE, Watchdog


@pytest.fixture
def watching():
    """Starts watchdogs that note what they would say, and stops them."""
    watchdogs = []

    def start(timeout_s):
        said = []
        watchdogs.append(Watchdog(timeout_s, on_silence=said.append))
        return watchdogs[-1], said

    yield start
    for watchdog in watchdogs:
        watchdog.stop()


def wait_for(said, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not said and time.monotonic() < end:
        time.sleep(0.005)
    return said


def test_silence_is_told_once_with_what_it_was_at(watching):
    watchdog, said = watching(0.1)
    watchdog.beat("step 41")
    (message,) = wait_for(said)
    assert message.startswith("error: step 41 has taken 0 s, longer than --step-timeout-s 0.1: this worker ends itself")
    time.sleep(0.5)
    assert said == [message]


def test_before_the_first_beat_it_is_starting(watching):
    _, said = watching(0.05)
    assert wait_for(said)[0].startswith("error: starting has taken")


def test_the_seconds_are_those_since_the_last_beat(watching):
    watchdog, said = watching(1.6)
    watchdog.beat("a batch of the validation")
    assert "validation has taken 2 s, longer than --step-timeout-s 1.6" in wait_for(said)[0]


def test_beats_keep_it_quiet(watching):
    """Each well within the time that their sum exceeds."""
    watchdog, said = watching(2.0)
    for k in range(5):
        watchdog.beat(f"step {k}")
        time.sleep(0.5)
    assert said == []


def test_stopped_it_watches_no_more():
    said = []
    before = threading.active_count()
    watchdog = Watchdog(0.2, on_silence=said.append)
    watchdog.stop()
    assert threading.active_count() == before
    time.sleep(0.5)
    assert said == []


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


def test_a_hung_process_ends_and_says_where_it_stood():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - began < 100
    assert done.returncode == EXIT_CODE == 75
    assert "error: step 7 has taken" in done.stderr
    assert "hung_in_a_collective" in done.stderr
    assert "_watch" in done.stderr
