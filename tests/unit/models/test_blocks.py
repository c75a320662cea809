"""Blocks of a vision transformer that are computed again in the backward pass: same numbers, less kept."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.blocks import adapt, block_of, rematerialized
from depthflow.models.network import build_network, encoder_variables
from depthflow.recipes import smoke

RECIPE = replace(
    smoke(), encoder="dinov2_tiny", decoder="dpt", decoder_filters=(8,), decoder_norm="none", height=28, width=42
)
RGB = np.random.default_rng(0).integers(0, 256, (2, 28, 42, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build_network(RECIPE)


@pytest.mark.parametrize(
    ("name", "block"), [("block0_norm1", 0), ("block11_fc1/kernel", 11), ("block1b_add", None), ("final_norm", None)]
)
def test_block_of_a_name(name, block):
    assert block_of(name) == block


def loss_and_gradients(model, forward, **options):
    """Returns the loss, a gradient per variable, and the bytes that the backward pass takes from the forward pass."""
    kept = {}

    @tf.function(autograph=False, **options)
    def step(rgb):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(forward(rgb)))
        graph = tf.compat.v1.get_default_graph()
        there = {operation.name for operation in graph.get_operations()}
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        for operation in graph.get_operations():
            for tensor in operation.inputs if operation.name not in there else ():
                if tensor.op.name in there and tensor.op.type not in ("ReadVariableOp", "Const", "Placeholder"):
                    kept[tensor.name] = tensor.dtype.size * np.prod(tensor.shape)
        return loss, gradients

    loss, gradients = step(tf.constant(RGB))
    return loss.numpy(), [gradient.numpy() for gradient in gradients], sum(kept.values())


def test_the_numbers_are_the_same_and_less_is_kept(model):
    def plain(rgb):
        return model(rgb, training=True)

    loss, gradients, kept = loss_and_gradients(model, plain)
    for _ in range(2):  # A run builds two steps if the encoder is frozen at first.
        again, same_gradients, kept_again = loss_and_gradients(model, rematerialized(model))
        assert again == loss
        for gradient, other in zip(gradients, same_gradients, strict=True):
            np.testing.assert_array_equal(other, gradient)
        assert kept_again < 0.7 * kept
    compiled, _, _ = loss_and_gradients(model, rematerialized(model), jit_compile=True)
    assert compiled == pytest.approx(loss, rel=1e-5)


def test_the_model_is_saved_as_if_it_had_never_been_divided(model, tmp_path):
    rematerialized(model)
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras", safe_mode=True)
    assert {type(layer).__module__.partition(".")[0] for layer in loaded.layers} == {"keras"}
    assert len(loaded.layers) == len(build_network(RECIPE).layers)
    np.testing.assert_array_equal(loaded(RGB), model(RGB))


def test_a_low_rank_change_begins_at_nothing_and_is_saved_in_the_kernels(tmp_path):
    model = build_network(RECIPE)
    before, parameters = np.array(model(RGB)), model.count_params()
    adapt(model, rank=2)
    learnt = encoder_variables(model)
    parts = [f"block{block}_attention/{part}" for block in range(4) for part in ("query", "value")]
    assert {variable.path for variable in learnt} == {f"{part}/lora_kernel_{k}" for part in parts for k in "ab"}
    np.testing.assert_array_equal(model(RGB), before)
    for variable in learnt:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    changed = np.array(model(RGB))
    assert not np.allclose(changed, before, rtol=1e-2)
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras", safe_mode=True)
    assert loaded.count_params() == parameters
    np.testing.assert_allclose(loaded(RGB), changed, rtol=1e-4, atol=1e-5)
