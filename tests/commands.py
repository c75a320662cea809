"""Runs commands of pipelines/ and returns how they ended."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflow.command import last_json_line
from depthflow.observability.noise import DRIVER_ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 600


NOISE = re.compile(
    "absl::InitializeLog|oneDNN|cuda drivers|Token authentication|PreemptionWatcher|Progress bars|INFO mlflow"
)
"""In lines of TensorFlow, Ray and MLflow that only --verbose shows."""


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code, its JSON result, and everything it printed."""

    code: int
    result: dict[str, Any]
    stdout: str
    stderr: str

    @property
    def noise(self) -> list[str]:
        """Lines on stderr that only --verbose shows."""
        return [line for line in self.stderr.splitlines() if NOISE.search(line)]


def finished(done: subprocess.CompletedProcess[str]) -> Finished:
    """Checks that the last line on stdout is a JSON result."""
    lines = done.stdout.strip().splitlines()
    result = last_json_line(lines[-1]) if lines else None
    assert result is not None, f"no JSON line from {done.args}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return Finished(done.returncode, result, done.stdout, done.stderr)


def run_in_new_interpreter(name: str, *arguments: object, cwd: Path) -> Finished:
    """Runs a command exactly as a user does, its imports included."""
    line = [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), *map(str, arguments)]
    return finished(subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S))


def read_until(process: subprocess.Popen[Any], words: str, *, timeout_s: float) -> str:
    """Reads stderr unbuffered up to these words, so that communicate() finds the rest."""
    assert process.stderr is not None
    seen, deadline = b"", time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while words.encode() not in seen:
            assert selector.select(max(0.0, deadline - time.monotonic())), seen.decode()
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, seen.decode()
            seen += piece
    return seen.decode()


class CommandServer:
    """Forks commands from a process that has already imported what takes seconds to import: command_server.py."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "command_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **DRIVER_ENVIRONMENT},
        )

    def run(self, name: str, *arguments: object, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs a command like `subprocess.run` with captured output. Not for use from several threads."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = {stream: Path(folder, stream) for stream in ("stdout", "stderr")}
            request = {
                "script": str(ROOT / "pipelines" / f"{name}.py"),
                "arguments": [*map(str, arguments)],
                "cwd": str(cwd),
                "env": env,
                **{stream: str(path) for stream, path in outputs.items()},
            }
            print(json.dumps(request), file=process.stdin, flush=True)
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(TIMEOUT_S):
                    self.stop()
                    self._start()
                    raise subprocess.TimeoutExpired([name, *request["arguments"]], TIMEOUT_S)
            code = int(process.stdout.readline())
            written = {stream: path.read_text() for stream, path in outputs.items()}
        return subprocess.CompletedProcess([name, *request["arguments"]], code, **written)

    def stop(self) -> None:
        """Kills the server and the command it may still be running."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@dataclass(frozen=True)
class Demo:
    """The demo's folder and how the demo ended."""

    folder: Path
    finished: Finished

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point a command at the demo's MLflow."""
        return {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"}
