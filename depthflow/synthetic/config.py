"""Flags of synthesize.py."""

from depthflow.flags import flags, require, require_folder


@flags
class SynthesizeConfig:
    """Writes a mini-DIODE: ray-cast rooms and streets with exact depth, in DIODE's layout."""

    out: str
    """Folder to write. It must be empty or not exist."""
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
