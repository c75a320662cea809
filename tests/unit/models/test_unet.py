"""The U-Net: the tutorial's network layer by layer, its ImageNet weights, and what is refused."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from depthflow.errors import TrainingError
from depthflow.models.unet import build_unet, set_batch_norm
from depthflow.recipes import smoke, tutorial

SHARED = Path(os.environ.get("DEPTHFLOW_SHARED") or Path(__file__).parents[4] / "shared")
WEIGHTS = SHARED / "weights" / "resnet50_imagenet_notop.weights.h5"
SIDE = 64
FEATURES = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
RESNET50_PARAMETERS = 23_587_712
"""Of keras.applications.ResNet50(include_top=False), as Keras publishes it."""


def conv_parameters(size: int, inputs: int, filters: int) -> int:
    return size * size * inputs * filters + filters


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    """The tutorial's at 64 x 64, with the ImageNet weights where the file is there."""
    weights = str(WEIGHTS) if WEIGHTS.is_file() else "none"
    return build_unet(replace(tutorial(), height=SIDE, width=SIDE, encoder_weights=weights))


@pytest.fixture(scope="module")
def narrow_network():
    """ResNet50 with a narrow decoder, for saving."""
    recipe = replace(tutorial(), height=SIDE, width=SIDE, encoder_weights="none", decoder_norm="batch")
    return build_unet(replace(recipe, decoder_filters=(8, 8, 8, 8, 8)))


def layers_after(network: keras.Model, name: str) -> list[keras.layers.Layer]:
    names = [layer.name for layer in network.layers]
    return network.layers[names.index(name) + 1 :]


def inputs_of(layer: keras.layers.Layer) -> list[str]:
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation.name for tensor in inputs]


# --- the tutorial's network ---


def test_input_and_output(network, rgb):
    assert network.input_shape == (None, SIDE, SIDE, 3)
    assert network.inputs[0].dtype == "uint8"
    assert network.output_shape == (None, SIDE, SIDE, 1)
    log_depth = network.predict_on_batch(rgb)
    assert log_depth.shape == (2, SIDE, SIDE, 1)
    assert log_depth.dtype == np.float32
    assert np.isfinite(log_depth).all()
    assert not np.array_equal(log_depth[0], log_depth[1])


def test_decoder_is_the_tutorials_in_order(network):
    """Up, join, convolve twice: every layer after the encoder, each fed by the one before."""
    expected = []
    previous = "conv5_block3_out"
    for stage, (skip, filters) in enumerate(
        zip((*reversed(FEATURES[:4]), None), (1024, 512, 256, 128, 64), strict=True), start=1
    ):
        expected.append((keras.layers.UpSampling2D, [previous], None))
        previous = f"decoder{stage}_up"
        if skip:
            expected.append((keras.layers.Concatenate, [previous, skip], None))
            previous = f"decoder{stage}_skip"
        for k in (1, 2):
            expected.append((keras.layers.Conv2D, [previous], filters))
            previous = f"decoder{stage}_relu{k}"
            expected.append((keras.layers.ReLU, [f"decoder{stage}_conv{k}"], None))
    expected.append((keras.layers.Conv2D, [previous], 1))
    decoder = layers_after(network, "conv5_block3_out")
    assert [(type(layer), inputs_of(layer), getattr(layer, "filters", None)) for layer in decoder] == expected
    for layer in decoder:
        if isinstance(layer, keras.layers.Conv2D) and layer.filters > 1:
            assert (layer.kernel_size, layer.strides, layer.padding, layer.use_bias) == ((3, 3), (1, 1), "same", True)
            assert layer.activation is keras.activations.linear
        if isinstance(layer, keras.layers.UpSampling2D):
            assert layer.size == (2, 2)


def test_head_is_linear_and_1x1(network):
    head = network.layers[-1]
    assert head.name == "log_depth"
    assert (head.kernel_size, head.filters, head.use_bias) == ((1, 1), 1, True)
    assert head.activation is keras.activations.linear
    head_weights = head.get_weights()
    try:
        head.set_weights([-np.abs(head_weights[0]), np.array([-3.0], np.float32)])
        assert (network.predict_on_batch(np.zeros((1, SIDE, SIDE, 3), np.uint8)) <= -3.0).all(), (
            "log-depth is unbounded"
        )
    finally:
        head.set_weights(head_weights)


def test_parameter_count(network):
    expected = RESNET50_PARAMETERS + conv_parameters(1, 64, 1)
    inputs = 2048
    for skip, filters in ((1024, 1024), (512, 512), (256, 256), (64, 128), (0, 64)):
        expected += conv_parameters(3, inputs + skip, filters) + conv_parameters(3, filters, filters)
        inputs = filters
    assert network.count_params() == expected


def test_normalises_as_caffe_does(network, rgb):
    entering = keras.Model(network.input, network.get_layer("conv1_pad").input)
    expected = keras.applications.resnet.preprocess_input(rgb.astype(np.float32))
    np.testing.assert_allclose(entering.predict_on_batch(rgb), expected, rtol=0, atol=1e-4)


def test_imagenet_weights_are_loaded(network, rgb):
    if not WEIGHTS.is_file():
        pytest.skip(f"there is no {WEIGHTS}; set DEPTHFLOW_SHARED to the folder that holds weights/")
    reference = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    reference.load_weights(WEIGHTS)
    expected = keras.Model(reference.input, [reference.get_layer(name).output for name in FEATURES])
    ours = keras.Model(network.input, [network.get_layer(name).output for name in FEATURES])
    pixels = keras.applications.resnet.preprocess_input(rgb.astype(np.float32))
    for mine, theirs in zip(ours.predict_on_batch(rgb), expected.predict_on_batch(pixels), strict=True):
        assert theirs.std() > 0.01, "features that say nothing compare nothing"
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


