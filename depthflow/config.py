"""The frozen dataclasses behind every command: a flag, its type, default, help and check are written here, once.

Paths are of disks that every node sees; commands make them absolute before work starts, since Ray Train changes its
workers' directory.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

Split = Literal["train", "val"]
SceneType = Literal["indoors", "outdoor"]
CheckName = Literal["plan", "versions", "storage", "disk", "mlflow", "proxies", "gpus", "all-reduce"]
EncoderName = Literal["resnet50", "resnet50v2", "convnext_tiny", "efficientnetv2_s", "mobilenetv3_large", "tiny"]
NormName = Literal["none", "batch", "group"]
LossName = Literal["tutorial", "l1", "silog", "gradient", "smoothness"]

NETWORK_STRIDE_PX = 32
"""The encoders halve the resolution five times, so a network's sides are multiples of this."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(**flags: int | None) -> None:
    """Each flag, if given, is at least 1."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        _require(value is None or value >= 1, f"{flag} must be at least 1. Received: {value}")


def _require_folder(**flags: str | None) -> None:
    """Each flag, if given, is a path on a disk."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        _require(value is None or "://" not in value, f"{flag} must be a folder on a disk. Received: {value}")


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Of every command that runs on Ray."""

    num_cpus: int | None = None
    """CPUs of the local Ray this command starts; ignored where RAY_ADDRESS names a cluster. Default: all."""

    def __post_init__(self) -> None:
        _require_positive(num_cpus=self.num_cpus)


@dataclass(frozen=True, kw_only=True)
class PoolConfig(RayConfig):
    """Of every command that predicts."""

    num_workers: int | None = None
    """Processes that hold the model. Default: one a GPU; one where there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(num_workers=self.num_workers)


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """A mini-DIODE: ray-cast rooms and streets with exact depth, in DIODE's layout."""

    out: str
    """Folder to write; it must not exist or be empty."""
    scans: int = 8
    """Scans, alternately indoors and outdoor."""
    samples_per_scan: int = 24
    """Views a scan."""
    height: int = 192
    """Image height in pixels."""
    width: int = 256
    """Image width in pixels."""
    seed: int = 0
    """Same arguments, same bytes."""

    def __post_init__(self) -> None:
        _require_folder(out=self.out)
        _require(self.seed >= 0, f"--seed must not be negative. Received: {self.seed}")
        _require(self.scans >= 2, f"--scans must be at least 2, one for each split. Received: {self.scans}")
        _require(
            1 <= self.samples_per_scan <= 10_000,
            f"--samples-per-scan must be 1 to 10000, what file names can number. Received: {self.samples_per_scan}",
        )
        for flag, size in (("--height", self.height), ("--width", self.width)):
            _require(size >= 16, f"{flag} must be at least 16. Received: {size}")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """An official archive of DIODE, fetched and verified."""

    split: Split
    """val.tar.gz has 2.6 GB, train.tar.gz 81 GB."""
    out: str
    """Folder for the archive. The same command again resumes there what was cut, and finds nothing to do once whole."""
    connections: int = 8
    """Parts fetched at a time."""
    base_url: str = "http://diode-dataset.s3.amazonaws.com"
    """Where SPLIT.tar.gz lies: the official place, or a mirror."""
    md5: str | None = None
    """What the archive's MD5 must be. Default: the official one."""

    def __post_init__(self) -> None:
        _require_folder(out=self.out)
        _require_positive(connections=self.connections)
        _require(
            re.match(r"https?://[^/]", self.base_url) is not None,
            f"--base-url must begin with http:// or https://. Received: {self.base_url}",
        )
        _require(
            self.md5 is None or re.fullmatch(r"[0-9a-fA-F]{32}", self.md5) is not None,
            f"--md5 must be 32 hexadecimal digits. Received: {self.md5}",
        )


