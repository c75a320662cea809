"""Starting and leaving Ray."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

WORKER_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
"""Of every process: Keras on TensorFlow without its start-up messages, and no second copy of what workers print."""


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names, or starts a Ray of this process's own, for the block.

    Args:
        num_cpus: CPUs of an own Ray. Default: all of the machine's.
    """
    os.environ.update(WORKER_ENVIRONMENT)
    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        address=address or "local",
        num_cpus=None if address else num_cpus,
        include_dashboard=None if address else True,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": WORKER_ENVIRONMENT} if address else None,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def default_num_workers(*, without_gpu: int) -> int:
    """One worker a GPU of the running Ray; `without_gpu` where it has none."""
    return int(ray.cluster_resources().get("GPU", 0)) or without_gpu


def has_gpu() -> bool:
    """Whether the running Ray has a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0
