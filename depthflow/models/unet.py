"""The U-Net: an encoder, upsampling decoder stages with skips, and linear heads that predict unbounded log-depth."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

import math
from collections.abc import Iterator

import keras
from keras import layers

from depthflow.models.encoders import DECODER_PREFIX, Features, build_encoder
from depthflow.recipe import Recipe

BATCH_NORM_MOMENTUM = 0.9
"""Momentum in the decoder, whose statistics then cover tens of steps. With Keras's 0.99 on some hundred images, the
statistics of the first epochs were still dominated by their initial values."""
HEAD_PREFIX = "log_depth"
HEADS = ("log_depth", "log_depth_half", "log_depth_quarter", "log_depth_eighth", "log_depth_sixteenth")
"""Names of the 1x1 convolutions that predict, by output resolution. NAME_up enlarges the output if need be."""
ENCODER_HALVINGS = 5


def build_unet(recipe: Recipe) -> keras.Model:
    """Builds the recipe's network from layers that Keras ships, so that it is saved and loaded without custom code.

    With encoder resnet50 and the decoder's fields at their defaults, this is the tutorial's network: skips from
    conv1_relu, conv2_block3_out, conv3_block4_out and conv4_block6_out; five stages of upsampling and two 3x3
    convolutions, the first four with a skip; and a linear 1x1 head.

    Returns:
        Functional model from rgb (B, H, W, 3) uint8 to natural log of metres, float32 (float64 if that is the dtype).
        One output (B, H, W, 1), or with supervised_scales n > 1 a list of n outputs, finest first. Output k has the
        shape (B, H / 2^k, W / 2^k, 1).

    Raises:
        TrainingError: if the encoder's weights cannot be loaded.

    Sources: U-Net: Ronneberger et al. 2015, arXiv:1505.04597. Upsampling before a convolution: Odena et al. 2016,
    doi:10.23915/distill.00003. Outputs at several scales: Godard et al. 2017, arXiv:1609.03677.
    """
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        rgb = keras.Input((*recipe.size, 3), dtype="uint8", name="rgb")
        features = build_encoder(
            rgb, name=recipe.encoder, weights=recipe.encoder_weights, input_scaling=recipe.input_scaling
        )
        stages = _decoder(features, recipe)
        enlargement = 2 ** (ENCODER_HALVINGS - len(stages))
        scales = zip(reversed(stages), HEADS[: recipe.supervised_scales], strict=False)
        outputs = [_head(stage, enlargement=enlargement, name=name) for stage, name in scales]
        return keras.Model(rgb, outputs if len(outputs) > 1 else outputs[0], name=f"{recipe.encoder}_unet")
    finally:
        keras.config.set_dtype_policy(previous)


def _decoder(features: Features, recipe: Recipe) -> list[keras.KerasTensor]:
    """Returns the outputs of the decoder stages, coarse to fine: at 1/16, 1/8, 1/4, 1/2 and 1."""
    x = features.bottom
    if recipe.bottleneck_filters:
        x = _convolve_twice(x, filters=recipe.bottleneck_filters, norm=recipe.decoder_norm, name=f"{DECODER_PREFIX}0")
    stages = []
    for stage, filters in enumerate(recipe.decoder_filters, start=1):
        name = f"{DECODER_PREFIX}{stage}"
        x = layers.UpSampling2D(2, interpolation=recipe.decoder_upsampling, name=f"{name}_up")(x)
        if stage <= len(features.skips):
            x = layers.Concatenate(name=f"{name}_skip")([x, features.skips[-stage]])
        x = _convolve_twice(x, filters=filters, norm=recipe.decoder_norm, name=name)
        stages.append(x)
    return stages


def _convolve_twice(x: keras.KerasTensor, *, filters: int, norm: str, name: str) -> keras.KerasTensor:
    """Applies two 3x3 convolutions, each followed by normalisation and ReLU."""
    for k in (1, 2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=norm == "none", name=f"{name}_conv{k}")(x)
        if norm == "batch":
            x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_norm{k}")(x)
        elif norm == "group":
            x = layers.GroupNormalization(math.gcd(8, filters), name=f"{name}_norm{k}")(x)
        x = layers.ReLU(name=f"{name}_relu{k}")(x)
    return x


def _head(x: keras.KerasTensor, *, enlargement: int, name: str) -> keras.KerasTensor:
    """Predicts a stage's log-depth, enlarged bilinearly; in float32 even under a mixed policy."""
    dtype = keras.config.dtype_policy().variable_dtype
    log_depth = layers.Conv2D(1, 1, dtype=dtype, name=name)(x)
    if enlargement == 1:
        return log_depth
    return layers.UpSampling2D(enlargement, interpolation="bilinear", dtype=dtype, name=f"{name}_up")(log_depth)


def serving_network(model: keras.Model) -> keras.Model:
    """Returns the network that is validated, registered and served: the model's layers with only the finest output."""
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def encoder_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the trainable variables of a U-Net's encoder, in the order of model.trainable_variables."""
    own = [layer for layer in model.layers if not layer.name.startswith((DECODER_PREFIX, HEAD_PREFIX))]
    ids = {id(variable) for layer in own for variable in layer.trainable_variables}
    return [variable for variable in model.trainable_variables if id(variable) in ids]


def set_batch_norm(model: keras.Model, mode: str) -> None:
    """Prepares a U-Net's batch normalisation for data-parallel training.

    Args:
        mode: synchronized: all layers compute statistics over all workers' images. frozen: the encoder's statistics
            stay unchanged.
    """
    for layer in _batch_norms(model):
        frozen = mode == "frozen" and not layer.name.startswith(DECODER_PREFIX)
        layer.trainable = not frozen
        layer.synchronized = not frozen


def _batch_norms(model: keras.Model) -> Iterator[layers.BatchNormalization]:
    """Yields the batch normalisation layers, including those of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _batch_norms(layer)
        elif isinstance(layer, layers.BatchNormalization):
            yield layer
