"""A Ray cluster on this machine, started as a user does: one `ray start` per node, with a token."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

START_S = 300.0
"""Time limit for a node to start on a busy machine."""
TOKEN = "0123456789abcdef" * 4


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class RayNode:
    """`ray start --block` and its child processes."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self._command, self._env, self.log = command, env, log
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=output, stderr=output, start_new_session=True
            )

    def ensure_started(self) -> None:
        """Starts the node again if it ended, since a busy machine may exceed the 30 s that Ray gives it to join."""
        if self._process.poll() is not None:
            self._start()

    def kill(self) -> None:
        """Kills all processes at once, as if the machine lost power."""
        if self._process.poll() is None:
            parent = psutil.Process(self._process.pid)
            for process in (parent, *parent.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()


class RayNodes:
    """A head, and nodes that can be added and killed.

    Args:
        env: Environment variables of all nodes, added to those of this process and the token.
        host: Address of the head.
        prefix: Prefix of a node's command, such as `ip netns exec NAME`, by the node's name.

    Attributes:
        env: environment of a client, with the address and the token.
        api: address of the job server.
    """

    def __init__(
        self, env: Mapping[str, str], *, host: str = "127.0.0.1", prefix: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # A short path, since it contains Ray's sockets.
        self._host, self._prefix = host, prefix or {}
        self._port, api_port = free_port(), free_port()
        self._nodes: dict[str, RayNode] = {}
        self.api = f"http://{host}:{api_port}"
        self._head_flags = ["--head", f"--port={self._port}", f"--dashboard-host={host}"]
        self._head_flags.append(f"--dashboard-port={api_port}")
        self._node_env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **env,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # As in an activated environment.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
        }
        self.env = {**self._node_env, "RAY_API_SERVER_ADDRESS": self.api}

    @property
    def client_env(self) -> dict[str, str]:
        """The environment of a user's machine, which has no MLflow."""
        return {name: value for name, value in self.env.items() if name != "MLFLOW_TRACKING_URI"}

    def start(self, name: str, *, num_cpus: int, role: str, num_gpus: int = 0, address: str | None = None) -> None:
        """Starts a node and waits until it is alive. The first must be called head.

        Args:
            name: Name of the node.
            num_cpus: Number of CPUs it reports.
            role: Its label depthflow.io/role.
            num_gpus: Number of GPUs it reports.
            address: Its IP address. Defaults to that of the head.
        """
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        command = [
            *self._prefix.get(name, ()),
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={address or self._host}",
            f"--num-cpus={num_cpus}",
            f"--num-gpus={num_gpus}",
            f"--labels=depthflow.io/role={role}",
            f"--object-store-memory={200 * 2**20}",
            f"--temp-dir={self._folder / name}",  # One per node, as on separate machines.
            *(f"--{flag}={free_port()}" for flag in ports),
            *(self._head_flags if name == "head" else [f"--address={self._host}:{self._port}"]),
        ]
        self._nodes[name] = RayNode(command, env=self._node_env, log=self._folder / f"{name}.log")
        self.wait_until_alive()

    def wait_until_alive(self) -> None:
        """Waits until all started nodes are alive and all killed nodes are reported dead."""
        deadline = time.monotonic() + START_S
        while (alive := self._count_alive()) != len(self._nodes):
            for node in self._nodes.values():
                node.ensure_started()
            if time.monotonic() > deadline:
                logs = "\n".join(f"{name}: {node.log.read_text()[-1500:]}" for name, node in self._nodes.items())
                raise AssertionError(f"{alive} of the nodes {', '.join(self._nodes)} are alive.\n{logs}")
            time.sleep(0.3)

    def _count_alive(self) -> int:
        """Returns the number of alive nodes; 0 if the head does not answer."""
        try:
            return sum(node["state"] == "ALIVE" for node in self.state("nodes"))
        except OSError:
            return 0

    def state(self, kind: str) -> list[dict[str, Any]]:
        """Returns nodes, tasks, actors or jobs from the head's state API.

        Raises:
            OSError: if it does not answer.
        """
        url = f"{self.api}/api/v0/{kind}?detail=1&limit=10000"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["data"]["result"]["result"]

    def kill(self, name: str) -> None:
        """Kills a node without notice."""
        self._nodes.pop(name).kill()

    def stop(self) -> None:
        """Kills all nodes, the head last."""
        for name in [*self._nodes][::-1]:
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)
