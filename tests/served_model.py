"""A registered model where depthflow is not installed: the environment, and MLflow's server."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from depthflow.registry.versions import SERVING_PACKAGES
from tests.pages import ROOT

START_S = 120.0


def bare_environment(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """Returns the environment of a process that sees neither this checkout nor what a model's requirements lack."""
    (folder / "sitecustomize.py").write_text(BARE)
    return {**env, "PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(folder)}


BARE = f"""
import importlib.metadata as metadata, re, sys
from packaging.requirements import Requirement

def needed(names):
    todo, found = [(name, "") for name in names], set()
    while todo:
        name, extra = todo.pop()
        key = re.sub("[-_.]+", "-", name).lower()
        if (key, extra) in found:
            continue
        found.add((key, extra))
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({{"extra": extra}}):
                todo += [(requirement.name, each) for each in ("", *requirement.extras)]
    return {{name for name, _ in found}}

brought = needed({list(SERVING_PACKAGES)!r})
absent = {{module for module, packages in metadata.packages_distributions().items()
          if not brought & {{re.sub("[-_.]+", "-", package).lower() for package in packages}}}}
absent -= {{"depthflow", "packaging", "_distutils_hack", "setuptools", "pkg_resources"}}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}: not among the model's requirements", name=name)

sys.path = [path for path in sys.path if path and path != {str(ROOT)!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.meta_path.insert(0, Absent())
"""


def with_python(env: dict[str, str]) -> dict[str, str]:
    """Returns an environment in which `python` and `mlflow` are this interpreter's."""
    return {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


class ServedModel:
    """A model behind HTTP while the block runs.

    Args:
        command: `mlflow models serve ...`; its port is replaced by a free one.
        folder: for the log.
        env: environment of the server.
    """

    def __init__(self, command: str, folder: Path, env: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        changed, count = re.subn(r"--port \d+", f"--port {self.port}", command)
        assert count == 1, command
        self._command, self._folder = shlex.split(changed), folder
        self._env, self.client_env = with_python(env), with_python({**os.environ, "no_proxy": "127.0.0.1"})

    def __enter__(self) -> Self:
        with (self._folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(30)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with self._open("ping"):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self._folder / "serve.log").read_text()[-3000:])

    def post(self, request: dict[str, Any], *, code: int = 200) -> dict[str, Any]:
        """Sends a request, and returns the answer, which must have this status."""
        try:
            with self._open("invocations", json.dumps(request).encode()) as response:
                status, answer = response.status, json.load(response)
        except urllib.error.HTTPError as error:
            status, answer = error.code, json.load(error)
        assert status == code, answer
        return answer

    def _open(self, path: str, body: bytes | None = None) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.port}/{path}"
        return opener.open(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60)
