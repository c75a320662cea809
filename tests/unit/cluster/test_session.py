"""Starting and connecting to Ray."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from depthflow.cluster.session import START_ATTEMPTS, ray_session
from depthflow.errors import ClusterError


@pytest.mark.parametrize("address", ["http://head:8265", "https://head"])
def test_a_job_servers_address_is_rejected(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    before = ray.is_initialized()  # Other tests may share one.
    with pytest.raises(ClusterError, match=r"names a job server.*submit\.py COMMAND"), ray_session():
        raise AssertionError("the session started")
    assert ray.is_initialized() == before


@pytest.mark.parametrize(
    ("message", "error", "attempts"),
    [
        ("The current node timed out during startup.", ClusterError, START_ATTEMPTS),
        ("No space left on device", RuntimeError, 1),
    ],
)
def test_a_ray_that_times_out_on_startup_is_started_again(monkeypatch, message, error, attempts):
    """Only ray.init is faked, since a machine that is too slow for Ray is not available on demand."""
    calls = []

    def too_slow(**arguments):
        calls.append(arguments)
        raise RuntimeError(message)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # Other tests may share a running Ray.
    with pytest.raises(error), ray_session(2):
        raise AssertionError("the session started")
    assert len(calls) == attempts and all(arguments["num_cpus"] == 2 for arguments in calls)


def test_a_ray_that_hangs_is_told(monkeypatch, capsys):
    """It takes the connection and says nothing, as a process does that is suspended."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # Other tests may share one.
    monkeypatch.setattr("depthflow.cluster.session.ANSWER_S", 1)
    monkeypatch.setattr("depthflow.observability.progress.TELL_EVERY_S", 0.25)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=rf"No Ray listens at {address}: timed out\. Start it"), ray_session():
            raise AssertionError("the session started")
    assert f"Waiting for Ray at {address}: 0.25 s so far\n" in capsys.readouterr().err


def test_the_folder_of_another_users_ray_is_left_alone():
    """On a machine that several people use, /tmp/ray belongs to whoever was first."""
    code = "from depthflow.cluster import session; print(session._temp_dir())"
    command = [sys.executable, "-c", code]
    if os.getuid() == 0:  # Root may write anywhere, unless it gives up its capabilities.
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    with tempfile.TemporaryDirectory(dir="/tmp") as temp:
        Path(temp, "ray").mkdir(mode=0o555)
        env = {**os.environ, "TMPDIR": temp, "RAY_TMPDIR": ""}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{{'_temp_dir': '/tmp/ray-{os.getuid()}'}}\n", done.stderr
    assert f"{temp}/ray belongs to another user: Ray uses /tmp/ray-{os.getuid()} instead" in done.stderr


def test_a_session_inside_another_uses_its_ray(shared_ray):
    with ray_session(), ray_session():
        assert ray.get_runtime_context().gcs_address == shared_ray
    assert ray.is_initialized(), "the outer Ray goes on"
