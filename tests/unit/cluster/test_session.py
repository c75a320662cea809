"""Where commands run."""

import pytest
import ray

from depthflow.cluster.session import ray_session
from depthflow.errors import ClusterError


@pytest.mark.parametrize("address", ["http://head:8265", "https://head"])
def test_a_job_server_is_no_ray(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=r"names a job server.*submit\.py COMMAND"), ray_session():
        raise AssertionError("it began")
    assert not ray.is_initialized()
