"""Encoders behind one interface: uint8 photographs in, feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 out."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers, ops

from depthflow.errors import TrainingError

CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
"""ImageNet channel means that Keras's ResNet50 weights were trained with, after RGB to BGR, without scaling."""


@dataclass(frozen=True)
class Features:
    """An encoder's outputs.

    Attributes:
        skips: four maps, fine to coarse, at 1/2, 1/4, 1/8 and 1/16 of the input's resolution.
        bottom: the map at 1/32.
    """

    skips: tuple[keras.KerasTensor, ...]
    bottom: keras.KerasTensor


EncoderBuilder = Callable[[keras.KerasTensor, str], Features]
"""From a uint8 (B, H, W, 3) RGB tensor and a weights argument (imagenet, none or a path) to features."""


def build_resnet50(rgb: keras.KerasTensor, weights: str) -> Features:
    """ResNet50 (He et al. 2015, arXiv:1512.03385) with Keras's caffe-style input, as its ImageNet weights expect.

    Args:
        rgb: (B, H, W, 3) uint8.
        weights: imagenet, none, or the path of a .weights.h5 file of ResNet50(include_top=False).

    Raises:
        TrainingError: if the weights cannot be loaded.
    """
    bgr = ops.flip(layers.Rescaling(1.0, name="caffe_cast")(rgb), axis=-1)
    centred = layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEANS_BGR], name="caffe_means")(bgr)
    backbone = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=centred)
    _load_weights(backbone, weights, keras.applications.ResNet50)
    names = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
    *skips, bottom = (backbone.get_layer(name).output for name in names)
    return Features(skips=tuple(skips), bottom=bottom)


def build_tiny(rgb: keras.KerasTensor, weights: str) -> Features:
    """Five strided 3x3 convolutions with group normalisation: 0.05 M parameters, for tests and the demo.

    Args:
        rgb: (B, H, W, 3) uint8.
        weights: none; it is always trained from scratch.

    Raises:
        TrainingError: if other weights are asked for.
    """
    if weights != "none":
        raise TrainingError(
            f"The tiny encoder has no published weights. Pass --encoder-weights none. Received: {weights}"
        )
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="tiny_scale")(rgb)
    maps = []
    for stage, filters in enumerate((16, 24, 32, 48, 64), start=1):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"tiny{stage}_conv")(x)
        x = layers.GroupNormalization(8, name=f"tiny{stage}_norm")(x)
        x = layers.ReLU(name=f"tiny{stage}_relu")(x)
        maps.append(x)
    return Features(skips=tuple(maps[:4]), bottom=maps[4])


ENCODERS: dict[str, EncoderBuilder] = {"resnet50": build_resnet50, "tiny": build_tiny}


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
