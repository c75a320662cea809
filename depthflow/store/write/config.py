"""Flags of preprocess.py."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from depthflow.datasets.frames import SPLITS
from depthflow.datasets.layouts import LAYOUTS
from depthflow.datasets.listing import printable
from depthflow.flags import RayConfig, Split, explained, flags, require, require_known, require_positive
from depthflow.storage.location import absolute
from depthflow.store.schema import KINDS

HELP = {name: layout.help for name, layout in LAYOUTS.items()}
if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[tuple(LAYOUTS)]


KIND_HELP = {
    "depth": "an image and its depth",
    "stereo": "also the right image of a rectified pair; depth if there is any",
    "video": "also the frames before and after it; depth if there is any",
}

DEPTH_FROM_HELP = {
    "file": "the frame's depth file",
    "stereo": "semi-global matching of its rectified pair, in place of a file; not with --kind video",
}

SPLIT_OF = {"train": "train", "val": "val", "test": "val"}
"""Names of splits in --split-file, and what each counts as."""


@flags
class PreprocessConfig(RayConfig):
    """Turns raw frames into a Parquet sample store."""

    source: tuple[str, ...]
    """Folders of frames, .tar, .tar.gz or .zip files of them, or tables; also s3://, gs://."""
    layout: Annotated[tuple[LayoutName, ...], explained("How frames lie: one for all sources, or one each.", HELP)] = ()
    """Names in `depthflow.datasets.layouts.LAYOUTS`. Default: recognised."""
    out: str
    """Folder, s3:// or gs:// URI of the store. A second run with the same configuration resumes it; a run with another
    configuration fails."""
    kind: Annotated[Literal["depth", "stereo", "video"], explained("What a sample has.", KIND_HELP)] = "depth"
    """A name in `depthflow.store.schema.KINDS`."""
    depth_from: Annotated[Literal["file", "stereo"], explained("Where depth comes from.", DEPTH_FROM_HELP)] = "file"
    """With stereo, depth files are ignored, and every frame needs a right image, a camera and a baseline."""
    frame_step: int = 1
    """With --kind video, the neighbours are this many frames before and after a frame, unless a table names them."""
    min_motion_m: float = 0.005
    """With --kind video, reject frames whose neighbours are both closer than this, by their poses. Without poses, those
    whose neighbours look the same. 0 keeps all."""
    height: int = 256
    """Stored height in pixels. Images are area-averaged; depth and masks are point-sampled."""
    width: int = 256
    """Stored width in pixels."""
    splits: tuple[Split, ...] = ("train", "val")
    """Splits to store."""
    resplit: Literal[Split, "time"] | None = None
    """Derive both splits from train or from val, by scene (by scan if there is only one scene). time: from both, and
    cut each scan into a block of time for either split."""
    val_fraction: float = 0.2
    """With --resplit, target fraction of each scene type's samples in val; with --resplit time, of each scan's."""
    gap_s: float = 1.0
    """With --resplit time, seconds between the blocks. The frames in between become rejects."""
    split_file: tuple[str, ...] = ()
    """Take the splits from lists: train=FILE val=FILE (or test=FILE), or one of them. A line names a scene, a scan, a
    sample ID or an image's path."""
    seed: int = 0
    """Seed for dealing samples to shards and for --resplit."""
    shard_mib: int = 256
    """Approximate size of a shard in MiB of decoded planes."""
    edge_relative_jump: float = 0.1
    """Relative depth difference between neighbouring pixels above which they are a depth edge."""
    edge_radius_px: int = 2
    """Number of source pixels that edge_mask extends to each side of a depth edge."""
    require_complete: bool = False
    """Fail before starting if the sources lack samples of DIODE's catalogue."""
    max_rejects: int | None = None
    """Fail if more than this many inputs are rejected. Default: no limit; every reject is listed."""
    sample_timeout_s: float = 300.0
    """Fail, naming the sample, if one takes longer than this, so that a hung disk does not stall the run."""
    dry_run: bool = False
    """Only write OUT/frames.parquet, the table of all frames, and tell what was understood and what is refused."""
    report: bool = False
    """Write OUT/report.html: counts against the catalogue, depth histograms, rejects, panels and outliers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seed >= 0, f"--seed must not be negative. Received: {self.seed}")
        for path in self.source:
            require(printable(path) == path, f"--source must be valid UTF-8: rename it. Received: {printable(path)}")
            require(absolute(path) != absolute(self.out), f"--out must be no --source. Received: {path}")
        require(len(self.source) > 0, "--source needs at least one folder or archive. Received: none")
        require(
            self.max_rejects is None or self.max_rejects >= 0,
            f"--max-rejects must not be negative. Received: {self.max_rejects}",
        )
        require(self.sample_timeout_s > 0, f"--sample-timeout-s must be positive. Received: {self.sample_timeout_s}")
        require_positive(frame_step=self.frame_step, height=self.height, width=self.width, shard_mib=self.shard_mib)
        require(len(self.splits) > 0, "--splits needs at least one of: train, val. Received: none")
        for flag, values in (("--source", self.source), ("--splits", self.splits)):
            require(len(set(values)) == len(values), f"{flag} takes each name once. Received: {' '.join(values)}")
        require_known(layout=(self.layout, LAYOUTS), kind=((self.kind,), KINDS))
        fits = len(self.layout) in (0, 1, len(self.source))
        require(fits, f"--layout takes one name, or one for each --source. Received: {' '.join(self.layout)}")
        self._check_split_files()
        require(
            self.depth_from == "file" or self.kind != "video",
            "--depth-from stereo needs --kind depth or stereo. Received: --kind video",
        )
        require(0 <= self.gap_s < math.inf, f"--gap-s must be finite and not negative. Received: {self.gap_s}")
        require(0 < self.val_fraction < 1, f"--val-fraction must be above 0 and below 1. Received: {self.val_fraction}")
        is_distance = 0 <= self.min_motion_m < math.inf
        require(is_distance, f"--min-motion-m must be finite and not negative. Received: {self.min_motion_m}")
        require(
            self.edge_relative_jump > 0, f"--edge-relative-jump must be positive. Received: {self.edge_relative_jump}"
        )
        require(self.edge_radius_px >= 0, f"--edge-radius-px must not be negative. Received: {self.edge_radius_px}")

    def _check_split_files(self) -> None:
        for file in self.split_file:
            split, _, path = file.partition("=")
            require(
                split in SPLIT_OF and path != "",
                f"--split-file takes SPLIT=FILE, SPLIT being one of: {', '.join(SPLIT_OF)}. Received: {file}",
            )
        require(
            not (self.split_file and self.resplit),
            f"--split-file and --resplit exclude each other: leave one out. Received: --resplit {self.resplit}",
        )

    @property
    def needed(self) -> tuple[str, ...]:
        """The members of frames that samples are made of; without depth, it is stored where there is any."""
        if self.depth_from == "stereo":
            return ("rgb", "right")
        return ("rgb", "depth") if self.kind == "depth" else ("rgb", *KINDS[self.kind])

    @property
    def source_splits(self) -> tuple[str, ...]:
        """The splits to take from the sources."""
        if self.resplit == "time" or self.split_file:
            return SPLITS
        return (self.resplit,) if self.resplit else self.splits

    @property
    def layouts(self) -> tuple[str | None, ...]:
        """The layout of each source; None where it is to be recognised."""
        if len(self.layout) < 2:
            return (self.layout or (None,)) * len(self.source)
        return self.layout
