"""Encoders behind one interface: from uint8 images to feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32.

`depthflow.parts.ENCODERS` lists their names for the command line, which does not import Keras.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import applications, layers, ops

from depthflow.errors import TrainingError
from depthflow.models.features import DECODER_PREFIX, IMAGENET_OFFSET, IMAGENET_SCALE, Factor, Features
from depthflow.models.vit import TRANSFORMERS, transformer_maps

HALF_SKIP_FILTERS = 48
CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
"""ImageNet channel means that Keras's ResNet50 weights expect, in BGR order and without scaling."""
TINY_FILTERS = (16, 24, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A network whose intermediate outputs are the maps at 1/2 to 1/16, and whose output is the map at 1/32.

    Attributes:
        build: Builds the network as the functions of keras.applications do.
        skips: Names of the layers whose outputs are the maps at 1/2, 1/4, 1/8 and 1/16; None if there is no such map.
        scale: Factor of the input, one number or one per channel: the weights expect rgb * scale + offset.
        offset: Offset of the input, likewise.
        skips_are_branches: Whether each layer ends a residual branch. The map is the sum after it, which has no name.
        bgr: Whether to reverse the channels, after scaling and before adding the offset.
        own_scaling: Whether `build` takes include_preprocessing, which must be False because the input is scaled here.
        has_weights: Whether pre-trained weights are published.
    """

    build: Callable[..., keras.Model]
    skips: tuple[str | None, str, str, str]
    scale: Factor = 1.0
    offset: Factor = 0.0
    skips_are_branches: bool = False
    bgr: bool = False
    own_scaling: bool = False
    has_weights: bool = True


def tiny(*, include_top: bool, weights: None, input_tensor: keras.KerasTensor) -> keras.Model:
    """Five strided 3x3 convolutions with group normalisation."""
    x: Any = input_tensor
    for stage, filters in enumerate(TINY_FILTERS, start=1):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"tiny{stage}_conv")(x)
        x = layers.GroupNormalization(8, name=f"tiny{stage}_norm")(x)
        x = layers.ReLU(name=f"tiny{stage}_relu")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)


ENCODERS: dict[str, Encoder] = {
    # He et al. 2015, arXiv:1512.03385.
    "resnet50": Encoder(
        build=applications.ResNet50,
        skips=("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        offset=tuple(-mean for mean in CAFFE_MEANS_BGR),
        bgr=True,
    ),
    # He et al. 2016, arXiv:1603.05027. A block begins with its activation; the last block of a stage has the stride.
    "resnet50v2": Encoder(
        build=applications.ResNet50V2,
        skips=("conv1_conv", "conv2_block3_preact_relu", "conv3_block4_preact_relu", "conv4_block6_preact_relu"),
        scale=1 / 127.5,
        offset=-1.0,
    ),
    # Liu et al. 2022, arXiv:2201.03545. The stem has stride 4.
    "convnext_tiny": Encoder(
        build=applications.ConvNeXtTiny,
        skips=(
            None,
            "convnext_tiny_stage_0_block_2_identity",
            "convnext_tiny_stage_1_block_2_identity",
            "convnext_tiny_stage_2_block_8_identity",
        ),
        skips_are_branches=True,
        scale=IMAGENET_SCALE,
        offset=IMAGENET_OFFSET,
        own_scaling=True,
    ),
    # Tan and Le 2021, arXiv:2104.00298.
    "efficientnetv2_s": Encoder(
        build=applications.EfficientNetV2S,
        skips=("block1b_add", "block2d_add", "block3d_add", "block5i_add"),
        scale=1 / 128,
        offset=-1.0,
        own_scaling=True,
    ),
    # Howard et al. 2019, arXiv:1905.02244.
    "mobilenetv3_large": Encoder(
        build=applications.MobileNetV3Large,
        skips=("expanded_conv_add", "expanded_conv_2_add", "expanded_conv_5_add", "expanded_conv_11_add"),
        scale=1 / 127.5,
        offset=-1.0,
        own_scaling=True,
    ),
    "tiny": Encoder(
        build=tiny,
        skips=("tiny1_relu", "tiny2_relu", "tiny3_relu", "tiny4_relu"),
        scale=1 / 127.5,
        offset=-1.0,
        has_weights=False,
    ),
}


def build_encoder(rgb: keras.KerasTensor, *, name: str, weights: str, input_scaling: str = "encoder") -> Features:
    """Builds an encoder.

    ConvNeXt has no map at 1/2. A strided convolution of the scaled image replaces it, named decoder_half_* since it is
    not pre-trained. EfficientNetV2's stochastic depth is switched off, because its draws would depend on the worker.

    Args:
        rgb: (B, H, W, 3) uint8; H and W multiples of the encoder's stride, 32 or a transformer's patch.
        name: Name in `ENCODERS` or `TRANSFORMERS`.
        weights: For a convolutional encoder: imagenet, none, or the path of a .weights.h5 file of the network with
            include_top=False. A transformer's are loaded when the whole network is there.
        input_scaling: encoder, as the pre-trained weights expect; or unit, rgb / 255.

    Raises:
        TrainingError: if the weights cannot be loaded.
    """
    if name in TRANSFORMERS:
        vit = TRANSFORMERS[name]
        return transformer_maps(_scaled(rgb, input_scaling, name=name, scale=vit.scale, offset=vit.offset), vit)
    encoder = ENCODERS[name]
    if weights != "none" and not encoder.has_weights:
        raise TrainingError(f"The {name} encoder has no published weights. Pass --weights none. Received: {weights}")
    scaled = _scaled(rgb, input_scaling, name=name, scale=encoder.scale, offset=encoder.offset, bgr=encoder.bgr)
    options = {"include_preprocessing": False} if encoder.own_scaling else {}
    backbone = encoder.build(include_top=False, weights=None, input_tensor=scaled, **options)
    for layer in backbone.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    _load_weights(backbone, weights, encoder.build)
    half, *coarser = (
        _half_skip(scaled) if skip is None else _map_of(backbone, skip, encoder) for skip in encoder.skips
    )
    return Features(skips=(half, *coarser), bottom=backbone.output)


def _scaled(
    rgb: keras.KerasTensor, input_scaling: str, *, name: str, scale: Factor, offset: Factor, bgr: bool = False
) -> keras.KerasTensor:
    """Returns (B, H, W, 3) float as the backbone expects it, in float32 even under a mixed policy."""
    dtype = keras.config.dtype_policy().variable_dtype
    if input_scaling == "unit":
        return layers.Rescaling(1 / 255, dtype=dtype, name="unit_scale")(rgb)
    factor, added = (list(x) if isinstance(x, tuple) else x for x in (scale, offset))
    if bgr:
        reversed_channels = ops.flip(layers.Rescaling(factor, dtype=dtype, name="caffe_cast")(rgb), axis=-1)
        return layers.Rescaling(1.0, offset=added, dtype=dtype, name="caffe_means")(reversed_channels)
    return layers.Rescaling(factor, offset=added, dtype=dtype, name=f"{name}_scale")(rgb)


def _map_of(backbone: keras.Model, name: str, encoder: Encoder) -> keras.KerasTensor:
    if not encoder.skips_are_branches:
        return backbone.get_layer(name).output
    names = [operation.name for operation in backbone.operations]
    return backbone.operations[names.index(name) + 1].output


def _half_skip(scaled: keras.KerasTensor) -> keras.KerasTensor:
    """Returns (B, H/2, W/2, HALF_SKIP_FILTERS), for an encoder that begins with stride 4."""
    convolve = layers.Conv2D(HALF_SKIP_FILTERS, 3, strides=2, padding="same", name=f"{DECODER_PREFIX}_half_conv")
    return layers.ReLU(name=f"{DECODER_PREFIX}_half_relu")(convolve(scaled))


def _load_weights(backbone: keras.Model, weights: str, build: Callable[..., keras.Model]) -> None:
    """Loads weights (imagenet, none or a path) into a backbone that `build` built without its top."""
    if weights == "none":
        return
    if weights == "imagenet":
        try:
            loaded = build(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception if a download fails.
            raise TrainingError(
                f"The ImageNet weights cannot be downloaded from here: {error}. Pass --weights PATH with the "
                ".weights.h5 file of the encoder without its top, or --weights none."
            ) from error
    else:
        if not Path(weights).is_file():
            raise TrainingError(f"There is no weights file {weights}. Pass --weights imagenet, none or a path.")
        loaded = build(include_top=False, weights=None)
        try:
            loaded.load_weights(weights)
        except (ValueError, OSError, KeyError) as error:
            raise TrainingError(
                f"{weights} does not hold this encoder's weights. Pass --weights the .weights.h5 file of the "
                f"encoder without its top. {error}"
            ) from error
    backbone.set_weights(loaded.get_weights())
