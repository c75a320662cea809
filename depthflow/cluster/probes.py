"""Probes of the cluster's nodes: functions that run on a node and report what they find there, and the processes that
run them."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from depthflow.cluster.package import digest
from depthflow.errors import StoreError, unwrapped
from depthflow.registry.tracking import ask
from depthflow.storage.files import open_files
from depthflow.storage.location import is_uri, object_store, reported

CONCURRENT_PROBES = 8
"""Probes that run on one node at once, so that one that hangs delays no other."""
PACKAGES = ("ray", "tensorflow", "keras", "numpy", "mlflow", "pyarrow")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy")
TENSORFLOW_START_S = 120
_COUNT_GPUS = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


@dataclass(frozen=True)
class NoAnswer:
    """The answer of a node whose probe failed.

    Attributes:
        reason: error message, or that the probe timed out.
    """

    reason: str


Answers = Mapping[str, Any]
"""What a probe returned on each node, by node name; `NoAnswer` where it failed."""


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """An alive node.

    Attributes:
        name: unique name for messages.
        node_id: Ray's node ID.
        address: IP address.
        cpus: CPUs that Ray schedules on it.
        gpus: GPUs that Ray schedules on it.
    """

    name: str
    node_id: str
    address: str
    cpus: int
    gpus: int


def cluster_nodes() -> list[ClusterNode]:
    """Returns the alive nodes of the running Ray."""
    return named_nodes([node for node in ray.nodes() if node["Alive"]])


def named_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[ClusterNode]:
    """Names nodes, as `ray.nodes` returns them, by IP address, and also by ID where several share an address."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return [
        ClusterNode(
            name=address if addresses.count(address) == 1 else f"{address}/{node['NodeID'][:6]}",
            node_id=node["NodeID"],
            address=address,
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node, address in zip(nodes, addresses, strict=True)
    ]


class Prober:
    """Actor that runs probes on one node."""

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns the function's result."""
        with unwrapped():
            return function(*arguments)


class NodeProbes:
    """One `Prober` per node. They reserve no resources, so a busy cluster can be probed too.

    Args:
        nodes: Nodes to probe.
        timeout_s: Time limit of each probe.
    """

    def __init__(self, nodes: Sequence[ClusterNode], *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        prober: Any = ray.remote(Prober)
        self._probers = {
            node.name: prober.options(
                num_cpus=0,
                max_concurrency=CONCURRENT_PROBES,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            ).remote()
            for node in nodes
        }

    def start(
        self, function: Callable[..., Any], *arguments: Any, on: Sequence[ClusterNode] | None = None
    ) -> Callable[[], dict[str, Any]]:
        """Starts a probe on every node, or on some, and returns a function that waits for the answers."""
        names = list(self._probers) if on is None else [node.name for node in on]
        pending = {name: self._probers[name].run.remote(function, *arguments) for name in names}

        def wait() -> dict[str, Any]:
            if pending:
                ray.wait(list(pending.values()), num_returns=len(pending), timeout=self._timeout_s)
            return {name: self._answer(reference) for name, reference in pending.items()}

        return wait

    def run(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Runs a probe on every node and returns the answers."""
        return self.start(function, *arguments)()

    def _answer(self, reference: Any) -> Any:
        try:
            with unwrapped():
                return ray.get(reference, timeout=0)
        except GetTimeoutError:
            return NoAnswer(f"no answer within {self._timeout_s:g} s")
        except Exception as error:  # Any error of a probe is a finding.
            cause = getattr(error, "cause", None) or error
            return NoAnswer(str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__)

    def close(self) -> None:
        """Kills the processes, together with any probe that still hangs."""
        for prober in self._probers.values():
            with suppress(Exception):
                ray.kill(prober)


def write_mark(location: str, folder: str) -> bool:
    """Writes this node's mark into a folder of the location, and returns whether the location had to be created."""
    name = ray.get_runtime_context().get_node_id()
    created = not is_uri(location) and not Path(location).exists()
    with reported(f"{location} cannot be written", StoreError, absence_passes=False):
        open_files(location).write(f"{folder}/{name}", name.encode())
    return created


def read_marks(location: str, folder: str, names: Mapping[str, str]) -> list[str]:
    """Returns the names of the nodes whose mark this node reads intact.

    Args:
        location: Folder or URI.
        folder: Folder of the marks below it.
        names: Node names by node ID.
    """
    files = open_files(location)
    found = []
    for node_id, name in names.items():
        with suppress(FileNotFoundError), reported(f"{location} cannot be read", StoreError):
            if bytes(files.read(f"{folder}/{node_id}")) == node_id.encode():
                found.append(name)
    return found


def remove_marks(location: str, folder: str, created: bool) -> None:
    """Removes the marks, and the location itself if `write_mark` created it."""
    open_files(location).remove(folder)
    if created:
        with suppress(OSError):
            Path(location).rmdir()


def exists(location: str) -> bool:
    """Returns whether this node sees the location."""
    if not is_uri(location):
        return Path(location).exists()
    filesystem, path = object_store(location, StoreError)
    with reported(f"{location} cannot be read", StoreError, absence_passes=False):
        return filesystem.exists(path)


def disks(locations: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns (free, total) bytes by folder: Ray's own, the temporary folder, and the locations that are local."""
    folders = [tempfile.gettempdir(), ray.get_runtime_context().get_temp_dir()]
    folders += [location for location in locations if not is_uri(location)]
    found = {}
    for folder in folders:
        path = Path(folder).absolute()
        usage = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists()))
        found[folder] = (usage.free, usage.total)
    return found


def mlflow_answers(uri: str) -> bool:
    """Returns True, or raises if MLflow does not answer."""
    ask(uri)
    return True


def versions() -> dict[str, str]:
    """Returns what must be equal on all nodes: versions of Python and packages, and a digest of depthflow's code."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    root = Path(__file__).parents[1]
    code = digest({path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")})
    return {**found, "depthflow": f"code {code[:8]}"}


def proxies() -> dict[str, str]:
    """Returns this node's proxy variables by their lower-case names."""
    values = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in PROXY_VARIABLES}
    return {name: value for name, value in values.items() if value}


def tensorflow_gpus() -> int:
    """Counts the GPUs that TensorFlow sees on this node, in a new process from which Ray hides none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_GPUS],
        capture_output=True,
        text=True,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=TENSORFLOW_START_S,
    )
    if done.returncode:
        raise RuntimeError(f"TensorFlow does not start: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1])
