"""The U-Net: an encoder, five upsampling decoder stages with skips, a linear head. Log-depth out, unbounded."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

import math

import keras
from keras import layers

from depthflow.config import Recipe
from depthflow.models.encoders import ENCODERS

BATCH_NORM_MOMENTUM = 0.99
DECODER_PREFIX = "decoder"


def build_unet(recipe: Recipe) -> keras.Model:
    """The recipe's network, of built-in layers only, so that it is saved and loaded without custom code.

    With encoder resnet50 and decoder_filters (1024, 512, 256, 128, 64), decoder_norm none, it is the tutorial's:
    skips from conv1_relu, conv2_block3_out, conv3_block4_out and conv4_block6_out, five stages of upsampling and two
    3x3 convolutions, of which the first four concatenate a skip, and a linear 1x1 head (U-Net: Ronneberger et al.
    2015, arXiv:1505.04597).

    Args:
        recipe: encoder, its weights, decoder, size and dtype.

    Returns:
        A functional model from rgb (B, H, W, 3) uint8 to log_depth (B, H, W, 1), natural log of metres.

    Raises:
        TrainingError: if the encoder's weights cannot be loaded.
    """
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        rgb = keras.Input((recipe.height, recipe.width, 3), dtype="uint8", name="rgb")
        features = ENCODERS[recipe.encoder](rgb, recipe.encoder_weights)
        x = features.bottom
        stage_skips = (*reversed(features.skips), None)
        for stage, (filters, skip) in enumerate(zip(recipe.decoder_filters, stage_skips, strict=True), start=1):
            x = _decoder_stage(x, skip, filters=filters, norm=recipe.decoder_norm, name=f"{DECODER_PREFIX}{stage}")
        log_depth = layers.Conv2D(1, 1, name="log_depth")(x)
        return keras.Model(rgb, log_depth, name=f"{recipe.encoder}_unet")
    finally:
        keras.config.set_dtype_policy(previous)


def _decoder_stage(
    x: keras.KerasTensor, skip: keras.KerasTensor | None, *, filters: int, norm: str, name: str
) -> keras.KerasTensor:
    """Doubles the resolution, joins the skip of that resolution, and convolves twice."""
    x = layers.UpSampling2D(2, name=f"{name}_up")(x)
    if skip is not None:
        x = layers.Concatenate(name=f"{name}_skip")([x, skip])
    for k in (1, 2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=norm == "none", name=f"{name}_conv{k}")(x)
        if norm == "batch":
            x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_norm{k}")(x)
        elif norm == "group":
            x = layers.GroupNormalization(math.gcd(8, filters), name=f"{name}_norm{k}")(x)
        x = layers.ReLU(name=f"{name}_relu{k}")(x)
    return x


def set_batch_norm(model: keras.Model, mode: str) -> None:
    """Prepares a built model's batch normalisation for data-parallel training.

    Args:
        model: of `build_unet`.
        mode: synchronized, all layers take their statistics over all workers' images; or frozen, the encoder's keep
            their own, unchanged.
    """
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            frozen = mode == "frozen" and not layer.name.startswith(DECODER_PREFIX)
            layer.trainable = not frozen
            layer.synchronized = not frozen
