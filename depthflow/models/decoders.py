"""Decoders behind one interface: from an encoder's features to one feature map per stage, coarse to fine.

`depthflow.parts.DECODERS` lists their names for the command line, which does not import Keras.
"""

# Keras types its operations loosely.
# pyright: reportArgumentType=false, reportReturnType=false

import math
from collections.abc import Callable

import keras
from keras import layers

from depthflow.models.features import DECODER_PREFIX, Features
from depthflow.models.resizing import align_corners
from depthflow.recipe import Recipe

BATCH_NORM_MOMENTUM = 0.9
"""Momentum in the decoder, whose statistics then cover tens of steps. With Keras's 0.99 on some hundred images, the
statistics of the first epochs were still dominated by their initial values."""
HEAD_FILTERS = 32
"""Filters of the last convolution of DPT before the prediction."""


def unet(features: Features, recipe: Recipe) -> list[keras.KerasTensor]:
    """Upsampling by 2 and two 3x3 convolutions a stage, each of the first four with the encoder's map of its size.

    Source: Ronneberger et al. 2015, arXiv:1505.04597; upsampling before a convolution: Odena et al. 2016,
    doi:10.23915/distill.00003.
    """
    x = features.bottom
    if recipe.bottleneck_filters:
        x = _convolve_twice(x, filters=recipe.bottleneck_filters, norm=recipe.decoder_norm, name=f"{DECODER_PREFIX}0")
    stages = []
    for stage, filters in enumerate(recipe.decoder_filters, start=1):
        name = f"{DECODER_PREFIX}{stage}"
        x = layers.UpSampling2D(2, interpolation=recipe.decoder_upsampling, name=f"{name}_up")(x)
        skip = features.skips[-stage] if stage <= len(features.skips) else None
        if skip is not None:
            x = layers.Concatenate(name=f"{name}_skip")([_cropped(x, skip, name=f"{name}_crop"), skip])
        x = _convolve_twice(x, filters=filters, norm=recipe.decoder_norm, name=name)
        stages.append(x)
    return stages


def fcrn(features: Features, recipe: Recipe) -> list[keras.KerasTensor]:
    """Up-projections of the coarsest map, without skips, after a 1x1 convolution of `recipe.bottleneck_filters`.

    An up-projection sums two branches of its input, unpooled by 2: a 5x5 convolution, ReLU and a 3x3 convolution; and a
    5x5 convolution. Unpooling writes zeros between the values, so that it and a convolution are one transposed
    convolution.

    Source: Laina et al. 2016, arXiv:1606.00373, section 3.1.
    """
    x = features.bottom
    if recipe.bottleneck_filters:
        x = _convolved(
            x, filters=recipe.bottleneck_filters, size=1, norm=recipe.decoder_norm, name=f"{DECODER_PREFIX}0"
        )
    stages = []
    for stage, filters in enumerate(recipe.decoder_filters, start=1):
        x = _up_projection(x, filters=filters, norm=recipe.decoder_norm, name=f"{DECODER_PREFIX}{stage}")
        x = _cropped(x, features.skips[-1], name=f"{DECODER_PREFIX}{stage}_crop") if stage == 1 else x
        stages.append(x)
    return stages


def dpt(features: Features, recipe: Recipe) -> list[keras.KerasTensor]:
    """Returns `dpt_map` alone; the number in `recipe.decoder_filters` is the width of the fusion."""
    return [dpt_map(features, filters=recipe.decoder_filters[0], norm=recipe.decoder_norm, size=recipe.size)]


