"""Fixtures that all tests share: one Ray, commands run as a user runs them, small trees in DIODE's layout."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from tests.commands import ROOT, CommandServer, Demo, Finished, finished, run_in_new_interpreter
from tests.object_store import serving_s3
from tests.parsed_page import ParsedPage
from tests.ray_nodes import RayNodes

settings.register_profile("shared machines are noisy", deadline=None)
settings.load_profile("shared machines are noisy")

# By default Ray runs its workers at niceness 15, where another process's tests would starve them.
os.environ.update(RAY_worker_niceness="0")

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

NUM_CPUS = 2


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    """The process that commands are forked from."""
    server = CommandServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """Starts Ray and returns its address. Commands started by tests connect to it, too."""
    import ray

    from depthflow.cluster.session import ray_session

    with ray_session(NUM_CPUS):
        address = ray.get_runtime_context().gcs_address
        os.environ["RAY_ADDRESS"] = address
        try:
            yield address
        finally:
            del os.environ["RAY_ADDRESS"]


@pytest.fixture(scope="session")
def run(shared_ray: str, command_server: CommandServer) -> Callable[..., Finished]:
    """Runs a command in a folder. The last line of its stdout must be one JSON object."""

    def run_forked(name: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Finished:
        return finished(command_server.run(name, *arguments, cwd=cwd, env={**os.environ, **(env or {})}))

    return run_forked


@pytest.fixture(scope="session")
def demo(shared_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Runs the demo with fewer epochs than a user's: it leaves stores, a registry and a champion."""
    folder = tmp_path_factory.mktemp("demo") / "demo-out"
    return Demo(folder, run_in_new_interpreter("demo", "--out", folder, "--epochs", 24, cwd=folder.parent))


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A cluster with a token and a head node only."""
    cluster = RayNodes({})
    try:
        cluster.start("head", num_cpus=2, role="head")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def submit(
    nodes: RayNodes, command_server: CommandServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Finished]:
    """Runs submit.py against that cluster."""
    cwd = tmp_path_factory.mktemp("laptop")

    def run(*arguments: object, **env: str) -> Finished:
        return finished(command_server.run("submit", *arguments, cwd=cwd, env={**nodes.client_env, **env}))

    return run


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a folder that several tests start from, modification times included, to `tmp_path` and returns that."""

    def copy(folder: Path) -> Path:
        return shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    return copy


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights. Tests that need something it lacks are skipped."""
    return Path(os.environ.get("DEPTHFLOW_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def write_triplet() -> Callable[..., Path]:
    """Writes one complete triplet of a smooth random scene and returns the path of its image."""

    def write(
        root: Path,
        *,
        split: str = "train",
        scene_type: str = "indoors",
        scene: int = 0,
        scan: int = 0,
        view: int = 0,
        size: tuple[int, int] = (64, 64),
        valid_fraction: float = 0.9,
    ) -> Path:
        generator = np.random.default_rng([scene, scan, view, len(split), len(scene_type)])
        height, width = size
        coarse = generator.random((4, 4, 3), dtype=np.float32)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        depth_m = (1.0 + 8.0 * image.mean(axis=2, keepdims=True)).astype(np.float32)
        mask = generator.random((height, width)) < valid_fraction
        mask[height // 2, width // 2] = True
        folder = root / split / scene_type / f"scene_{scene:05d}" / f"scan_{scan:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{scene:05d}_{scan:05d}_{scene_type}_{view:03d}_000"
        cv2.imwrite(str(folder / f"{stem}.png"), (255 * image).astype(np.uint8))
        np.save(folder / f"{stem}_depth.npy", depth_m)
        np.save(folder / f"{stem}_depth_mask.npy", mask.astype(np.float32))
        return folder / f"{stem}.png"

    return write


@pytest.fixture(scope="session")
def parse_html() -> type[ParsedPage]:
    """The class that parses a page."""
    return ParsedPage


@pytest.fixture(scope="session")
def serving() -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Context manager that runs a server which speaks the S3 protocol."""
    return serving_s3
