"""An MLflow server on loopback that can be killed and started again with the same port and database."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 120.0


class MlflowServer:
    """An HTTP server with SQLite and artifacts in a folder.

    Args:
        folder: for the database, the artifacts and the log.
        host: to listen at.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.folder, self._host = folder, host
        self.uri = f"http://{host}:{self.port}"
        self.database = f"sqlite:///{folder}/mlflow.db"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server without waiting; see `wait`."""
        store = ["--backend-store-uri", self.database, "--default-artifact-root", str(self.folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *store, "--host", self._host, "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Waits until the server answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Has the server take connections and say nothing until the block ends."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kills the server and its worker, which share a session."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
