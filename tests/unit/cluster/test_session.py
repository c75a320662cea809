"""Where commands run."""

import pytest
import ray

from depthflow.cluster.session import START_ATTEMPTS, ray_session
from depthflow.errors import ClusterError


@pytest.mark.parametrize("address", ["http://head:8265", "https://head"])
def test_a_job_server_is_no_ray(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    before = ray.is_initialized()  # Other tests of this process may share one.
    with pytest.raises(ClusterError, match=r"names a job server.*submit\.py COMMAND"), ray_session():
        raise AssertionError("it began")
    assert ray.is_initialized() == before


@pytest.mark.parametrize(
    ("message", "error", "attempts"),
    [
        ("The current node timed out during startup.", ClusterError, START_ATTEMPTS),
        ("No space left on device", RuntimeError, 1),
    ],
)
def test_a_ray_that_came_up_too_late_is_started_again(monkeypatch, message, error, attempts):
    """Ray's start alone is played: a machine that is too slow for it cannot be had at will."""
    began = []

    def too_slow(**arguments):
        began.append(arguments)
        raise RuntimeError(message)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # What other tests share goes on.
    with pytest.raises(error), ray_session(2):
        raise AssertionError("it began")
    assert len(began) == attempts and all(arguments["num_cpus"] == 2 for arguments in began)
