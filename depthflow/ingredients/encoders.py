"""The encoders that a recipe may name: their help, their input's scaling, and how each is built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthflow.ingredients.later import Later

if TYPE_CHECKING:
    import keras
    from keras import layers
else:
    keras, layers = Later("keras"), Later("keras.layers")

CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
"""ImageNet channel means that Keras's ResNet50 weights were trained with, after RGB to BGR, without scaling."""
IMAGENET_MEANS_RGB = (0.485, 0.456, 0.406)
IMAGENET_DEVIATIONS_RGB = (0.229, 0.224, 0.225)
TINY_FILTERS = (16, 24, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What every encoder says of itself.

    Attributes:
        help: a few words for --help.
        scale: of the input, as the weights expect: rgb * scale + offset, one number or one a channel.
        offset: see scale.
        has_batch_norm: whether it normalises by batch: such layers are synchronized between workers, or frozen.
    """

    help: str
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    has_batch_norm: bool = True


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

    build: Callable[..., "keras.Model"]
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

    build: Callable[["keras.KerasTensor"], Sequence["keras.KerasTensor"]]


def application(name: str) -> Callable[..., "keras.Model"]:
    """The function keras.applications.NAME, looked up when it is called."""

    def build(**options: Any) -> "keras.Model":
        return getattr(keras.applications, name)(**options)

    return build


def tiny(scaled: "keras.KerasTensor") -> list["keras.KerasTensor"]:
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
        help="the tutorial's",
        build=application("ResNet50"),
        skips=("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        offset=tuple(-mean for mean in CAFFE_MEANS_BGR),
        bgr=True,
    ),
    # He et al. 2016, arXiv:1603.05027. A block begins with its activation, and the last one of a stage has the stride.
    "resnet50v2": Application(
        help="its second version",
        build=application("ResNet50V2"),
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
        help="no batch normalisation",
        build=application("ConvNeXtTiny"),
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
        has_batch_norm=False,
    ),
    # Tan and Le 2021, arXiv:2104.00298.
    "efficientnetv2_s": Application(
        help="20 M parameters",
        build=application("EfficientNetV2S"),
        skips=("block1b_add", "block2d_add", "block3d_add", "block5i_add"),
        scale=1 / 128,
        offset=-1.0,
        own_scaling=True,
    ),
    # Howard et al. 2019, arXiv:1905.02244.
    "mobilenetv3_large": Application(
        help="3 M parameters",
        build=application("MobileNetV3Large"),
        skips=("expanded_conv_add", "expanded_conv_2_add", "expanded_conv_5_add", "expanded_conv_11_add"),
        scale=1 / 127.5,
        offset=-1.0,
        own_scaling=True,
    ),
    "tiny": Network(
        help="0.05 M parameters, for tests and the demo",
        build=tiny,
        scale=1 / 127.5,
        offset=-1.0,
        has_batch_norm=False,
    ),
}