# --- saving ---


def test_keras_file_round_trip_in_safe_mode(narrow_network, rgb, tmp_path):
    generator = np.random.default_rng(1)
    narrow_network.set_weights(
        [
            weight + generator.uniform(0, 0.01, weight.shape).astype(weight.dtype)
            for weight in narrow_network.get_weights()
        ]
    )
    path = tmp_path / "network.keras"
    narrow_network.save(path)
    restored = keras.saving.load_model(path, compile=False, safe_mode=True)
    np.testing.assert_array_equal(restored.predict_on_batch(rgb), narrow_network.predict_on_batch(rgb))


def test_every_operation_is_built_in(network, narrow_network):
    for model in (network, narrow_network, build_unet(smoke())):
        modules = {type(operation).__module__ for operation in model.operations}
        assert all(module.startswith(("keras.src.layers.", "keras.src.ops.")) for module in modules), modules
        assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)


# --- norms, dtypes ---


def batch_norms(model: keras.Model, *, decoder: bool) -> list[keras.layers.BatchNormalization]:
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [layer for layer in found if layer.name.startswith("decoder") == decoder]


def test_frozen_batch_norm_is_the_encoders_alone(narrow_network):
    encoder, decoder = (batch_norms(narrow_network, decoder=decoder) for decoder in (False, True))
    assert (len(encoder), len(decoder)) == (53, 10)
    set_batch_norm(narrow_network, "frozen")
    assert not any(layer.trainable or layer.synchronized for layer in encoder)
    assert all(layer.trainable and layer.synchronized for layer in decoder)
    set_batch_norm(narrow_network, "synchronized")
    assert all(layer.trainable and layer.synchronized for layer in [*encoder, *decoder])
    for layer in [*encoder, *decoder]:
        layer.synchronized = False


def test_decoder_with_norm_has_no_bias_before_it(narrow_network):
    assert not any(narrow_network.get_layer(f"decoder{stage}_conv1").use_bias for stage in range(1, 6))
    names = [layer.name for layer in layers_after(narrow_network, "decoder1_skip")][:6]
    assert names == [f"decoder1_{kind}{k}" for k in (1, 2) for kind in ("conv", "norm", "relu")]


def test_tiny_network_shapes_and_dtype():
    network = build_unet(replace(smoke(), height=64, width=96, dtype="float64"))
    assert network.output_shape == (None, 64, 96, 1)
    assert {weight.dtype for weight in network.get_weights()} == {np.dtype(np.float64)}
    assert network.predict_on_batch(np.zeros((1, 64, 96, 3), np.uint8)).dtype == np.float64
    assert all(isinstance(network.get_layer(f"decoder{s}_norm1"), keras.layers.GroupNormalization) for s in range(1, 6))


def test_tiny_network_scales_pixels_to_minus_one_to_one():
    network = build_unet(smoke())
    scaled = keras.Model(network.input, network.get_layer("tiny_scale").output)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    pixels[..., 1] = 255
    np.testing.assert_allclose(scaled.predict_on_batch(pixels)[0, 0, 0], [-1.0, 1.0, -1.0], atol=1e-6)


@pytest.fixture
def half_policy():
    """A policy that is no recipe's, so that restoring it can be seen."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield "mixed_bfloat16"
    keras.config.set_dtype_policy(previous)


def test_dtype_policy_is_restored(half_policy):
    network = build_unet(replace(smoke(), dtype="float64"))
    assert network.get_layer("log_depth").compute_dtype == "float64"
    assert keras.config.dtype_policy().name == half_policy


def test_dtype_policy_is_restored_after_an_error(half_policy):
    with pytest.raises(TrainingError):
        build_unet(replace(smoke(), dtype="float64", encoder_weights="imagenet"))
    assert keras.config.dtype_policy().name == half_policy


# --- what is refused ---


@pytest.mark.parametrize("weights", ["imagenet", "/some/file.weights.h5"])
def test_tiny_has_no_weights_to_load(weights):
    with pytest.raises(TrainingError, match=f"Pass --encoder-weights none. Received: {weights}"):
        build_unet(replace(smoke(), encoder_weights=weights))


def test_missing_weights_file_is_refused(tmp_path):
    path = tmp_path / "absent.weights.h5"
    with pytest.raises(TrainingError, match=rf"no weights file {path}.*--encoder-weights"):
        build_unet(replace(tutorial(), height=SIDE, width=SIDE, encoder_weights=str(path)))


def write_text(path):
    path.write_text("these are no weights")


def write_other_network(path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(path)


@pytest.fixture(scope="module", params=[write_text, write_other_network])
def refusal(request, tmp_path_factory):
    """(path, message) of a file that does not hold ResNet50's weights."""
    path = tmp_path_factory.mktemp("weights") / "other.weights.h5"
    request.param(path)
    recipe = replace(tutorial(), height=SIDE, width=SIDE, encoder_weights=str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of every layer it does not find.
        with pytest.raises(TrainingError) as caught:
            build_unet(recipe)
    return path, str(caught.value)


def test_file_that_holds_other_things_is_refused(refusal):
    path, message = refusal
    assert f"{path} does not hold this encoder's weights" in message


def test_refusal_names_the_flag(refusal):
    assert "--encoder-weights" in refusal[1]


def test_group_norm_takes_any_filters():
    assert build_unet(replace(smoke(), decoder_filters=(64, 48, 32, 24, 12))).output_shape == (None, 64, 64, 1)
