"""The recipe: the flags of train.py that affect the result. Does not import Keras."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from depthflow.flags import explained, flag_help, flags, require, require_known, require_positive
from depthflow.objective import Objective
from depthflow.parts import (
    AUGMENTATIONS,
    DECODERS,
    ENCODERS,
    ENCODERS_WITHOUT_BATCH_NORM,
    LOSS_TERMS,
    is_transformer,
    stride_px,
)

if TYPE_CHECKING:
    EncoderName = str
    DecoderName = str
    LossName = str
    AugmentationName = str
else:
    EncoderName, DecoderName, LossName, AugmentationName = (
        Literal[tuple(table)] for table in (ENCODERS, DECODERS, LOSS_TERMS, AUGMENTATIONS)
    )
NormName = Literal["none", "batch", "group"]


@flags
class Recipe(Objective):
    """What is trained and how: everything that affects the result, nothing about where it runs."""

    name: tyro.conf.Suppress[str]
    """Name of the recipe that this one derives from. Not a flag."""
    encoder: Annotated[EncoderName, explained("Network that extracts features from the image.", ENCODERS)]
    """A name in `ENCODERS`."""
    weights: Annotated[
        str,
        flag_help(
            "imagenet (through keras.applications), none, the path of a .weights.h5 file, or for a vision transformer "
            "a folder or hub name of transformers, such as depth-anything/Depth-Anything-V2-Small-hf.",
            alias="--encoder-weights",
        ),
    ]
    """Pre-trained weights to start from."""
    decoder: Annotated[DecoderName, explained("Network that makes a depth map of the features.", DECODERS)] = "unet"
    """A name in `DECODERS`."""
    input_scaling: Literal["encoder", "unit"] = "encoder"
    """encoder: as the encoder's ImageNet weights expect. unit: to [0, 1], as in the tutorial, for comparison."""
    batch_norm: Literal["synchronized", "frozen"] = "synchronized"
    """Batch normalisation in the encoder. synchronized: statistics over the images of all workers. frozen: the
    pre-trained statistics. In the decoder it is always synchronized."""
    bottleneck_filters: int = 0
    """Filters of extra convolutions at 1/32 between encoder and decoder: unet two, fcrn one of 1x1, dpt none. 0: no
    such convolutions."""
    decoder_filters: tuple[int, ...] = (1024, 512, 256, 128, 64)
    """unet, fcrn: filters of each decoder stage, coarse to fine. Five stages end at full resolution, four at half,
    three at a quarter; bilinear upsampling does the rest. dpt: one number, the filters of the fusion."""
    decoder_norm: NormName = "none"
    """Normalisation after each decoder convolution. batch: statistics over the images of all workers."""
    decoder_upsampling: Literal["nearest", "bilinear"] = "nearest"
    """Upsampling before the convolutions of each stage of the decoder unet."""
    supervised_scales: int = 1
    """Number of outputs that the training loss sees, finest first, each with half the weight of the one before. The
    registered network has only the finest."""
    height: int | None = 256
    """Input height in pixels, a multiple of 32, or of a transformer's patch of 14 or 16. On the command line, defaults
    to the store's. Smaller than the store's, images shrink as they are augmented, so that a zoom shows more detail."""
    width: int | None = 256
    """Input width in pixels, likewise."""
    dtype: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Compute dtype. mixed_*: weights stay float32; mixed_float16 scales the loss. float64 is for equality checks."""
    onednn: bool = False
    """Use oneDNN for convolutions on CPUs: faster for large networks, but rounding depends more on the batch size."""
    xla: bool = False
    """Compile the forward and backward pass with XLA. Requires batch normalisation to be frozen or absent."""
    loss: Annotated[
        tuple[tuple[LossName, float], ...],
        explained("Loss terms on log-depth over valid pixels, each with its weight.", LOSS_TERMS),
    ] = (("tutorial", 1.0),)
    """Names in `LOSS_TERMS`, each with its weight."""
    camera: Literal["none", "canonical"] = "none"
    """canonical: learn depth as one lens would see it, and predict for each image's own (arXiv:2307.10984). Requires
    frames with a camera, or --assume-fov-deg."""
    assume_fov_deg: float | None = None
    """Horizontal field of view in degrees of frames without a camera. Requires --camera canonical."""
    clip_depth: Literal["none", "tutorial"] = "none"
    """tutorial: clip the training depth to [0.1 m, min(300 m, the image's 99th percentile)]; metrics are not."""
    horizontal_flip: bool = False
    """Mirror half of the training images. This and every augmentation below is drawn by (seed, epoch, sample id)."""
    max_zoom: float = 1.0
    """Crop a random part and enlarge it by a factor from 1 to this. 1: no zoom."""
    zoom_depth: Literal["focal", "keep"] = "focal"
    """How a zoom by z changes depth. focal: depth / z, as if the same camera stood nearer. keep: unchanged, as if seen
    through a longer lens. With --camera canonical, which knows the longer lens, both are the same: focal."""
    colour_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation. Hue turns by up to a tenth of it, in circles."""
    blur: float = 0.0
    """Fraction of training images to blur."""
    augment: Annotated[
        tuple[tuple[AugmentationName, float], ...],
        explained("Further augmentations, each with an amount in (0, 1].", AUGMENTATIONS),
    ] = ()
    """Names in `AUGMENTATIONS`, each with its amount."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """sgd has momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    encoder_rate: float = 1.0
    """Learning rate of the encoder as a fraction of the decoder's."""
    frozen_encoder_epochs: int | Literal["all"] = 0
    """Number of initial epochs that train only the decoder. all: to the end, so that the encoder takes no memory for
    gradients, moments and averages."""
    layer_decay: float = 1.0
    """Learning rate of each block of a vision transformer as a fraction of the next one's, on top of --encoder-rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: linear warm-up over the first 5% of the steps, then decay to zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay, for adamw and sgd. Biases and normalisation weights are exempt."""
    clip_norm: float | None = None
    """Clip the all-reduced gradient to this global norm."""
    ema_momentum: float | None = None
    """Momentum of an exponential moving average of the weights, such as 0.999. The average is what is registered."""
    accumulation_steps: int = 1
    """Number of parts that each worker splits its share of a batch into, to save memory."""
    lora_rank: int = 0
    """Freeze a vision transformer but for a change of this rank to each attention head's queries and values
    (arXiv:2106.09685). 0: train all of it."""
    remat: bool = False
    """Compute the blocks of a vision transformer again in the backward pass instead of keeping what is in them: less
    memory, longer steps."""
    all_reduce_dtype: Literal["full", "bfloat16"] = "full"
    """Dtype of gradients in the all-reduce. full: as computed, so that N workers equal one. bfloat16: half the bytes,
    with an error of at most N / 256 of the summed magnitudes. A single worker sends nothing."""
    epochs: int = 60
    """Passes over the training split."""
    dataset_weights: tuple[tuple[str, float], ...] = ()
    """Names of data sets of the store, each with its weight: tum 3 kitti 0.5. An epoch then draws each data set in
    proportion to its weight, and as many samples as without weights. 0 leaves one out; those not named have 1."""
    global_batch_size: int = 32
    """Images per step over all workers."""
    seed: int = 0
    """Seed of the initial weights, the sample order and every augmentation."""

    def __post_init__(self) -> None:
        self._require("seed", self.seed >= 0, "must not be negative")
        require_positive(
            epochs=self.epochs, global_batch_size=self.global_batch_size, accumulation_steps=self.accumulation_steps
        )
        self._check_objective()
        self._check_network()
        self._check_normalisation()
        self._check_loss()
        self._check_camera()
        self._check_augmentation()
        self._check_dataset_weights()
        self._check_optimizer()

    def _check_network(self) -> None:
        require_known(encoder=([self.encoder], ENCODERS), decoder=([self.decoder], DECODERS))
        stride = stride_px(self.encoder)
        for field in ("height", "width"):
            size = getattr(self, field)
            multiple = f"must be a multiple of {stride}, the encoder's stride"
            self._require(field, size is None or (size > 0 and size % stride == 0), multiple)
        self._check_decoder(is_dpt=self.decoder == "dpt")

    def _check_decoder(self, *, is_dpt: bool) -> None:
        stages = len(self.decoder_filters)
        few, rule = ((1,), "takes one number, of") if is_dpt else ((3, 4, 5), "takes three to five numbers of")
        valid = stages in few and min(self.decoder_filters) >= 1 + is_dpt
        self._require("decoder_filters", valid, f"{rule} at least {1 + is_dpt} with --decoder {self.decoder}")
        valid = self.bottleneck_filters == 0 if is_dpt else self.bottleneck_filters >= 0
        self._require("bottleneck_filters", valid, "must be 0 with --decoder dpt" if is_dpt else "must not be negative")
        valid = self.decoder_upsampling == "nearest" or self.decoder == "unet"
        self._require("decoder_upsampling", valid, "is only for --decoder unet")
        valid = 1 <= self.supervised_scales <= stages
        self._require("supervised_scales", valid, f"must be 1 to {stages}, the number of decoder stages")
        valid = self.supervised_scales == 1 or not is_transformer(self.encoder)
        self._require("supervised_scales", valid, "must be 1 with a vision transformer, whose maps do not halve")

    def _check_normalisation(self) -> None:
        synchronized = self.decoder_norm == "batch" or (
            self.batch_norm == "synchronized"
            and self.encoder not in ENCODERS_WITHOUT_BATCH_NORM
            and not is_transformer(self.encoder)
        )
        require(
            not (self.xla and synchronized),
            "--xla compiles no collectives, which synchronized batch normalisation needs: take --batch-norm frozen and "
            "--decoder-norm group or none. "
            f"Received: --batch-norm {self.batch_norm} --decoder-norm {self.decoder_norm}",
        )
        require(
            self.batch_norm != "frozen" or self.weights != "none",
            "--batch-norm frozen keeps pre-trained statistics: pass --weights imagenet or a file, or "
            "--batch-norm synchronized. Received: --weights none",
        )

    def _check_loss(self) -> None:
        terms = [name for name, _ in self.loss]
        require_known(loss=(terms, LOSS_TERMS))
        valid = len(terms) == len(set(terms)) > 0 and all(0 < weight < math.inf for _, weight in self.loss)
        self._require("loss", valid, "takes terms, each once, with positive weights: l1 1 gradient 0.5")
        valid = self.clip_depth == "none" or "supervised" in self.objectives
        self._require("clip_depth", valid, "clips labels: it is only for --objective supervised")

    def _check_camera(self) -> None:
        fov = self.assume_fov_deg
        self._require("assume_fov_deg", fov is None or 0 < fov < 180, "must be above 0 and below 180")
        canonical = self.camera == "canonical"
        self._require("assume_fov_deg", fov is None or canonical, "is only for --camera canonical")
        valid = self.zoom_depth == "focal" or not canonical
        self._require("zoom_depth", valid, "must be focal with --camera canonical, where a zoom is a longer lens")

    def _check_augmentation(self) -> None:
        self._require("max_zoom", 1 <= self.max_zoom <= 4, "must be 1 to 4")
        self._require("colour_jitter", 0 <= self.colour_jitter < 1, "must be 0 or more and below 1")
        self._require("blur", 0 <= self.blur <= 1, "must be 0 to 1")
        names = [name for name, _ in self.augment]
        require_known(augment=(names, AUGMENTATIONS))
        valid = len(names) == len(set(names)) and all(0 < amount <= 1 for _, amount in self.augment)
        self._require("augment", valid, "takes names, each once, with amounts above 0 and up to 1: gamma 0.3")

    def _check_dataset_weights(self) -> None:
        names = [name for name, _ in self.dataset_weights]
        valid = len(names) == len(set(names)) and all(0 <= weight < math.inf for _, weight in self.dataset_weights)
        self._require(
            "dataset_weights", valid, "takes data sets, each once, with weights of at least 0: tum 3 kitti 0.5"
        )

    def _check_optimizer(self) -> None:
        self._require("learning_rate", self.learning_rate > 0, "must be positive")
        self._require("weight_decay", self.weight_decay >= 0, "must not be negative")
        require(
            self.weight_decay == 0 or self.optimizer != "adam",
            "--weight-decay is decoupled and adam has none: take --optimizer adamw. "
            f"Received: {self.weight_decay} with adam",
        )
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "must be positive")
        self._require("encoder_rate", 0 < self.encoder_rate <= 1, "must be above 0 and at most 1")
        self._require("layer_decay", 0 < self.layer_decay <= 1, "must be above 0 and at most 1")
        self._require("lora_rank", self.lora_rank >= 0, "must not be negative")
        for field, default in (("layer_decay", 1), ("lora_rank", 0), ("remat", False)):
            valid = is_transformer(self.encoder) or getattr(self, field) == default
            self._require(field, valid, f"needs a vision transformer such as dinov2_small, not {self.encoder}")
        valid = self.lora_rank == 0 or self.frozen_epochs < self.epochs
        self._require("lora_rank", valid, "must be 0 if --frozen-encoder-epochs keeps all of the encoder to the end")
        valid = 0 <= self.frozen_epochs <= self.epochs
        self._require("frozen_encoder_epochs", valid, f"must be all, or 0 to {self.epochs}, the number of --epochs")
        valid = self.ema_momentum is None or 0 < self.ema_momentum < 1
        self._require("ema_momentum", valid, "must be between 0 and 1")

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width in pixels, once both are known."""
        assert self.height and self.width, f"{self.name} has no size yet: see training.suitability.sized"
        return self.height, self.width

    @property
    def frozen_epochs(self) -> int:
        """Number of initial epochs that train only the decoder."""
        return self.epochs if self.frozen_encoder_epochs == "all" else self.frozen_encoder_epochs

    def blank(self) -> "Recipe":
        """Returns this recipe without pre-trained weights to load, for callers that set the weights themselves."""
        return replace(self, weights="none", batch_norm="synchronized", xla=False)
