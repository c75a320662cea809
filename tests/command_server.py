"""Runs commands of pipelines/, each in a process of its own, forked from one that has imported what takes seconds.

A command from here differs from one that is started afresh in nothing but when libraries were imported: it has its own
arguments, folder, environment, output, exit code and end. depthflow itself it imports anew. So what a library reads of
the environment while it is imported comes from this process; a test that sets such a variable starts a new interpreter.

Reads one JSON object a line from stdin, {"script", "arguments", "cwd", "env", "stdout", "stderr"}, the last two as
paths of files, and answers with the exit code, a line.
"""

import gc
import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from ray._raylet import Config

IMPORTED = (
    *("cv2", "fsspec", "jinja2", "matplotlib.figure", "pandas", "pyarrow.dataset", "pyarrow.parquet", "tyro"),
    *("mlflow", "mlflow.models", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "mlflow.types"),
    *("mlflow.store.model_registry.sqlalchemy_store", "ray", "ray.data", "ray.train"),
)


def serve() -> dict[str, Any]:
    """Forks at each request; returns the request in its child, and ends the process where there are no more."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Makes this process look as one that was started for the command."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], flags),
        (2, request["stderr"], flags),
    ):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["env"])
    Config.initialize("")  # Ray's settings of this environment; ray.init does so, too.
    os.chdir(request["cwd"])
    sys.argv = [request["script"], *request["arguments"]]
    sys.path[0] = str(Path(request["script"]).parent)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    become(serve())
    runpy.run_path(sys.argv[0], run_name="__main__")
