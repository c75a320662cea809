"""Starting and leaving Ray."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from depthflow.errors import ClusterError
from depthflow.observability.logs import LOG_FORMAT, configure_logging, has_run, is_json, tell

WORKER_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""Of every process: Keras on TensorFlow without its start-up messages, and no second copy of what workers print."""

START_ATTEMPTS = 3
STARTED_TOO_SLOWLY = "timed out during startup"
"""In what Ray says then."""


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names, or starts a Ray of this process's own, for the block.

    Args:
        num_cpus: CPUs of an own Ray. Default: all of the machine's.

    Raises:
        ClusterError: if RAY_ADDRESS names a job server: it takes jobs, and nothing else; or if an own Ray does not come
            up.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith(("http://", "https://")):
        raise ClusterError(
            f"RAY_ADDRESS names a job server, which takes commands as jobs. Received: {address}. Run "
            "`python pipelines/submit.py COMMAND ...`, or set RAY_ADDRESS to the head's HOST:PORT, from a node of the "
            "cluster."
        )
    os.environ.update(WORKER_ENVIRONMENT)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address:
        _init(address=address, runtime_env={"env_vars": _worker_environment()})
    else:
        _start_own(num_cpus)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler dumps a stack and ends the process at once.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    configure_logging(None if has_run() else ray.get_runtime_context().get_job_id())
    try:
        yield
    finally:
        ray.shutdown()


def _init(**arguments: Any) -> None:
    ray.init(configure_logging=not is_json(), logging_level=logging.WARNING, **arguments)


def _start_own(num_cpus: int | None) -> None:
    """Ray gives its processes 30 s to come up, whatever else the machine does, so it is tried more than once."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return _init(address="local", num_cpus=num_cpus)
        except Exception as error:  # Ray has no type of its own for it.
            ray.shutdown()
            if STARTED_TOO_SLOWLY not in str(error):
                raise
            tell(f"Ray did not come up in time, attempt {attempt} of {START_ATTEMPTS}", level=logging.WARNING)
    raise ClusterError(
        f"Ray did not come up in {START_ATTEMPTS} attempts: this machine is too busy. Free CPUs and memory, and run "
        "the same command again."
    )


def _worker_environment() -> dict[str, str]:
    """Of workers on nodes that this process did not start; those that it did have its own."""
    asked = os.environ.get(LOG_FORMAT)
    return WORKER_ENVIRONMENT | ({LOG_FORMAT: asked} if asked else {})
