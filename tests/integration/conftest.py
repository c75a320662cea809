"""Commands run as a user runs them, in processes of their own.

Those of the demo are new interpreters; the rest are forked (tests/command_server.py), which saves their imports.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from depthflow.command import last_json_line

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    result: dict[str, Any]
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def run(shared_ray: str, command_server: Any) -> Callable[..., Finished]:
    """Runs a command of pipelines/ in a folder; the last line of its stdout must be one JSON object."""

    def run_forked(name: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Finished:
        done = command_server.run(name, *arguments, cwd=cwd, env={**os.environ, **(env or {})})
        return finished(name, done)

    return run_forked


def run_afresh(name: str, *arguments: object, cwd: Path) -> Finished:
    """The same in a new interpreter."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return finished(name, done)


def finished(name: str, done: subprocess.CompletedProcess[str]) -> Finished:
    lines = done.stdout.strip().splitlines()
    result = last_json_line(lines[-1]) if lines else None
    assert result is not None, f"no JSON line from {name}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return Finished(done.returncode, result, done.stdout, done.stderr)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a folder that several tests start from, times included, into this test's own; returns `tmp_path`."""

    def copy(folder: Path) -> Path:
        return shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    return copy


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
    return Demo(folder, run_afresh("demo", "--out", folder, "--epochs", 12, cwd=folder.parent))
