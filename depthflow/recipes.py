"""Named recipes. Each docstring gives the purpose, the command and, where measured, the result."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tyro

from depthflow.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {}
"""Recipes by the names that train.py takes."""


def named(recipe: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Adds a recipe to `RECIPES` under its own name.

    Raises:
        ValueError: if the name is taken.
    """
    name = recipe().name
    if name in RECIPES:
        raise ValueError(f"Two recipes are named {name}.")
    RECIPES[name] = recipe
    return recipe


def recipe_choice() -> Any:
    """Returns the type of a command line that names a recipe and overrides its fields; the store gives the size."""
    descriptions = {name: (recipe.__doc__ or "").partition("\n")[0] for name, recipe in RECIPES.items()}
    recipes = {name: replace(recipe(), height=None, width=None) for name, recipe in RECIPES.items()}
    return tyro.extras.subcommand_type_from_defaults(recipes, descriptions=descriptions)


@named
def smoke() -> Recipe:
    """A tiny encoder, without downloads, to test the whole chain.

    Two epochs at 64 x 64 take seconds.

    python pipelines/train.py smoke --samples STORE --storage DIR
    """
    return Recipe(
        name="smoke",
        encoder="tiny",
        weights="none",
        decoder_filters=(64, 48, 32, 24, 16),
        decoder_norm="group",
        height=64,
        width=64,
        loss=(("l1", 1.0),),
        horizontal_flip=True,
        max_zoom=1.3,
        colour_jitter=0.2,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        weight_decay=1e-4,
        clip_norm=1.0,
        epochs=2,
        global_batch_size=16,
    )


@named
def demo() -> Recipe:
    """The tiny encoder, trained as well as the demo's minute on two cores allows.

    python pipelines/train.py demo --samples STORE --storage DIR

    The decoder ends at a quarter of the resolution, which makes its steps cheaper than smoke's. On the 96 val
    images of the demo's mini-DIODE at full resolution: abs_rel 0.331, delta1 0.565 (`make demo`).
    """
    return Recipe(
        name="demo",
        encoder="tiny",
        weights="none",
        decoder_filters=(64, 48, 32),
        decoder_norm="group",
        height=64,
        width=64,
        loss=(("l1", 1.0), ("silog", 1.0), ("gradient", 0.5)),
        horizontal_flip=True,
        max_zoom=1.3,
        colour_jitter=0.1,
        optimizer="adamw",
        learning_rate=4e-3,
        schedule="cosine",
        weight_decay=1e-4,
        clip_norm=1.0,
        epochs=60,
        global_batch_size=16,
    )


@named
def tutorial() -> Recipe:
    """The notebook tutorial's network and hyper-parameters, with masked losses.

    ResNet50 U-Net, 256 x 256, batch 32, 60 epochs, Adam 1e-3, mean squared error + 0.1 Huber on log-depth.

    python pipelines/train.py tutorial --samples STORE --storage DIR

    It differs from the tutorial on purpose in two points: the network scales its input as the ImageNet weights expect
    (the tutorial feeds [0, 1]), and invalid pixels do not enter the loss.
    """
    return Recipe(name="tutorial", encoder="resnet50", weights="imagenet", clip_depth="tutorial")


@named
def diode() -> Recipe:
    """For full DIODE on several GPUs: ResNet50, L1 + scale-invariant + gradient loss on log-depth, AdamW, cosine.

    python pipelines/train.py diode --samples STORE --storage DIR --num-workers 8

    The encoder's batch normalisation keeps its ImageNet statistics and the decoder uses group normalisation, so the
    forward and backward pass needs no communication before the all-reduce: --xla compiles it. --dtype mixed_bfloat16 is
    for A100 and later GPUs. Loss, optimizer and augmentation are those of nyu-cpu, which was measured. This recipe has
    not been run at full size, so its duration and score are unknown.
    """
    return Recipe(
        name="diode",
        encoder="resnet50",
        weights="imagenet",
        batch_norm="frozen",
        decoder_filters=(512, 256, 128, 64, 32),
        decoder_norm="group",
        loss=(("l1", 1.0), ("silog", 1.0), ("gradient", 0.5)),
        horizontal_flip=True,
        max_zoom=1.5,
        colour_jitter=0.25,
        optimizer="adamw",
        learning_rate=3e-4,
        encoder_rate=0.33,
        schedule="cosine",
        weight_decay=1e-2,
        clip_norm=1.0,
        epochs=30,
        global_batch_size=64,
    )


