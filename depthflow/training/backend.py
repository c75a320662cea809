"""Connects Ray Train's workers for TensorFlow.

Does what TensorflowTrainer does. That one imports TensorFlow, which takes seconds, in the driver and in Ray Train's
controller as well, one after the other and before the workers start.
"""

import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


class TensorflowConfig(BackendConfig):
    """For the `backend_config` of a DataParallelTrainer."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that connects the workers."""
        return _TensorflowBackend


class _TensorflowBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        ray.get([worker_group.execute_single_async(k, _connect, addresses, k) for k in range(len(addresses))])


def _free_address() -> str:
    """Returns an address of this worker that nothing listens at."""
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as found:
        found.bind(("", 0))
        port = found.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _connect(addresses: list[str], index: int) -> None:
    """Tells TensorFlow in this worker where all workers are, and which one it is."""
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
