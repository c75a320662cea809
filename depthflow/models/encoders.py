"""Encoders behind one interface: uint8 photographs in, feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 out.

`depthflow.recipe.ENCODERS` has their names, which a command line needs before it imports Keras.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import applications, layers, ops

from depthflow.errors import TrainingError

DECODER_PREFIX = "decoder"
"""Names of layers that are not the encoder's begin with it."""
HALF_SKIP_FILTERS = 48
CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
"""ImageNet channel means that Keras's ResNet50 weights were trained with, after RGB to BGR, without scaling."""
IMAGENET_MEANS_RGB = (0.485, 0.456, 0.406)
IMAGENET_DEVIATIONS_RGB = (0.229, 0.224, 0.225)
TINY_FILTERS = (16, 24, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What every encoder says of itself.

    Attributes:
        scale: of the input, as the weights expect: rgb * scale + offset, one number or one a channel.
        offset: see scale.
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0


@dataclass(frozen=True, kw_only=True)
class Application(Encoder):
    """A network of keras.applications as an encoder. Its output, without its top, is the map at 1/32.

    Attributes:
        build: the function of keras.applications.
        skips: the layers whose outputs are the maps at 1/2, 1/4, 1/8 and 1/16; None where there is no such map.
        skips_are_branches: each layer ends a residual branch, and the map is the sum behind it, which Keras leaves
            unnamed.
        bgr: the channels are turned round after scaling and before the offset is added.
        own_scaling: the function has an argument include_preprocessing, to be False, since the scaling is ours.
    """

    build: Callable[..., keras.Model]
    skips: tuple[str | None, str, str, str]
    skips_are_branches: bool = False
    bgr: bool = False
    own_scaling: bool = False


@dataclass(frozen=True, kw_only=True)
class Network(Encoder):
    """A network of our own as an encoder, without pre-trained weights.

    Attributes:
        build: from the scaled image (B, H, W, 3) to its maps at 1/2, 1/4, 1/8, 1/16 and 1/32, of layers that Keras
            ships.
    """

    build: Callable[[keras.KerasTensor], Sequence[keras.KerasTensor]]


def tiny(scaled: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Five strided 3x3 convolutions with group normalisation."""
    x: Any = scaled
    maps = []
    for stage, filters in enumerate(TINY_FILTERS, start=1):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"tiny{stage}_conv")(x)
        x = layers.GroupNormalization(8, name=f"tiny{stage}_norm")(x)
        x = layers.ReLU(name=f"tiny{stage}_relu")(x)
        maps.append(x)
    return maps


ENCODERS: dict[str, Application | Network] = {
    # He et al. 2015, arXiv:1512.03385.
    "resnet50": Application(
        build=applications.ResNet50,
        skips=("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        offset=tuple(-mean for mean in CAFFE_MEANS_BGR),
        bgr=True,
    ),
    # He et al. 2016, arXiv:1603.05027. A block begins with its activation, and the last one of a stage has the stride.
    "resnet50v2": Application(
        build=applications.ResNet50V2,
        skips=(
            "conv1_conv",
            "conv2_block3_preact_relu",
            "conv3_block4_preact_relu",
            "conv4_block6_preact_relu",
        ),
        scale=1 / 127.5,
        offset=-1.0,
    ),
    # Liu et al. 2022, arXiv:2201.03545. The stem has stride 4.
    "convnext_tiny": Application(
        build=applications.ConvNeXtTiny,
        skips=(
            None,
            "convnext_tiny_stage_0_block_2_identity",
            "convnext_tiny_stage_1_block_2_identity",
            "convnext_tiny_stage_2_block_8_identity",
        ),
        skips_are_branches=True,
        scale=tuple(1 / (255 * deviation) for deviation in IMAGENET_DEVIATIONS_RGB),
        offset=tuple(-m / d for m, d in zip(IMAGENET_MEANS_RGB, IMAGENET_DEVIATIONS_RGB, strict=True)),
        own_scaling=True,
    ),
    # Tan and Le 2021, arXiv:2104.00298.
    "efficientnetv2_s": Application(
        build=applications.EfficientNetV2S,
        skips=("block1b_add", "block2d_add", "block3d_add", "block5i_add"),
        scale=1 / 128,
        offset=-1.0,
        own_scaling=True,
    ),
    # Howard et al. 2019, arXiv:1905.02244.
    "mobilenetv3_large": Application(
        build=applications.MobileNetV3Large,
        skips=("expanded_conv_add", "expanded_conv_2_add", "expanded_conv_5_add", "expanded_conv_11_add"),
        scale=1 / 127.5,
        offset=-1.0,
        own_scaling=True,
    ),
    "tiny": Network(
        build=tiny,
        scale=1 / 127.5,
        offset=-1.0,
    ),
}


@dataclass(frozen=True)
class Features:
    """An encoder's outputs.

    Attributes:
        skips: four maps, fine to coarse, at 1/2, 1/4, 1/8 and 1/16 of the input's resolution.
        bottom: the map at 1/32.
    """

    skips: tuple[keras.KerasTensor, ...]
    bottom: keras.KerasTensor


def build_encoder(rgb: keras.KerasTensor, *, name: str, weights: str, input_scaling: str = "encoder") -> Features:
    """An encoder's maps.

    Of an application, ConvNeXt has no map at 1/2: a strided convolution of the scaled image stands in for it, named
    decoder_half_*, since it is not pre-trained. EfficientNetV2's random dropping of residual branches is switched off:
    its draws would depend on the worker.

    Args:
        rgb: (B, H, W, 3) uint8; H and W multiples of 32.
        name: one of `ENCODERS`.
        weights: imagenet, none, or the path of a .weights.h5 file of the application with include_top=False. A network
            of our own has none.
        input_scaling: encoder, as the ImageNet weights expect; or unit, rgb / 255.

    Raises:
        TrainingError: if the weights cannot be loaded.
    """
    scaled = _scaled(rgb, name=name, input_scaling=input_scaling)
    encoder = ENCODERS[name]
    if isinstance(encoder, Network):
        if weights != "none":
            raise TrainingError(
                f"The {name} encoder has no published weights. Pass --encoder-weights none. Received: {weights}"
            )
        *skips, bottom = encoder.build(scaled)
        return Features(skips=tuple(skips), bottom=bottom)
    return _application_features(scaled, encoder, weights)


def _application_features(scaled: keras.KerasTensor, application: Application, weights: str) -> Features:
    options = {"include_preprocessing": False} if application.own_scaling else {}
    backbone = application.build(include_top=False, weights=None, input_tensor=scaled, **options)
    for layer in backbone.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    _load_weights(backbone, weights, application.build)
    skips = [_half_skip(scaled) if skip is None else _map_of(backbone, skip, application) for skip in application.skips]
    return Features(skips=tuple(skips), bottom=backbone.output)


def _scaled(rgb: keras.KerasTensor, *, name: str, input_scaling: str) -> keras.KerasTensor:
    """(B, H, W, 3) float as the backbone takes it; float32 under a mixed policy too, since bfloat16 has 8 bits."""
    dtype = keras.config.dtype_policy().variable_dtype
    if input_scaling == "unit":
        return layers.Rescaling(1 / 255, dtype=dtype, name="unit_scale")(rgb)
    encoder = ENCODERS[name]
    scale, offset = (list(x) if isinstance(x, tuple) else x for x in (encoder.scale, encoder.offset))
    if isinstance(encoder, Application) and encoder.bgr:
        bgr = ops.flip(layers.Rescaling(scale, dtype=dtype, name="caffe_cast")(rgb), axis=-1)
        return layers.Rescaling(1.0, offset=offset, dtype=dtype, name="caffe_means")(bgr)
    return layers.Rescaling(scale, offset=offset, dtype=dtype, name=f"{name}_scale")(rgb)


def _map_of(backbone: keras.Model, name: str, application: Application) -> keras.KerasTensor:
    """One of an application's maps."""
    if not application.skips_are_branches:
        return backbone.get_layer(name).output
    names = [operation.name for operation in backbone.operations]
    return backbone.operations[names.index(name) + 1].output


def _half_skip(scaled: keras.KerasTensor) -> keras.KerasTensor:
    """(B, H/2, W/2, HALF_SKIP_FILTERS) for an encoder that begins with stride 4."""
    convolve = layers.Conv2D(HALF_SKIP_FILTERS, 3, strides=2, padding="same", name=f"{DECODER_PREFIX}_half_conv")
    return layers.ReLU(name=f"{DECODER_PREFIX}_half_relu")(convolve(scaled))


def _load_weights(backbone: keras.Model, weights: str, application: Callable[..., keras.Model]) -> None:
    """Sets a backbone's weights to an application's.

    Args:
        backbone: a model whose weighted layers are those of the application without its top.
        weights: imagenet, none or a path.
        application: a function of keras.applications.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        try:
            loaded = application(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception where a download fails.
            raise TrainingError(
                f"The ImageNet weights cannot be downloaded from here: {error}. Pass --encoder-weights PATH with the "
                ".weights.h5 file of the encoder without its top, or --encoder-weights none."
            ) from error
    else:
        if not Path(weights).is_file():
            raise TrainingError(f"There is no weights file {weights}. Pass --encoder-weights imagenet, none or a path.")
        loaded = application(include_top=False, weights=None)
        try:
            loaded.load_weights(weights)
        except (ValueError, OSError, KeyError) as error:
            raise TrainingError(
                f"{weights} does not hold this encoder's weights. Pass --encoder-weights the .weights.h5 file of the "
                f"encoder without its top. {error}"
            ) from error
    backbone.set_weights(loaded.get_weights())
