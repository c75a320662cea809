"""Starting and leaving Ray."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from depthflow.errors import ClusterError
from depthflow.observability.records import LOG_FORMAT, configure_logging, has_run, is_json

WORKER_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""Of every process: Keras on TensorFlow without its start-up messages, and no second copy of what workers print."""


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names, or starts a Ray of this process's own, for the block.

    Args:
        num_cpus: CPUs of an own Ray. Default: all of the machine's.

    Raises:
        ClusterError: if RAY_ADDRESS names a job server: it takes jobs, and nothing else.
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
    ray.init(
        address=address or "local",
        num_cpus=None if address else num_cpus,
        configure_logging=not is_json(),
        logging_level=logging.WARNING,
        runtime_env={"env_vars": _worker_environment()} if address else None,
    )
    configure_logging(None if has_run() else ray.get_runtime_context().get_job_id())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler dumps a stack and ends the process at once.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _worker_environment() -> dict[str, str]:
    """Of workers on nodes that this process did not start; those that it did have its own."""
    asked = os.environ.get(LOG_FORMAT)
    return WORKER_ENVIRONMENT | ({LOG_FORMAT: asked} if asked else {})
