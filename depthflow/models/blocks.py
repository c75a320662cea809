"""The blocks of a vision transformer, which training finds in a network by the names of their layers."""

# Keras types its operations loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras

from depthflow.models.network import encoder_variables

Tensor = keras.KerasTensor

FINAL_NORM = "final_norm"
"""Name of the layer after the last block."""


def block_of(name: str) -> int | None:
    """Returns the block, counted from 0, that a layer's name or a variable's path belongs to; None if to none."""
    match = re.match(r"block(\d+)_", name)
    return int(match[1]) if match else None


def adapt(model: keras.Model, *, rank: int) -> None:
    """Freezes a network's encoder and lets a low-rank change of each block's queries and values learn in its place.

    Keras saves a kernel with its change added, so that the saved network is of the same layers as without.

    Args:
        model: Network, its pre-trained weights loaded.
        rank: Rank of the change per attention head. 0 does nothing.

    Source: Hu et al. 2021 (LoRA), arXiv:2106.09685.
    """
    if not rank:
        return
    for variable in encoder_variables(model):
        variable.trainable = False
    for layer in model.layers:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            for dense in (layer.query_dense, layer.value_dense):
                with keras.name_scope(layer.name):  # Otherwise all blocks' variables have one path.
                    dense.enable_lora(rank)


def rematerialized(model: keras.Model) -> Callable[[Tensor], Any]:
    """Returns a function that computes the model in training mode and keeps little for the backward pass.

    Of each block it keeps only the input, and the backward pass computes the block again: time for memory. The last
    block is kept whole, since it is the first that the backward pass needs. The model itself does not change.

    keras.RematScope would do so for each layer and keep what lies between them. In graph mode it fails with attention
    layers, whose keyword arguments TensorFlow's custom gradients do not take.

    Args:
        model: Functional model of one input, with blocks whose first layer is block{i}_norm1. Computing a block twice
            must not differ: no dropout, no batch normalisation.

    Returns:
        Function from the model's input to what the model returns.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    blocks = 1 + max(block for layer in model.layers if (block := block_of(layer.name)) is not None)
    starts = [model.get_layer(f"block{block}_norm1").input for block in range(blocks)]
    before = keras.Model(model.inputs[0], starts[0])
    parts = [_rematerialized(keras.Model(start, end)) for start, end in pairwise(starts)]
    after = keras.Model([model.inputs[0], *starts], model.outputs)

    def call(inputs: Tensor) -> Any:
        states = [before(inputs, training=True)]
        for part in parts:
            states.append(part(states[-1]))
        return after([inputs, *states], training=True)

    return call


def _rematerialized(block: keras.Model) -> Callable[[Tensor], Tensor]:
    return keras.remat(lambda tokens: block(tokens, training=True))
