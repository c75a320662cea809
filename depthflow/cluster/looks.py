"""What a node is asked: each function runs on every node, looks, and judges nothing."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ray

from depthflow.cluster.package import digest
from depthflow.errors import StoreError
from depthflow.registry.tracking import OneAttemptClient
from depthflow.storage.files import open_files
from depthflow.storage.location import is_uri, object_store, reported

PACKAGES = ("ray", "tensorflow", "keras", "numpy", "mlflow", "pyarrow")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy")
TENSORFLOW_LIST_S = 120
_COUNT_GPUS = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


def write_mark(location: str, folder: str) -> bool:
    """Writes a file of this node's into a folder of the location; whether the location had to be made for it."""
    name = ray.get_runtime_context().get_node_id()
    made = not is_uri(location) and not Path(location).exists()
    with reported(f"{location} cannot be written", StoreError, absence_passes=False):
        open_files(location).write(f"{folder}/{name}", name.encode())
    return made


def read_marks(location: str, folder: str, node_ids: Sequence[str]) -> list[str]:
    """Those of the nodes whose file this node reads, with what its writer wrote."""
    files = open_files(location)
    found = []
    for name in node_ids:
        with suppress(FileNotFoundError), reported(f"{location} cannot be read", StoreError):
            if bytes(files.read(f"{folder}/{name}")) == name.encode():
                found.append(name)
    return found


def remove_marks(location: str, folder: str, made: bool) -> None:
    """Removes the folder, and the location itself if it was made for it."""
    open_files(location).remove(folder)
    if made:
        with suppress(OSError):
            Path(location).rmdir()


def is_there(location: str) -> bool:
    """Whether this node finds the location."""
    if not is_uri(location):
        return Path(location).exists()
    filesystem, path = object_store(location, StoreError)
    with reported(f"{location} cannot be read", StoreError, absence_passes=False):
        return filesystem.exists(path)


def disks(locations: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Free and total bytes of the disks of Ray's own files, of temporary files, and of locations on disks."""
    folders = [
        tempfile.gettempdir(),
        ray.get_runtime_context().get_temp_dir(),
        *(place for place in locations if not is_uri(place)),
    ]
    usages = {folder: shutil.disk_usage(_nearest(folder)) for folder in dict.fromkeys(folders)}
    return {folder: (usage.free, usage.total) for folder, usage in usages.items()}


def mlflow_answers(uri: str) -> bool:
    """True: an MLflow that does not answer raises."""
    OneAttemptClient(uri).ask()
    return True


def versions() -> dict[str, str]:
    """What must be the same everywhere: Python, the packages, and depthflow's code."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    root = Path(__file__).parents[1]
    code = digest({path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")})
    return {**found, "depthflow": f"code {code[:8]}"}


def proxies() -> dict[str, str]:
    """The proxy variables of this node's processes, by their name in small letters."""
    both = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in PROXY_VARIABLES}
    return {name: value for name, value in both.items() if value}


def tensorflow_gpus() -> int:
    """GPUs that TensorFlow sees on this node, in a process of its own that Ray hides none from."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_GPUS],
        capture_output=True,
        text=True,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=TENSORFLOW_LIST_S,
    )
    if done.returncode:
        raise RuntimeError(f"TensorFlow does not start: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1])


def _nearest(folder: str) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = Path(folder).absolute()
    return next(place for place in (path, *path.parents) if place.exists())
