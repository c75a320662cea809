"""Hides lines that TensorFlow, Ray and MLflow write to stderr and that call for no action. `--verbose` shows them."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TENSORFLOW_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3"}
"""For every process that imports TensorFlow."""

WORKER_LINES = (
    r"All log messages before absl::InitializeLog\(\)",
    r"^I\d{4} \d\d:\d\d:\d+\.\d+ ",  # TensorFlow, at level INFO, while its libraries are loaded.
    r"'PreemptionWatcher' .* has constructor arguments in the object store",
)
"""Patterns of lines that workers write whatever their settings, so that the driver must not show them."""

DRIVER_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "|".join(WORKER_LINES),
}
"""Read by MLflow and Ray while they are imported."""


def hide_noise() -> None:
    """Hides them in this process and its workers. To be called before Ray, MLflow and TensorFlow are imported."""
    for name, value in {**TENSORFLOW_ENVIRONMENT, **DRIVER_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    # It only says that a local Ray has a token.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


@contextmanager
def quiet_native_code() -> Iterator[None]:
    """Hides what native libraries write to stderr in the block, whatever their settings.

    While TensorFlow's are loaded, they do not look at TF_CPP_MIN_LOG_LEVEL yet; LiteRT's never do. An error has its own
    traceback.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0":
        yield
        return
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
