"""Environments that people have."""

import os
import socket
import subprocess
import sys
import time

import pytest

from depthflow.cluster.session import TOKEN_VARIABLES
from depthflow.command import last_json_line
from tests.commands import ROOT, TIMEOUT_S, finished


def test_a_long_path_of_the_temporary_folder_and_a_home_that_cannot_be_written(tmp_path):
    """As batch systems have it: Ray's sockets would have longer paths than the kernel takes, and its token no place."""
    long = tmp_path / ("x" * (103 - len(str(tmp_path)) - 1))
    long.mkdir()
    (tmp_path / "file").touch()
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", *TOKEN_VARIABLES)}
    env |= {"TMPDIR": str(long), "HOME": str(tmp_path / "file" / "home")}
    line = [sys.executable, str(ROOT / "pipelines" / "doctor.py"), "--checks", "plan", "--num-cpus", "1"]
    done = finished(subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=TIMEOUT_S))
    assert done.code == 0, done.stderr
    assert done.result["status"] == "ok"
    assert done.noise == []
    assert f"The path of {long} is too long for Ray's sockets" in done.stderr


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_ray_address_where_nothing_listens(tmp_path, scheme):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"{scheme}127.0.0.1:{closed.getsockname()[1]}"
    began = time.monotonic()
    line = [sys.executable, str(ROOT / "pipelines" / "doctor.py")]
    env = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    result = last_json_line(done.stdout)
    assert result is not None and f"No Ray listens at {address}" in result["error"]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 100, "Ray itself would try for 200 s"
