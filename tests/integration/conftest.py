"""One Ray for all integration tests; commands run as a user runs them, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from depthflow.cluster.session import ray_session
from depthflow.command import last_json_line

ROOT = Path(__file__).resolve().parent.parent.parent
NUM_CPUS = 2


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    result: dict[str, Any]
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """A running Ray's address; commands started from tests use it too."""
    with ray_session(NUM_CPUS):
        address = ray.get_runtime_context().gcs_address
        os.environ["RAY_ADDRESS"] = address
        try:
            yield address
        finally:
            del os.environ["RAY_ADDRESS"]


@pytest.fixture
def run(shared_ray: str) -> Callable[..., Finished]:
    """Runs a command of pipelines/ in a folder; the last line of its stdout must be one JSON object."""
    return run_command


def run_command(name: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Finished:
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = done.stdout.strip().splitlines()
    result = last_json_line(lines[-1]) if lines else None
    assert result is not None, f"no JSON line from {name}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return Finished(done.returncode, result, done.stdout, done.stderr)


@dataclass(frozen=True)
class Demo:
    """The demo's folder, and how it ended."""

    folder: Path
    finished: Finished

    @property
    def env(self) -> dict[str, str]:
        """Points a command at the demo's MLflow."""
        return {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"}


@pytest.fixture(scope="session")
def demo(shared_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The whole chain on a mini-DIODE with fewer epochs than a user's demo: a registry, stores and a champion."""
    folder = tmp_path_factory.mktemp("demo") / "demo-out"
    return Demo(folder, run_command("demo", "--out", folder, "--epochs", 12, cwd=folder.parent))
