"""Progress: lines in a log file, one live line on a terminal, here a pseudo-terminal."""

import os
import pty
import re
import sys
import time

import pytest

import depthflow.observability.progress
from depthflow.observability.progress import ProgressLine

LINE = re.compile(r"views: \d+/\d+, [\d.]+/s(, \d+ s left)?")


@pytest.fixture
def log(capfd):
    """stderr is a file, as in a job's log; called, it gives the lines written so far."""
    assert not sys.stderr.isatty()
    written: list[str] = []

    def lines() -> list[str]:
        written.extend(capfd.readouterr().err.splitlines())
        return written

    return lines


def test_first_and_last_are_always_printed(log):
    line = ProgressLine("views", every_s=1000.0)
    for done in range(1, 101):
        line(done, 100)
    first, last = log()
    assert first.startswith("views: 1/100, ") and first.endswith(" s left")
    assert last.startswith("views: 100/100, ") and "left" not in last


def test_every_call_is_printed_when_none_is_too_soon(log):
    line = ProgressLine("views", every_s=0.0)
    for done in range(1, 6):
        line(done, 5)
    assert [text.split(",")[0] for text in log()] == [f"views: {done}/5" for done in range(1, 6)]
    assert all(LINE.fullmatch(text) for text in log())


def test_a_line_every_few_seconds(log):
    line = ProgressLine("views", every_s=0.1)
    line(1, 100)
    line(2, 100)
    time.sleep(0.12)
    line(3, 100)
    line(4, 100)
    assert [text.split(",")[0] for text in log()] == ["views: 1/100", "views: 3/100"]


def test_rate_and_what_is_left(log):
    line = ProgressLine("views", every_s=0.0)
    time.sleep(0.2)
    line(10, 40)
    rate, left = re.fullmatch(r"views: 10/40, ([\d.]+)/s, (\d+) s left", log()[0]).groups()
    assert 10 < float(rate) <= 50, "10 in 0.2 s, or in what a busy machine made of it"
    assert abs(float(left) - 30 / float(rate)) <= 0.6


@pytest.fixture
def clock(monkeypatch):
    """Holds the time in seconds."""
    now_s = [100.0]
    monkeypatch.setattr(depthflow.observability.progress.time, "monotonic", lambda: now_s[0])
    return now_s


@pytest.mark.parametrize(
    ("first", "done", "total", "seconds", "shown"),
    [
        (0, 1.2e9, 2.6e9, 30.0, "1.2/2.6 GB, 40.0 MB/s, 35 s left"),
        (1.0e9, 1.2e9, 2.6e9, 5.0, "1.2/2.6 GB, 40.0 MB/s, 35 s left"),
        (0, 1.0e9, 81.0e9, 100.0, "1.0/81.0 GB, 10.0 MB/s, 2 h 13 min left"),
        (0, 1.0e9, 2.0e9, 120.0, "1.0/2.0 GB, 8.3 MB/s, 2 min left"),
        (0, 1.0e9, 2.0e9, 119.0, "1.0/2.0 GB, 8.4 MB/s, 119 s left"),
        (0, 3.25e6, 3.25e6, 0.5, "3.2/3.2 MB, 6.5 MB/s"),
        (1.0e9, 1.0e9, 2.6e9, 60.0, "1.0/2.6 GB, 0.0 MB/s"),
    ],
)
def test_bytes_are_shown_with_the_rate_of_this_run(log, clock, first, done, total, seconds, shown):
    line = ProgressLine("val.tar.gz", unit="bytes")
    clock[0] += 1000.0  # Before the first byte: a server that made us wait.
    line(int(first), int(total))
    clock[0] += seconds
    line(int(done), int(total))
    assert log()[-1] == f"val.tar.gz: {shown}"


@pytest.mark.parametrize(("done", "total"), [(0, 5), (0, 0), (5, 5)])
def test_nothing_done_and_nothing_to_do(log, done, total):
    ProgressLine("views")(done, total)
    assert log() and log()[0].startswith(f"views: {done}/{total}, ")
    assert "left" not in log()[0]


def test_a_log_file_gets_no_control_characters(log):
    line = ProgressLine("views", every_s=0.0)
    line(1, 2)
    line(2, 2)
    assert not any("\r" in text or "\x1b" in text for text in log())


def test_a_terminal_gets_one_live_line(monkeypatch):
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        line = ProgressLine("views")
        for done in (1, 2, 3):
            line(done, 3)
            time.sleep(0.25)
        shown = os.read(master, 10_000).decode()
    os.close(master)
    assert shown.count("\n") == 1 and shown.endswith("\n"), "only the last one ends the line"
    assert re.findall(r"\r\x1b\[Kviews: (\d)/3", shown) == ["1", "2", "3"]
