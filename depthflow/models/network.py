"""The network of a recipe: an encoder, a decoder, and linear heads that predict unbounded log-depth."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false

from collections.abc import Iterator

import keras
from keras import layers

from depthflow.models.decoders import DECODERS
from depthflow.models.encoders import build_encoder
from depthflow.models.features import DECODER_PREFIX
from depthflow.models.pose_network import POSE_PREFIX, build_pose_network
from depthflow.models.resizing import align_corners
from depthflow.models.transformers_weights import load_pretrained
from depthflow.models.vit import TRANSFORMERS
from depthflow.recipe import Recipe

HEAD_PREFIX = "log_depth"
HEADS = ("log_depth", "log_depth_half", "log_depth_quarter", "log_depth_eighth", "log_depth_sixteenth")
"""Names of the 1x1 convolutions that predict, by output resolution. NAME_up enlarges the output if need be."""


def build_network(recipe: Recipe) -> keras.Model:
    """Builds the recipe's network from layers that Keras ships, so that it is saved and loaded without custom code.

    With encoder resnet50 and the decoder's fields at their defaults, this is the tutorial's network: skips from
    conv1_relu, conv2_block3_out, conv3_block4_out and conv4_block6_out; five stages of upsampling and two 3x3
    convolutions, the first four with a skip; and a linear 1x1 head.

    Returns:
        Functional model from rgb (B, H, W, 3) uint8 to natural log of metres, float32 (float64 if that is the dtype).
        One output (B, H, W, 1), or with supervised_scales n > 1 a list of n outputs, finest first. Output k has the
        shape (B, H / 2^k, W / 2^k, 1).

    Raises:
        TrainingError: if the weights cannot be loaded.

    Source of outputs at several scales: Godard et al. 2017, arXiv:1609.03677.
    """
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        rgb = keras.Input((*recipe.size, 3), dtype="uint8", name="rgb")
        features = build_encoder(rgb, name=recipe.encoder, weights=recipe.weights, input_scaling=recipe.input_scaling)
        stages = DECODERS[recipe.decoder](features, recipe)
        scales = zip(reversed(stages), HEADS[: recipe.supervised_scales], strict=False)
        height, width = recipe.size
        outputs = [
            _head(stage, size=(height >> scale, width >> scale), name=name)
            for scale, (stage, name) in enumerate(scales)
        ]
        name = f"{recipe.encoder}_{recipe.decoder}"
        network = keras.Model(rgb, outputs if len(outputs) > 1 else outputs[0], name=name)
        if recipe.encoder in TRANSFORMERS and recipe.weights != "none":
            load_pretrained(network, TRANSFORMERS[recipe.encoder], recipe)
        return network
    finally:
        keras.config.set_dtype_policy(previous)


def _head(x: keras.KerasTensor, *, size: tuple[int, int], name: str) -> keras.KerasTensor:
    """Predicts a stage's log-depth, enlarged bilinearly; in float32 even under a mixed policy."""
    dtype = keras.config.dtype_policy().variable_dtype
    log_depth = layers.Conv2D(1, 1, dtype=dtype, name=name)(x)
    if log_depth.shape[1:3] == size:
        return log_depth
    if any(new % old for new, old in zip(size, log_depth.shape[1:3], strict=True)):  # A patch of 14 pixels, say.
        return align_corners(log_depth, size, name=f"{name}_up", dtype=dtype)
    enlargement = size[0] // log_depth.shape[1]
    return layers.UpSampling2D(enlargement, interpolation="bilinear", dtype=dtype, name=f"{name}_up")(log_depth)


def training_network(recipe: Recipe) -> keras.Model:
    """Builds what is trained: the recipe's network and, if it learns poses, a pose network beside it.

    Returns:
        What `build_network` returns; with a pose network, a model from [rgb, pair] to its outputs and the pose.
    """
    network = build_network(recipe)
    if not recipe.learns_poses:
        return network
    pose = build_pose_network(recipe)
    return keras.Model([*network.inputs, *pose.inputs], [*network.outputs, *pose.outputs], name=network.name)


def depth_network(model: keras.Model) -> keras.Model:
    """Returns the part of a trained model that predicts depth, at all its scales."""
    if pose_network(model) is None:
        return model
    *outputs, _ = model.outputs
    return keras.Model(model.inputs[0], outputs if len(outputs) > 1 else outputs[0], name=model.name)


def pose_network(model: keras.Model) -> keras.Model | None:
    """Returns the part of a trained model that predicts poses; None if it has none."""
    return keras.Model(model.inputs[1], model.outputs[-1]) if len(model.inputs) > 1 else None


def serving_network(model: keras.Model) -> keras.Model:
    """Returns the network that is validated, registered and served: the model's layers with only the finest output."""
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def heads(model: keras.Model) -> list[layers.Conv2D]:
    """Returns the layers that predict log-depth."""
    return [layer for layer in model.layers if layer.name in HEADS]


def shift_log_depth(model: keras.Model, shift: float) -> None:
    """Adds a number to the log-depth that a network predicts, at all scales."""
    for head in heads(model):
        head.bias.assign(head.bias + shift)


def encoder_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the trainable variables of a network's encoder, in the order of model.trainable_variables."""
    own = [layer for layer in model.layers if not layer.name.startswith((DECODER_PREFIX, HEAD_PREFIX, POSE_PREFIX))]
    ids = {id(variable) for layer in own for variable in layer.trainable_variables}
    return [variable for variable in model.trainable_variables if id(variable) in ids]


def set_batch_norm(model: keras.Model, mode: str) -> None:
    """Prepares a network's batch normalisation for data-parallel training.

    Args:
        mode: synchronized: all layers compute statistics over all workers' images. frozen: the encoder's statistics
            stay unchanged.
    """
    for layer in _batch_norms(model):
        frozen = mode == "frozen" and not layer.name.startswith((DECODER_PREFIX, POSE_PREFIX))
        layer.trainable = not frozen
        layer.synchronized = not frozen


def _batch_norms(model: keras.Model) -> Iterator[layers.BatchNormalization]:
    """Yields the batch normalisation layers, including those of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _batch_norms(layer)
        elif isinstance(layer, layers.BatchNormalization):
            yield layer
