"""Encoders behind one interface: uint8 photographs in, feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 out."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers, ops

from depthflow.errors import TrainingError
from depthflow.ingredients.encoders import ENCODERS, Application, Network

DECODER_PREFIX = "decoder"
"""Names of layers that are not the encoder's begin with it."""
HALF_SKIP_FILTERS = 48


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
