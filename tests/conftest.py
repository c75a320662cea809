"""What all tests share: one Ray, commands in processes of their own, small trees of DIODE, where other data are."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from tests.object_store import serving_s3
from tests.parsed_page import ParsedPage

settings.register_profile("shared machines are noisy", deadline=None)
settings.load_profile("shared machines are noisy")

os.environ.update(RAY_worker_niceness="0")  # Else Ray's workers, at 15, starve beside the tests of another process.

ROOT = Path(__file__).resolve().parent.parent
COMMAND_TIMEOUT_S = 600
NUM_CPUS = 2


class CommandServer:
    """Starts commands of pipelines/ by a fork of a process that has imported what takes seconds: command_server.py."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "command_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, name: str, *arguments: object, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """As subprocess.run of the command with captured output; only one at a time."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = {stream: Path(folder, stream) for stream in ("stdout", "stderr")}
            request = {
                "script": str(ROOT / "pipelines" / f"{name}.py"),
                "arguments": [*map(str, arguments)],
                "cwd": str(cwd),
                "env": env,
                **{stream: str(path) for stream, path in outputs.items()},
            }
            print(json.dumps(request), file=process.stdin, flush=True)
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(COMMAND_TIMEOUT_S):
                    self.stop()
                    self._start()
                    raise subprocess.TimeoutExpired([name, *request["arguments"]], COMMAND_TIMEOUT_S)
            code = int(process.stdout.readline())
            written = {stream: path.read_text() for stream, path in outputs.items()}
        return subprocess.CompletedProcess([name, *request["arguments"]], code, **written)

    def stop(self) -> None:
        """Ends the process, and a command that it may still be running."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    """One for all tests."""
    server = CommandServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """A running Ray's address; commands started from tests use it too."""
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
def shared() -> Path:
    """The folder with real photographs and weights; tests that need what it lacks are skipped, and say so."""
    return Path(os.environ.get("DEPTHFLOW_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def write_triplet() -> Callable[..., Path]:
    """Writes one whole triplet of a smooth random scene; returns the path of its image."""

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
    """HTML to a `ParsedPage`."""
    return ParsedPage


@pytest.fixture(scope="session")
def serving() -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Starts a real server of S3's protocol for the block."""
    return serving_s3
