"""What all tests share: small trees in DIODE's layout, and where the shared data are."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("shared machines are noisy", deadline=None)
settings.load_profile("shared machines are noisy")

ROOT = Path(__file__).resolve().parent.parent


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