@dataclass(frozen=True, kw_only=True)
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
        _require(self.seed >= 0, f"--seed must not be negative. Received: {self.seed}")
        _require(len(self.source) > 0, "--source needs at least one folder or archive. Received: none")
        _require(
            self.max_rejects is None or self.max_rejects >= 0,
            f"--max-rejects must not be negative. Received: {self.max_rejects}",
        )
        _require(self.sample_timeout_s > 0, f"--sample-timeout-s must be positive. Received: {self.sample_timeout_s}")
        _require_positive(height=self.height, width=self.width, shard_mib=self.shard_mib)
        _require(len(self.splits) > 0, "--splits needs at least one of: train, val. Received: none")
        for flag, values in (("--source", self.source), ("--splits", self.splits)):
            _require(len(set(values)) == len(values), f"{flag} names one of them twice. Received: {' '.join(values)}")
        _require(0 < self.val_fraction < 1, f"--val-fraction must be in (0, 1). Received: {self.val_fraction}")
        _require(
            self.edge_relative_jump > 0, f"--edge-relative-jump must be positive. Received: {self.edge_relative_jump}"
        )
        _require(self.edge_radius_px >= 0, f"--edge-radius-px must not be negative. Received: {self.edge_radius_px}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, and how: everything that moves the result, nothing about where it runs."""

    name: tyro.conf.Suppress[str]
    """The recipe this began as; not a flag."""
    encoder: EncoderName
    """resnet50 is the tutorial's; tiny has 0.05 M parameters, for tests and the demo."""
    encoder_weights: str
    """imagenet (through keras.applications), none, or the path of a .weights.h5 file."""
    input_scaling: Literal["encoder", "unit"] = "encoder"
    """encoder: as its ImageNet weights expect. unit: to [0, 1], as the tutorial does, for comparison."""
    batch_norm: Literal["synchronized", "frozen"] = "synchronized"
    """The encoder's batch normalisation: statistics over all workers' images, or its pre-trained own, unchanged. The
    decoder's is always synchronized."""
    bottleneck_filters: int = 0
    """Filters of two convolutions at 1/32 between encoder and decoder; 0: none."""
    decoder_filters: tuple[int, ...] = (1024, 512, 256, 128, 64)
    """Filters of the decoder's stages, coarse to fine. Five end at full resolution, four at half, three at a quarter;
    what is missing is bilinear."""
    decoder_norm: NormName = "none"
    """Normalisation after each decoder convolution; batch takes its statistics over all workers' images."""
    decoder_upsampling: Literal["nearest", "bilinear"] = "nearest"
    """How a decoder stage doubles the resolution before it convolves."""
    supervised_scales: int = 1
    """Outputs that the loss sees while training: the finest, and coarser ones, each at half the weight of the one
    before. The registered network has the finest alone."""
    height: int = 256
    """Network input height in pixels; the store must have been written with it."""
    width: int = 256
    """Network input width in pixels."""
    dtype: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Of arithmetic. mixed: weights stay float32, and float16 scales the loss. float64 is for checking equality."""
    onednn: bool = False
    """Convolutions by oneDNN on CPUs: faster for large networks, but rounding depends more on how many images are
    computed together."""
    xla: bool = False
    """Compile the forward and backward pass with XLA; needs batch normalisation to be frozen or absent."""
    loss: tuple[tuple[LossName, float], ...] = (("tutorial", 1.0),)
    """Terms and their weights, on log-depth, over valid pixels. tutorial: squared error + 0.1 Huber; l1: absolute
    error; silog: scale-invariant; gradient: differences of neighbours at four scales; smoothness: edge-aware."""
    clip_depth: Literal["none", "tutorial"] = "none"
    """tutorial: clip the training depth to [0.1 m, min(300 m, the image's 99th percentile)]; never the figures'."""
    horizontal_flip: bool = False
    """Mirror half of the training images. This and all below is drawn by (seed, epoch, sample id)."""
    max_zoom: float = 1.0
    """Cut out a random part and enlarge it, by 1 to this factor. 1: never."""
    zoom_depth: Literal["focal", "keep"] = "focal"
    """What a zoom by z makes of depth. focal: depth / z, as if the camera, unchanged, stood nearer; keep: the same
    depth, as if seen through a longer lens."""
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation change by up to this share, hue by a tenth of it of the colour circle."""
    blur: float = 0.0
    """Share of the training images that are blurred."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """sgd has momentum 0.9."""
    learning_rate: float = 1e-3
    """At its peak."""
    encoder_rate: float = 1.0
    """The encoder's learning rate as a share of the decoder's."""
    frozen_encoder_epochs: int = 0
    """Epochs at the start in which only the decoder learns."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: linear warm-up over the first twentieth of the steps, then down to zero."""
    weight_decay: float = 0.0
    """Decoupled, adamw and sgd; not of biases and normalisation."""
    clip_norm: float | None = None
    """Clip the reduced gradient to this global norm."""
    ema_momentum: float | None = None
    """Keep an exponential moving average of the weights, 0.999 say: it is what is validated and registered."""
    accumulation_steps: int = 1
    """Parts in which each worker's share of a batch is computed, one after the other, to save memory."""
    all_reduce_dtype: Literal["full", "bfloat16"] = "full"
    """Of gradients on their way between workers. full: as computed, so that N workers do what one does; bfloat16: half
    the bytes, each sum off by at most N / 256 of the sum of the workers' magnitudes. One worker sends nothing."""
    epochs: int = 60
    """Passes over the training split."""
    global_batch_size: int = 32
    """Images a step, over all workers."""
    seed: int = 0
    """Of the initial weights, the order of samples and every augmentation."""

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"--seed must not be negative. Received: {self.seed}")
        for flag, size in (("--height", self.height), ("--width", self.width)):
            _require(
                size > 0 and size % NETWORK_STRIDE_PX == 0,
                f"{flag} must be a multiple of {NETWORK_STRIDE_PX}, the encoder's stride. Received: {size}",
            )
        _require(
            3 <= len(self.decoder_filters) <= 5 and min(self.decoder_filters) >= 1,
            f"--decoder-filters takes three to five numbers of at least 1. Received: {self.decoder_filters}",
        )
        _require(
            self.bottleneck_filters >= 0,
            f"--bottleneck-filters must not be negative. Received: {self.bottleneck_filters}",
        )
        _require(
            1 <= self.supervised_scales <= len(self.decoder_filters),
            f"--supervised-scales must be 1 to {len(self.decoder_filters)}, the decoder's stages. "
            f"Received: {self.supervised_scales}",
        )
        _require_positive(
            epochs=self.epochs, global_batch_size=self.global_batch_size, accumulation_steps=self.accumulation_steps
        )
        terms = [name for name, _ in self.loss]
        _require(
            len(terms) > 0 and len(set(terms)) == len(terms) and all(0 < w < math.inf for _, w in self.loss),
            f"--loss takes terms, each once, with positive weights: l1 1 gradient 0.5. Received: {self.loss}",
        )
        _require(1 <= self.max_zoom <= 4, f"--max-zoom must be 1 to 4. Received: {self.max_zoom}")
        _require(0 <= self.colour_jitter < 1, f"--colour-jitter must be in [0, 1). Received: {self.colour_jitter}")
        _require(0 <= self.blur <= 1, f"--blur must be in [0, 1]. Received: {self.blur}")
        _require(0 < self.encoder_rate <= 1, f"--encoder-rate must be in (0, 1]. Received: {self.encoder_rate}")
        _require(
            0 <= self.frozen_encoder_epochs < self.epochs,
            f"--frozen-encoder-epochs must be 0 to --epochs - 1. Received: {self.frozen_encoder_epochs}",
        )
        _require(
            self.ema_momentum is None or 0 < self.ema_momentum < 1,
            f"--ema-momentum must be between 0 and 1. Received: {self.ema_momentum}",
        )
        synchronized = self.decoder_norm == "batch" or (
            self.batch_norm == "synchronized" and self.encoder not in ("tiny", "convnext_tiny")
        )
        _require(
            not (self.xla and synchronized),
            "--xla compiles no collectives, which synchronized batch normalisation needs: take --batch-norm frozen and "
            f"--decoder-norm group or none. Received: {self.batch_norm}, {self.decoder_norm}",
        )
        _require(
            self.batch_norm != "frozen" or self.encoder_weights != "none",
            "--batch-norm frozen keeps pre-trained statistics, so it needs --encoder-weights. Received: none",
        )
        _require(self.learning_rate > 0, f"--learning-rate must be positive. Received: {self.learning_rate}")
        _require(self.weight_decay >= 0, f"--weight-decay must not be negative. Received: {self.weight_decay}")
        _require(
            self.weight_decay == 0 or self.optimizer != "adam",
            "--weight-decay is decoupled and adam has none: take --optimizer adamw. "
            f"Received: {self.weight_decay} with adam",
        )
        _require(
            self.clip_norm is None or self.clip_norm > 0, f"--clip-norm must be positive. Received: {self.clip_norm}"
        )

    def blank(self) -> "Recipe":
        """The same network with no pre-trained weights to load, for who fills in weights of their own."""
        return replace(self, encoder_weights="none", batch_norm="synchronized", xla=False)


@dataclass(frozen=True, kw_only=True)
class TrainJob(RayConfig):
    """Where a recipe is trained and what becomes of it."""

    samples: str
    """The sample store, with the splits train and val."""
    storage: str
    """Folder for checkpoints, on a disk that all nodes share; or s3:// or gs:// URI."""
    num_workers: int | None = None
    """Data-parallel workers. Default: one a GPU; two CPU workers where there is none."""
    model_name: str = "depthflow"
    """Registered model whose new version, alias challenger, the best checkpoint becomes."""
    experiment: str = "depthflow"
    """MLflow experiment of the run."""
    resume: bool = False
    """Go on with the last unfinished job of this recipe and these samples in --storage, in its MLflow run."""
    keep_checkpoints: int = 2
    """Checkpoints kept: so many best by val/abs_rel, and the latest."""
    checkpoint_every_steps: int | None = None
    """A checkpoint after so many steps, besides the one after each epoch. Default: none in the middle of an epoch."""
    max_failures: int = 2
    """Times a lost worker is made good from the latest checkpoint before the run is given up; preempted nodes do not
    count."""
    step_timeout_s: float = 600.0
    """A worker that takes longer for one step, the first with its compilation included, ends itself and is made good:
    a hung collective is no silent stall."""
    drain_poll_s: float = 5.0
    """How often to look for a node that is being drained; while one is, each look writes a checkpoint."""
    mlflow_wait_s: float = 60.0
    """How long to wait, when training is done, for an MLflow server that does not answer."""
    cache_gib: float = 2.0
    """GiB of memory a worker for decoded training samples. Those that lie uncompressed on a disk are mapped: they need
    none."""
    cache_dir: str | None = None
    """Folder on each node's own disk that the shards are copied to first, and found by later runs: for stores on s3://
    or gs:// and slow shared disks. Default: shards are read where they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_folder(cache_dir=self.cache_dir)
        _require_positive(num_workers=self.num_workers, keep_checkpoints=self.keep_checkpoints)
        _require_positive(checkpoint_every_steps=self.checkpoint_every_steps)
        _require(self.max_failures >= 0, f"--max-failures must not be negative. Received: {self.max_failures}")
        _require(self.step_timeout_s > 0, f"--step-timeout-s must be positive. Received: {self.step_timeout_s}")
        _require(self.drain_poll_s > 0, f"--drain-poll-s must be positive. Received: {self.drain_poll_s}")
        _require(self.mlflow_wait_s >= 0, f"--mlflow-wait-s must not be negative. Received: {self.mlflow_wait_s}")
        _require(0 <= self.cache_gib < math.inf, f"--cache-gib must be finite, 0 or more. Received: {self.cache_gib}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PoolConfig):
    """A model's figures under a named protocol, beside the mean-depth baseline's."""

    model: str
    """MLflow model URI: models:/NAME@champion, models:/NAME/3, runs:/..., or a folder; or depth-anything-v2-small, or
    depth-anything:FOLDER."""
    compare: tuple[str, ...] = ()
    """Other models, evaluated beside it and shown in the same report."""
    samples: str
    """The sample store; a protocol at the source's resolution refuses one that was resized."""
    protocol: str = "devkit"
    """Names all that moves a number: mask, cap, alignment, resolution, averaging."""
    split: Split = "val"
    """The split to evaluate."""
    out: str | None = None
    """Folder for report.html and images.csv. Default: they go to the MLflow run alone."""
    experiment: str = "depthflow"
    """MLflow experiment of the evaluation's run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_folder(out=self.out)


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(PoolConfig):
    """Champion against challenger, and the alias only if the challenger is better."""

    model_name: str = "depthflow"
    """Registered model."""
    samples: str | None = None
    """The sample store both are evaluated on; needed unless --rollback."""
    protocol: str = "devkit"
    """Protocol of the comparison."""
    split: Split = "val"
    """Split of the comparison."""
    margin: float = 0.01
    """Share by which the challenger's abs_rel must be lower than the champion's."""
    tolerance: float = 0.05
    """Share by which its abs_rel may be higher on one scene type."""
    confidence: float = 0.95
    """With which its abs_rel must be lower at all, by a paired bootstrap over images: luck promotes nothing."""
    max_latency_ratio: float = 2.0
    """How many times as long as the champion the challenger may take for an image."""
    dry_run: bool = False
    """Decide and print; move and record nothing."""
    force: bool = False
    """Promote whatever the figures say; needs --reason."""
    rollback: bool = False
    """Give the alias back to the champion before this one."""
    history: bool = False
    """Only print every decision so far: who, when, what and why."""
    reason: str = ""
    """Why, for the record."""
    experiment: str = "depthflow-promotions"
    """MLflow experiment that holds the decisions, one run each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            not self.force or bool(self.reason), "--force needs --reason TEXT: the record says why. Received: none"
        )
        alone = [f"--{flag}" for flag in ("force", "rollback", "history") if getattr(self, flag)]
        _require(len(alone) < 2, f"--force, --rollback and --history exclude each other. Received: {' '.join(alone)}")
        _require(
            self.rollback or self.history or bool(self.samples), "--samples is needed to compare models. Received: none"
        )
        _require(self.margin >= 0, f"--margin must not be negative. Received: {self.margin}")
        _require(self.tolerance >= 0, f"--tolerance must not be negative. Received: {self.tolerance}")
        _require(0 < self.confidence < 1, f"--confidence must be in (0, 1). Received: {self.confidence}")
        _require(
            self.max_latency_ratio > 0, f"--max-latency-ratio must be positive. Received: {self.max_latency_ratio}"
        )


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PoolConfig):
    """Depth for photographs of any size."""

    model: str
    """MLflow model URI: models:/NAME@champion, models:/NAME/3, runs:/..., or a folder; or depth-anything-v2-small, or
    depth-anything:FOLDER."""
    compare: tuple[str, ...] = ()
    """Other models: NAME.compare.png shows what they make of each photograph beside this one; their maps go to folders
    of their own in --out."""
    images: tuple[str, ...]
    """Photographs, folders of them, patterns such as 'photos/**/*.jpg', s3:// or gs:// URIs of any of these (.jpg .jpeg
    .png .webp .bmp .tif .tiff)."""
    out: str
    """Folder for the files and NAME.depth.json, which says what they were made of; a photograph that has them all, of
    the same model, is not predicted again."""
    files: tuple[Literal["npy", "png", "panel"], ...] = ("npy", "png", "panel")
    """NAME.depth.npy (float32, metres), NAME.depth.png (16 bit, its scale inside) and NAME.panel.png (for people)."""
    point_cloud: bool = False
    """Write NAME.ply as well: a coloured point a pixel, metres; needs --fx and --fy, or --fov-deg."""
    fx: float | None = None
    """Horizontal focal length, pixels of the photograph."""
    fy: float | None = None
    """Vertical focal length, pixels of the photograph."""
    fov_deg: float | None = None
    """Horizontal field of view instead of --fx and --fy."""
    tile_px: int | None = None
    """Add detail from overlapping tiles of this size to photographs with a longer side. Default: no tiles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_folder(out=self.out)
        _require(len(self.images) > 0, "--images needs at least one photograph or folder. Received: none")
        _require(bool(self.files) or self.point_cloud, "--files needs at least one kind. Received: none")
        given = [self.fx is not None and self.fy is not None, self.fov_deg is not None]
        _require(
            (sum(given) == 1) == self.point_cloud and (self.fx is None) == (self.fy is None),
            "--point-cloud and either --fx and --fy or --fov-deg go together. Received: "
            f"--point-cloud {self.point_cloud} --fx {self.fx} --fy {self.fy} --fov-deg {self.fov_deg}",
        )
        for name in ("fx", "fy"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"--{name} must be positive. Received: {value}")
        _require(
            self.fov_deg is None or 0 < self.fov_deg < 180, f"--fov-deg must be in (0, 180). Received: {self.fov_deg}"
        )
        _require(self.tile_px is None or self.tile_px >= 64, f"--tile-px must be 64 or more. Received: {self.tile_px}")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RayConfig):
    """The whole chain on a mini-DIODE, or on your own tree."""

    source: str | None = None
    """A tree in DIODE's layout. Default: a mini-DIODE is synthesized."""
    out: str = "demo-out"
    """Folder for everything the demo makes; a demo's earlier output there is replaced."""
    num_workers: int = 2
    """Training workers."""
    epochs: int | None = None
    """Passes over the training split. Default: chosen so that the demo takes about as long on any source."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_folder(out=self.out)
        _require_positive(num_workers=self.num_workers, epochs=self.epochs)


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """A command of pipelines/ as a Ray job, with a preflight before it. Everything after the command's name is the
    command's; flags of submit.py itself come before it."""

    command: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="COMMAND [ITS FLAGS]")]
    """The command with its flags, as without submit.py: train diode --samples s3://bucket/store ..."""
    address: str | None = None
    """The cluster's job server. Default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS, else http://127.0.0.1:8265."""
    env: tuple[str, ...] = ()
    """Environment variables to hand to the job besides MLFLOW_TRACKING_URI: AWS_PROFILE, say. Only those named here
    go; whoever may ask the cluster for the job can read them."""
    again: bool = False
    """Run a training anew whose result stands. Without it the result is printed again."""
    wait: bool = True
    """Follow the job's log to its end. With --no-wait, only submit it."""
    python: str = "python"
    """The interpreter's name or path on the cluster's head node."""
    reconnect_s: float = 300.0
    """How long to try to reach the job server again when the connection is lost."""

    def __post_init__(self) -> None:
        _require(len(self.command) > 0, "A command is needed: submit.py train smoke --samples ... Received: none")
        for name in self.env:
            _require(
                re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None,
                f"--env takes names of environment variables, not values. Received: {name}",
            )
        _require(self.reconnect_s >= 0, f"--reconnect-s must not be negative. Received: {self.reconnect_s}")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(RayConfig):
    """What this machine, or the cluster that RAY_ADDRESS names, can and cannot do."""

    checks: tuple[CheckName, ...] = ("plan", "versions", "storage", "disk", "mlflow", "proxies", "gpus", "all-reduce")
    """What to look at."""
    storage: tuple[str, ...] = ()
    """Locations that every node must be able to write, and to read what the others wrote: folders, s3:// or gs://."""
    samples: tuple[str, ...] = ()
    """Locations that must be there, and that every node must be able to read."""
    work: Literal["training", "pool", "data"] = "training"
    """What the plan is of: training workers, processes that predict, or data tasks."""
    num_workers: int | None = None
    """Workers of training or of the pool that must find room. Default: as their commands take them."""
    quick: bool = False
    """Leave out the all-reduce unless it goes between GPUs: what a job has time for before it starts."""
    timeout_s: float = 60.0
    """How long one look may take on a node; the all-reduce may take three times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.checks) > 0, "--checks needs at least one name. Received: none")
        _require_positive(num_workers=self.num_workers)
        _require(self.timeout_s > 0, f"--timeout-s must be positive. Received: {self.timeout_s}")
