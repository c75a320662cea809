"""One writer at a time, tried with real processes and a real kill -9."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from depthflow.errors import StoreError
from depthflow.storage.lock import LOCK_NAME, disk_lock

HOLDER = """
import sys
from pathlib import Path
from depthflow.storage.lock import LOCK_NAME, disk_lock
with disk_lock(Path(sys.argv[1], LOCK_NAME)):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def holder(root):
    """A process that holds the lock until a line is written to it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def lock(root):
    return disk_lock(root / LOCK_NAME)


def fails(root):
    return pytest.raises(StoreError, match=r"being written by another process.*Wait for it")


def test_the_lock_is_held_for_the_block_alone(tmp_path):
    root = tmp_path / "new" / "store"
    with lock(root):
        record = json.loads((root / LOCK_NAME).read_text())
        assert (record["host"], record["pid"]) == (socket.gethostname(), os.getpid())
    assert list(root.iterdir()) == []


def test_an_error_releases_it(tmp_path):
    with pytest.raises(ValueError, match="stop"), lock(tmp_path):
        raise ValueError("stop")
    with lock(tmp_path):
        pass


def test_a_second_holder_fails_until_the_first_is_done(tmp_path):
    with holder(tmp_path) as first:
        for _ in range(2):
            with fails(tmp_path) as info, lock(tmp_path):
                pass
            assert str(first.pid) in str(info.value)
            assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == first.pid
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.wait(timeout=30) == 0
        with lock(tmp_path):
            pass


def test_a_second_lock_of_the_same_process_fails_too(tmp_path):
    with lock(tmp_path):
        with fails(tmp_path), lock(tmp_path):
            pass
        assert (tmp_path / LOCK_NAME).exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    with holder(tmp_path) as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == first.pid
        with lock(tmp_path):
            assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("content", ["", "{", '{"host": "elsewhere", "pid": 1}'])
def test_a_file_that_nobody_holds_is_no_lock(tmp_path, content):
    (tmp_path / LOCK_NAME).write_text(content)
    with lock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_NAME).exists()


def test_stores_do_not_share_a_lock(tmp_path):
    with lock(tmp_path / "a"), lock(tmp_path / "b"):
        pass


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_created_is_reported(tmp_path, folder):
    (tmp_path / "file").write_bytes(b"x")
    told = rf"{tmp_path / folder} cannot be written to: .*\. Pass a folder"
    with pytest.raises(StoreError, match=told), disk_lock(tmp_path / folder / LOCK_NAME):
        pass