@named
def nyu_cpu() -> Recipe:
    """ResNet50 on a few hundred indoor images without a GPU.

    python pipelines/train.py nyu-cpu --samples STORE --storage DIR --num-workers 1

    The encoder's batch normalisation keeps its ImageNet statistics, and its weights learn at a third of the rate. The
    decoder has a quarter of the tutorial's width and ends at half resolution. A zoom divides depth, since all frames
    are from one camera. Result on 648 images of NYU Depth V2 at 128 x 160, with 147 others held out: val abs_rel 0.180,
    delta1 0.719 after 51 minutes on two cores (docs/explanation/learning.md).
    """
    return Recipe(
        name="nyu-cpu",
        encoder="resnet50",
        weights="imagenet",
        batch_norm="frozen",
        decoder_filters=(256, 128, 64, 32),
        decoder_norm="batch",
        height=128,
        width=160,
        onednn=True,
        loss=(("l1", 1.0), ("silog", 1.0), ("gradient", 0.5)),
        horizontal_flip=True,
        max_zoom=1.5,
        colour_jitter=0.25,
        optimizer="adamw",
        learning_rate=3e-4,
        encoder_rate=0.33,
        schedule="cosine",
        weight_decay=1e-2,
        clip_norm=1.0,
        frozen_encoder_epochs=2,
        epochs=16,
        global_batch_size=8,
    )


@named
def fcrn() -> Recipe:
    """The fully convolutional residual network of Laina et al. 2016: ResNet50, up-projections without skips, berHu.

    python pipelines/train.py fcrn --samples STORE --storage DIR --num-workers 4

    Hyper-parameters are the paper's (arXiv:1606.00373), with two differences: the loss is on log-depth, and the rate
    falls as a cosine instead of by hand. It has not been run at full size, so its duration and score are unknown.
    """
    return Recipe(
        name="fcrn",
        encoder="resnet50",
        weights="imagenet",
        decoder="fcrn",
        bottleneck_filters=1024,
        decoder_filters=(512, 256, 128, 64),
        decoder_norm="batch",
        loss=(("berhu", 1.0),),
        horizontal_flip=True,
        max_zoom=1.5,
        colour_jitter=0.2,
        optimizer="sgd",
        learning_rate=1e-2,
        schedule="cosine",
        weight_decay=1e-4,
        epochs=20,
        global_batch_size=16,
    )


@named
def depth_anything_small_metric() -> Recipe:
    """Depth Anything V2 small (Apache-2.0), fine-tuned to metres on your own frames.

    python pipelines/train.py depth-anything-small-metric --samples STORE --storage DIR

    STORE has sides in multiples of 14, such as 252 x 336, and frames with a camera; for others pass --camera none or
    --assume-fov-deg. --weights depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf (or -Outdoor-) begins in metres.
    The encoder learns at a tenth of the decoder's rate, and each of its blocks at 0.9 of the next one's. --remat halves
    the memory of a step (docs/how-to/fine-tune.md). Tests train it with random weights; with the published ones it has
    not been run, so its duration and score are unknown.

    Sources: Yang et al. 2024, arXiv:2406.09414; rates: Bao et al. 2022 (BEiT), arXiv:2106.08254.
    """
    return Recipe(
        name="depth-anything-small-metric",
        encoder="dinov2_small",
        weights="depth-anything/Depth-Anything-V2-Small-hf",
        decoder="dpt",
        decoder_filters=(64,),
        height=252,
        width=336,
        loss=(("l1", 1.0), ("silog", 1.0), ("gradient", 0.5)),
        camera="canonical",
        horizontal_flip=True,
        max_zoom=1.5,
        colour_jitter=0.25,
        optimizer="adamw",
        learning_rate=1e-4,
        encoder_rate=0.1,
        layer_decay=0.9,
        schedule="cosine",
        weight_decay=1e-2,
        clip_norm=1.0,
        ema_momentum=0.99,
        epochs=20,
        global_batch_size=16,
    )


