"""Starts Ray or connects to it, and shuts it down."""

import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from depthflow.command import preserve_signal_handlers
from depthflow.errors import ClusterError
from depthflow.observability.logs import LOG_FORMAT, configure_logging, has_run, is_json, tell
from depthflow.observability.noise import TENSORFLOW_ENVIRONMENT
from depthflow.observability.progress import waiting

WORKER_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "MPLBACKEND": "agg",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}
"""Environment of every process: Keras on TensorFlow, no second copy of what workers print, and a glibc that keeps the
memory of freed arrays: returning it to the system, page by page, doubles the CPU time of a sample of 768 x 1024."""

CONNECT_S = 10
ANSWER_S = 60
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC, which Ray speaks, says first: the preface of HTTP/2 and an empty SETTINGS frame."""
MAX_TEMP_DIR_BYTES = 35
"""Ray's sockets are at TMPDIR/ray/session_TIME_PID/sockets/plasma_store, and a socket's path has at most 107 bytes."""
OWN_TEMP_DIR = f"/tmp/ray-{os.getuid()}"
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
START_ATTEMPTS = 3
STARTUP_TIMEOUT = "timed out during startup"
"""Part of Ray's error message when it starts too slowly."""


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Connects to the cluster at RAY_ADDRESS, or starts a local Ray, for the duration of the block.

    A session inside another one, as the demo's commands have it, uses the outer one's Ray.

    Args:
        num_cpus: Number of CPUs of a local Ray. Defaults to all CPUs of the machine.

    Raises:
        ClusterError: if RAY_ADDRESS is that of a job server, if nothing listens at it, or if a local Ray does not
            start.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith(("http://", "https://")):
        raise ClusterError(
            f"RAY_ADDRESS names a job server, which only accepts jobs. Received: {address}. Run `python "
            "pipelines/submit.py COMMAND ...`, or, on a node of the cluster, set RAY_ADDRESS to the head's HOST:PORT."
        )
    if ray.is_initialized():
        yield
        return
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        with preserve_signal_handlers(), waiting(f"Waiting for Ray at {address}" if address else "Starting Ray"):
            if address:
                _require_listener(address)
                _init(address=address, runtime_env={"env_vars": _worker_environment()})
            else:
                _start_local(num_cpus)
    except SystemExit:  # Raised by the handler of SIGTERM that Ray installs first of all.
        signal.raise_signal(signal.SIGTERM)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # Ray's own wrapper loses its cause on the way to the driver.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # It warns that the bars are off.
    for name in ("exceptions", "_internal.execution.streaming_executor_state"):
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)  # Tracebacks of what is raised here as well.
    configure_logging(None if has_run() else ray.get_runtime_context().get_job_id())
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises ClusterError if nothing listens at HOST:PORT or it says nothing: Ray itself keeps trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # `auto` and `local`.
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(GREETING)
            connection.recv(1)  # A process that is suspended accepts connections, too.
    except OSError as error:
        raise ClusterError(
            f"No Ray listens at {address}: {error.strerror or error}. Start it, or set RAY_ADDRESS to HOST:PORT of the "
            "head, or unset it to start a local Ray."
        ) from None


def _init(**arguments: Any) -> None:
    ray.init(configure_logging=not is_json(), logging_level=logging.WARNING, **arguments)


def _start_local(num_cpus: int | None) -> None:
    """Starts a local Ray, several times if need be: Ray gives its processes 30 s, however busy the machine is."""
    _require_token()
    temp_dir = _temp_dir()
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return _init(address="local", num_cpus=num_cpus, **temp_dir)
        except Exception as error:  # Ray has no specific type for this error.
            ray.shutdown()
            if STARTUP_TIMEOUT not in str(error):
                raise
            tell(f"Ray did not start in time, attempt {attempt} of {START_ATTEMPTS}", level=logging.WARNING)
    raise ClusterError(
        f"Ray did not start in {START_ATTEMPTS} attempts: this machine is too busy. Free CPUs and memory, and run the "
        "same command again."
    )


def _require_token() -> None:
    """Makes a token for this process and its children if Ray, which keeps one in ~/.ray, cannot write there."""
    if any(os.environ.get(name) for name in TOKEN_VARIABLES):
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except (OSError, RuntimeError):  # RuntimeError: a user without a home.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _temp_dir() -> dict[str, str]:
    """Returns arguments for `ray.init` if Ray cannot use the usual temporary folder."""
    usual = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(os.fsencode(usual)) > MAX_TEMP_DIR_BYTES:
        reason = f"The path of {usual} is too long for Ray's sockets"
    elif (usual / "ray").exists() and not os.access(usual / "ray", os.W_OK):
        reason = f"{usual / 'ray'} belongs to another user"
    else:
        return {}
    tell(f"{reason}: Ray uses {OWN_TEMP_DIR} instead")
    return {"_temp_dir": OWN_TEMP_DIR}


def _worker_environment() -> dict[str, str]:
    """Returns the environment of workers on a remote cluster; those of a local Ray inherit this process's."""
    own = {name: os.environ[name] for name in (LOG_FORMAT, *TENSORFLOW_ENVIRONMENT) if os.environ.get(name)}
    return WORKER_ENVIRONMENT | own
