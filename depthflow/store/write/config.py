"""Flags of preprocess.py."""

from depthflow.flags import RayConfig, Split, flags, require, require_positive


@flags
class PreprocessConfig(RayConfig):
    """Raw triplets to a Parquet sample store."""

    source: tuple[str, ...]
    """Trees in DIODE's layout, a folder that holds train/ and val/ or one of these two, or their .tar.gz; each on a
    disk, s3:// or gs://."""
    out: str
    """Folder, s3:// or gs:// URI of the store. A second run with the same configuration resumes it; another
    configuration is refused."""
    height: int = 256
    """Stored height in pixels: the image is area-averaged, depth and masks are point-sampled."""
    width: int = 256
    """Stored width in pixels."""
    splits: tuple[Split, ...] = ("train", "val")
    """Splits to store."""
    resplit: Split | None = None
    """Take this split of the source alone and make both splits of it, by scene (by scan where there is one scene)."""
    val_fraction: float = 0.2
    """With --resplit: the share of each scene type's samples to aim for in val."""
    seed: int = 0
    """Of the dealing of samples to shards, and of --resplit."""
    shard_mib: int = 256
    """About how many MiB of decoded planes go into a shard."""
    edge_relative_jump: float = 0.1
    """A depth edge is where neighbours' depths differ by more than this share of the nearer one."""
    edge_radius_px: int = 2
    """edge_mask reaches this many source pixels to each side of a depth edge."""
    require_complete: bool = False
    """Refuse to start where the sources lack samples of DIODE's catalogue."""
    max_rejects: int | None = None
    """End the run when more inputs than this are refused. Default: any number may be; each is listed."""
    sample_timeout_s: float = 300.0
    """End the run, naming the sample, when one takes longer than this: a disk that hangs is no silent stall."""
    report: bool = False
    """Write OUT/report.html: counts against the catalogue, depth histograms, rejects, panels, the oddest samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seed >= 0, f"--seed must not be negative. Received: {self.seed}")
        require(len(self.source) > 0, "--source needs at least one folder or archive. Received: none")
        require(
            self.max_rejects is None or self.max_rejects >= 0,
            f"--max-rejects must not be negative. Received: {self.max_rejects}",
        )
        require(self.sample_timeout_s > 0, f"--sample-timeout-s must be positive. Received: {self.sample_timeout_s}")
        require_positive(height=self.height, width=self.width, shard_mib=self.shard_mib)
        require(len(self.splits) > 0, "--splits needs at least one of: train, val. Received: none")
        for flag, values in (("--source", self.source), ("--splits", self.splits)):
            require(len(set(values)) == len(values), f"{flag} takes each name once. Received: {' '.join(values)}")
        require(0 < self.val_fraction < 1, f"--val-fraction must be above 0 and below 1. Received: {self.val_fraction}")
        require(
            self.edge_relative_jump > 0, f"--edge-relative-jump must be positive. Received: {self.edge_relative_jump}"
        )
        require(self.edge_radius_px >= 0, f"--edge-radius-px must not be negative. Received: {self.edge_radius_px}")