def dpt_map(features: Features, *, filters: int, norm: str, size: tuple[int, int]) -> keras.KerasTensor:
    """Fuses the maps from coarse to fine by residual convolutions, and ends at the size of the input.

    Args:
        features: The encoder's maps.
        filters: Width of the fusion.
        norm: Normalisation after each of its convolutions.
        size: Height and width of the input.

    Source: Ranftl et al. 2021, arXiv:2103.13413, section 3 and figure 1, as in Depth Anything V2, Yang et al. 2024,
    arXiv:2406.09414.
    """
    maps = [
        layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{DECODER_PREFIX}_conv{level}")(x)
        for level, x in enumerate((*features.skips[1:], features.bottom))
    ]
    maps.reverse()
    fused = None
    for stage, x in enumerate(maps):
        name = f"{DECODER_PREFIX}_fusion{stage}"
        if fused is not None:
            x = layers.Add(name=f"{name}_add")([fused, _residual(x, norm=norm, name=f"{name}_residual1")])
        x = _residual(x, norm=norm, name=f"{name}_residual2")
        finer = maps[stage + 1].shape[1:3] if stage + 1 < len(maps) else (2 * x.shape[1], 2 * x.shape[2])
        x = align_corners(x, finer, name=f"{name}_up")
        fused = layers.Conv2D(filters, 1, name=f"{name}_project")(x)
    x = layers.Conv2D(filters // 2, 3, padding="same", name=f"{DECODER_PREFIX}_head_conv1")(fused)
    x = align_corners(x, size, name=f"{DECODER_PREFIX}_head_up")
    x = layers.Conv2D(HEAD_FILTERS, 3, padding="same", name=f"{DECODER_PREFIX}_head_conv2")(x)
    return layers.ReLU(name=f"{DECODER_PREFIX}_head_relu")(x)


Decoder = Callable[[Features, Recipe], list[keras.KerasTensor]]
DECODERS: dict[str, Decoder] = {"unet": unet, "dpt": dpt, "fcrn": fcrn}


def _convolve_twice(x: keras.KerasTensor, *, filters: int, norm: str, name: str) -> keras.KerasTensor:
    """Applies two 3x3 convolutions, each followed by normalisation and ReLU."""
    for k in (1, 2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=norm == "none", name=f"{name}_conv{k}")(x)
        x = layers.ReLU(name=f"{name}_relu{k}")(_normalised(x, norm, name=f"{name}_norm{k}"))
    return x


def _convolved(x: keras.KerasTensor, *, filters: int, size: int, norm: str, name: str) -> keras.KerasTensor:
    """Applies a convolution and normalisation."""
    x = layers.Conv2D(filters, size, padding="same", use_bias=norm == "none", name=f"{name}_conv")(x)
    return _normalised(x, norm, name=f"{name}_norm")


def _up_projection(x: keras.KerasTensor, *, filters: int, norm: str, name: str) -> keras.KerasTensor:
    def unpooled(branch: int) -> keras.KerasTensor:
        convolve = layers.Conv2DTranspose(
            filters, 5, strides=2, padding="same", use_bias=norm == "none", name=f"{name}_unpool{branch}"
        )
        return _normalised(convolve(x), norm, name=f"{name}_norm{branch}")

    upper = layers.ReLU(name=f"{name}_relu1")(unpooled(1))
    upper = _convolved(upper, filters=filters, size=3, norm=norm, name=f"{name}_upper")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([upper, unpooled(2)]))


def _residual(x: keras.KerasTensor, *, norm: str, name: str) -> keras.KerasTensor:
    """Adds two 3x3 convolutions, each after a ReLU."""
    y = x
    for k in (1, 2):
        y = layers.ReLU(name=f"{name}_relu{k}")(y)
        y = _convolved(y, filters=x.shape[-1], size=3, norm=norm, name=f"{name}_{k}")
    return layers.Add(name=f"{name}_add")([x, y])


def _normalised(x: keras.KerasTensor, norm: str, *, name: str) -> keras.KerasTensor:
    if norm == "batch":
        return layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=name)(x)
    if norm == "group":
        return layers.GroupNormalization(math.gcd(8, x.shape[-1]), name=name)(x)
    return x


def _cropped(x: keras.KerasTensor, like: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """Cuts off the last row and column that rounding up has added."""
    rows, columns = x.shape[1] - like.shape[1], x.shape[2] - like.shape[2]
    return layers.Cropping2D(((0, rows), (0, columns)), name=name)(x) if rows or columns else x
