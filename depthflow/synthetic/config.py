"""Flags of synthesize.py."""

from typing import Literal

from depthflow.flags import flags, require, require_folder


@flags
class SynthesizeConfig:
    """Writes ray-cast rooms and streets with exact depth: a mini-DIODE, stereo pairs, or video."""

    out: str
    """Folder to write. It must be empty or not exist."""
    kind: Literal["depth", "stereo", "video"] = "depth"
    """depth: single images, in DIODE's layout. stereo: rectified pairs. video: each scan is a walk, at 5 frames per
    second. Pairs and walks come with a frame table, which has cameras and poses."""
    baseline_m: float = 0.2
    """Distance of a pair's cameras in metres. With 0.2, the disparity is 29% of the width at 0.6 m, the least depth,
    and 1.4% at 12 m, the greatest in a room."""
    moving_objects: int = 0
    """Number of things that move in each walk, every other one ahead of the camera and as fast as it."""
    scans: int = 8
    """Number of scans, alternately indoors and outdoor."""
    samples_per_scan: int = 24
    """Number of views per scan."""
    height: int = 192
    """Image height in pixels."""
    width: int = 256
    """Image width in pixels."""
    seed: int = 0
    """Random seed. The same flags give the same bytes."""

    def __post_init__(self) -> None:
        require_folder(out=self.out)
        require(self.seed >= 0, f"--seed must not be negative. Received: {self.seed}")
        require(self.scans >= 2, f"--scans must be at least 2, one for each split. Received: {self.scans}")
        require(
            1 <= self.samples_per_scan <= 10_000,
            f"--samples-per-scan must be 1 to 10000, what file names can number. Received: {self.samples_per_scan}",
        )
        for flag, size in (("--height", self.height), ("--width", self.width)):
            require(size >= 16, f"{flag} must be at least 16. Received: {size}")
        require(
            0.0 < self.baseline_m <= 1.0, f"--baseline-m must be above 0 and at most 1. Received: {self.baseline_m}"
        )
        require(self.moving_objects >= 0, f"--moving-objects must not be negative. Received: {self.moving_objects}")
        require(
            self.kind == "video" or not self.moving_objects,
            f"--moving-objects needs --kind video. Received: {self.moving_objects}",
        )