@named
def depth_anything_small_frozen() -> Recipe:
    """As depth-anything-small-metric, but only the decoder learns: for small GPUs and few frames.

    python pipelines/train.py depth-anything-small-frozen --samples STORE --storage DIR

    The encoder has no gradients, moments or averages: a step takes a third of the memory. Not run with the published
    weights either.
    """
    return replace(
        depth_anything_small_metric(),
        name="depth-anything-small-frozen",
        encoder_rate=1.0,
        layer_decay=1.0,
        frozen_encoder_epochs="all",
    )


@named
def stereo() -> Recipe:
    """Depth in metres from stereo pairs without depth: ResNet50, each image predicts the other.

    python pipelines/train.py stereo --samples STORE --storage DIR

    STORE is of kind stereo. Photometric error, left-right consistency and smoothness at four scales, all compared at
    full resolution. It has not been run at full size, so its duration and score are unknown.

    Source: Godard et al. 2017 (Monodepth), arXiv:1609.03677; scales of Godard et al. 2019, arXiv:1806.01260.
    """
    return Recipe(
        name="stereo",
        objective=(("stereo", 1.0),),
        encoder="resnet50",
        weights="imagenet",
        batch_norm="frozen",
        decoder_filters=(256, 128, 64, 32, 16),
        decoder_norm="group",
        supervised_scales=4,
        horizontal_flip=True,
        colour_jitter=0.2,
        optimizer="adamw",
        learning_rate=1e-4,
        schedule="cosine",
        weight_decay=1e-2,
        clip_norm=1.0,
        epochs=20,
        global_batch_size=12,
    )


@named
def video() -> Recipe:
    """Depth from video without depth: ResNet50 and a pose network, a frame is predicted from its neighbours.

    python pipelines/train.py video --samples STORE --storage DIR

    STORE is of kind video. Depth is known up to a factor; --poses given, --scale-from velocity or --scale-from median
    make it metres. It has not been run at full size, so its duration and score are unknown.

    Source: Godard et al. 2019 (Monodepth2), arXiv:1806.01260.
    """
    return replace(stereo(), name="video", objective=(("video", 1.0),))


@named
def stereo_tiny() -> Recipe:
    """As stereo, with the tiny encoder and an output at a quarter of the resolution: for CPUs and tests.

    python pipelines/train.py stereo-tiny --samples STORE --storage DIR --num-workers 1

    `benchmarks/self_supervised.py` trains it on ray-cast pairs; its score after a full run is not known yet.
    """
    return replace(
        stereo(),
        name="stereo-tiny",
        encoder="tiny",
        weights="none",
        batch_norm="synchronized",
        decoder_filters=(64, 48, 32),
        supervised_scales=3,
        height=64,
        width=128,
        onednn=True,
        smoothness=3e-3,
        learning_rate=2e-3,
        epochs=40,
        global_batch_size=8,
    )


@named
def video_tiny() -> Recipe:
    """As video, with the tiny encoder and an output at a quarter of the resolution: for CPUs and tests.

    python pipelines/train.py video-tiny --samples STORE --storage DIR --num-workers 1

    `benchmarks/self_supervised.py` trains it on ray-cast walks; its score after a full run is not known yet.
    """
    return replace(stereo_tiny(), name="video-tiny", objective=(("video", 1.0),), learning_rate=1e-3)
