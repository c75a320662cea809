"""The U-Net: the tutorial's network layer by layer, the recipe's options, and saving."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from depthflow.errors import TrainingError
from depthflow.models.network import (
    build_network,
    encoder_variables,
    serving_network,
    set_batch_norm,
    training_network,
)
from depthflow.recipes import smoke, tutorial

SIDE = 64


def has_synchronized_layers(model):
    """Whether a forward pass in training mode communicates between workers, which XLA cannot compile."""
    parts = [model, *(layer for layer in model.layers if isinstance(layer, keras.Model))]
    return any(getattr(layer, "synchronized", False) for part in parts for layer in part.layers)


FEATURES = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
RESNET50_PARAMETERS = 23_587_712
"""Number of parameters that Keras publishes for keras.applications.ResNet50(include_top=False)."""


def conv_parameters(size: int, inputs: int, filters: int) -> int:
    return size * size * inputs * filters + filters


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    """Returns the tutorial's network at 64 x 64, without ImageNet weights."""
    return build_network(replace(tutorial(), height=SIDE, width=SIDE, weights="none"))


@pytest.fixture(scope="module")
def narrow_network():
    """Returns ResNet50 with a narrow decoder, for saving."""
    recipe = replace(tutorial(), height=SIDE, width=SIDE, weights="none", decoder_norm="batch")
    return build_network(replace(recipe, decoder_filters=(8, 8, 8, 8, 8)))


@pytest.fixture(scope="module", params=["tiny", "convnext_tiny", "mobilenetv3_large"])
def two_scales(request):
    """Returns a network with two outputs and a narrow decoder."""
    recipe = replace(smoke(), encoder=request.param, decoder_filters=(16, 16, 16, 8), supervised_scales=2)
    return build_network(recipe)


def predict(model: keras.Model, rgb: np.ndarray) -> np.ndarray:
    """Returns one output without tracing, which takes seconds."""
    return np.asarray(model(rgb))


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
    log_depth = predict(network, rgb)
    assert log_depth.shape == (2, SIDE, SIDE, 1)
    assert log_depth.dtype == np.float32
    assert np.isfinite(log_depth).all()
    assert not np.array_equal(log_depth[0], log_depth[1])


def test_decoder_is_the_tutorials_in_order(network):
    """Upsample, concatenate, convolve twice: every layer after the encoder, each fed by the one before."""
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
        assert (predict(network, np.zeros((1, SIDE, SIDE, 3), np.uint8)) <= -3.0).all(), "log-depth is unbounded"
    finally:
        head.set_weights(head_weights)


def test_parameter_count(network):
    expected = RESNET50_PARAMETERS + conv_parameters(1, 64, 1)
    inputs = 2048
    for skip, filters in ((1024, 1024), (512, 512), (256, 256), (64, 128), (0, 64)):
        expected += conv_parameters(3, inputs + skip, filters) + conv_parameters(3, filters, filters)
        inputs = filters
    assert network.count_params() == expected


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
    np.testing.assert_array_equal(predict(restored, rgb), predict(narrow_network, rgb))


def test_every_operation_is_built_in(network, narrow_network):
    for model in (network, narrow_network, build_network(smoke())):
        modules = {type(operation).__module__ for operation in model.operations}
        assert all(module.startswith(("keras.src.layers.", "keras.src.ops.")) for module in modules), modules
        assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)


# --- norms, dtypes ---


def batch_norms(model: keras.Model, *, decoder: bool) -> list[keras.layers.BatchNormalization]:
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [layer for layer in found if layer.name.startswith("decoder") == decoder]


def test_frozen_applies_to_the_encoder_only(narrow_network):
    encoder, decoder = (batch_norms(narrow_network, decoder=decoder) for decoder in (False, True))
    assert (len(encoder), len(decoder)) == (53, 10)
    set_batch_norm(narrow_network, "frozen")
    assert not any(layer.trainable or layer.synchronized for layer in encoder)
    assert all(layer.trainable and layer.synchronized for layer in decoder)
    set_batch_norm(narrow_network, "synchronized")
    assert all(layer.trainable and layer.synchronized for layer in [*encoder, *decoder])
    for layer in [*encoder, *decoder]:
        layer.synchronized = False


def test_batch_norm_in_a_nested_model_is_found():
    """keras.applications nests the stem of ConvNeXt in this way."""
    inner = keras.Sequential([keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization()], name="stem")
    model = keras.Sequential([keras.Input((4, 4, 3)), inner])
    assert not has_synchronized_layers(model)
    set_batch_norm(model, "synchronized")
    assert inner.layers[1].synchronized and has_synchronized_layers(model)
    set_batch_norm(model, "frozen")
    assert not inner.layers[1].trainable and not has_synchronized_layers(model)


def test_networks_without_batch_norm_never_synchronize():
    network = build_network(smoke())
    set_batch_norm(network, "synchronized")
    assert not has_synchronized_layers(network)


def test_decoder_with_norm_has_no_bias_before_it(narrow_network):
    assert not any(narrow_network.get_layer(f"decoder{stage}_conv1").use_bias for stage in range(1, 6))
    names = [layer.name for layer in layers_after(narrow_network, "decoder1_skip")][:6]
    assert names == [f"decoder1_{kind}{k}" for k in (1, 2) for kind in ("conv", "norm", "relu")]


def test_tiny_network_shapes_and_dtype():
    network = build_network(replace(smoke(), height=64, width=96, dtype="float64"))
    assert network.output_shape == (None, 64, 96, 1)
    assert {weight.dtype for weight in network.get_weights()} == {np.dtype(np.float64)}
    assert predict(network, np.zeros((1, 64, 96, 3), np.uint8)).dtype == np.float64
    assert all(isinstance(network.get_layer(f"decoder{s}_norm1"), keras.layers.GroupNormalization) for s in range(1, 6))


@pytest.fixture
def half_policy():
    """Sets a policy that no recipe uses, so that a missing restore is visible."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield "mixed_bfloat16"
    keras.config.set_dtype_policy(previous)


def test_dtype_policy_is_restored(half_policy):
    network = build_network(replace(smoke(), dtype="float64"))
    assert network.get_layer("log_depth").compute_dtype == "float64"
    assert keras.config.dtype_policy().name == half_policy


def test_dtype_policy_is_restored_after_an_error(half_policy):
    with pytest.raises(TrainingError):
        build_network(replace(smoke(), dtype="float64", weights="imagenet"))
    assert keras.config.dtype_policy().name == half_policy


def test_group_norm_takes_any_filters():
    assert build_network(replace(smoke(), decoder_filters=(64, 48, 32, 24, 12))).output_shape == (None, 64, 64, 1)


# --- options of the recipe ---


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_bottleneck_convolves_between_encoder_and_decoder(norm):
    network = build_network(replace(smoke(), bottleneck_filters=40, decoder_norm=norm))
    kinds = ("conv", "relu") if norm == "none" else ("conv", "norm", "relu")
    expected = [f"decoder0_{kind}{k}" for k in (1, 2) for kind in kinds]
    assert [layer.name for layer in layers_after(network, "tiny5_relu")][: len(expected)] == expected
    assert network.get_layer("decoder0_conv1").input.shape[1:] == (2, 2, 64)
    assert network.get_layer("decoder1_up").input is network.get_layer("decoder0_relu2").output
    assert network.get_layer("decoder0_relu2").output.shape[1:] == (2, 2, 40)


def test_no_bottleneck_by_default():
    assert not any(layer.name.startswith("decoder0") for layer in build_network(smoke()).layers)


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_upsampling_of_every_stage(upsampling):
    network = build_network(replace(smoke(), decoder_upsampling=upsampling))
    assert {network.get_layer(f"decoder{stage}_up").interpolation for stage in range(1, 6)} == {upsampling}


@pytest.mark.parametrize(("stages", "enlargement"), [(5, 1), (4, 2), (3, 4)])
def test_fewer_stages_end_coarser_and_are_enlarged(stages, enlargement):
    network = build_network(replace(smoke(), width=96, decoder_filters=(24, 16, 16, 8, 8)[:stages]))
    assert network.get_layer("log_depth").output.shape[1:] == (64 // enlargement, 96 // enlargement, 1)
    assert network.output_shape == (None, 64, 96, 1)
    assert network.get_layer(f"decoder{stages}_relu2").output is network.get_layer("log_depth").input
    if enlargement == 1:
        assert network.layers[-1].name == "log_depth"  # The prediction is the output.
    else:
        enlarge = network.get_layer("log_depth_up")
        assert (enlarge.interpolation, enlarge.size) == ("bilinear", (enlargement, enlargement))


@pytest.mark.parametrize("stages", [3, 4, 5])
def test_outputs_halve_from_finest_to_coarsest(stages, rgb):
    recipe = replace(smoke(), height=64, width=96, decoder_filters=(24, 16, 16, 8, 8)[:stages])
    for scales in range(2, stages + 1):
        network = build_network(replace(recipe, supervised_scales=scales))
        assert network.output_shape == [(None, 64 >> k, 96 >> k, 1) for k in range(scales)]
        heads = ["log_depth", "log_depth_half", "log_depth_quarter", "log_depth_eighth", "log_depth_sixteenth"][:scales]
        for k, head in enumerate(heads):
            assert network.get_layer(head).input is network.get_layer(f"decoder{stages - k}_relu2").output


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_gradients_reach_every_trainable_variable(norm, rgb):
    recipe = replace(smoke(), decoder_norm=norm, bottleneck_filters=16, supervised_scales=5)
    network = build_network(replace(recipe, decoder_upsampling="bilinear"))
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_mean(tf.square(output - 1.0)) for output in network(rgb, training=True))
    for variable, gradient in zip(
        network.trainable_variables,
        tape.gradient(loss, [variable.value for variable in network.trainable_variables]),
        strict=True,
    ):
        assert gradient is not None and np.isfinite(gradient).all() and np.any(gradient), variable.path


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_policies_predict_float32(dtype, rgb):
    network = build_network(replace(smoke(), dtype=dtype, decoder_filters=(16, 16, 8), supervised_scales=3))
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert network.get_layer("decoder1_conv1").compute_dtype == dtype.removeprefix("mixed_")
    for output in network(rgb):
        assert output.dtype == tf.float32 and np.isfinite(output).all()


def test_every_variable_belongs_to_encoder_or_decoder(two_scales):
    own = encoder_variables(two_scales)
    rest = [
        variable
        for layer in two_scales.layers
        if layer.name.startswith(("decoder", "log_depth"))
        for variable in layer.trainable_variables
    ]
    ids = [{id(variable) for variable in variables} for variables in (own, rest)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    assert ids[0] | ids[1] == {id(variable) for variable in two_scales.trainable_variables}
    order = [variable.path for variable in two_scales.trainable_variables]
    places = [order.index(variable.path) for variable in own]
    assert places == sorted(places)
    assert not any(variable.path.startswith(("decoder", "log_depth")) for variable in own)


def test_frozen_batch_norm_is_not_an_encoder_variable(narrow_network):
    everything = len(encoder_variables(narrow_network))
    set_batch_norm(narrow_network, "frozen")
    frozen = len(encoder_variables(narrow_network))
    set_batch_norm(narrow_network, "synchronized")
    for layer in [*batch_norms(narrow_network, decoder=False), *batch_norms(narrow_network, decoder=True)]:
        layer.synchronized = False
    assert everything - frozen == 2 * 53


# --- serving ---


def test_served_network_is_the_finest_output(two_scales, rgb):
    served = serving_network(two_scales)
    assert served.output_shape == (None, SIDE, SIDE, 1)
    assert served.name == two_scales.name
    assert not any(layer.name.startswith("log_depth_half") for layer in served.layers)
    np.testing.assert_array_equal(predict(served, rgb), np.asarray(two_scales(rgb)[0]))
    shared = {id(variable) for variable in two_scales.variables}
    assert all(id(variable) in shared for variable in served.variables)


def test_network_with_one_output_is_served_as_it_is(narrow_network):
    assert serving_network(narrow_network) is narrow_network


def test_served_network_is_saved_and_loaded_in_safe_mode(two_scales, rgb, tmp_path):
    served = serving_network(two_scales)
    served.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", compile=False, safe_mode=True)
    assert predict(restored, rgb).dtype == np.float32
    np.testing.assert_array_equal(predict(restored, rgb), predict(served, rgb))


def test_a_pose_network_is_trained_beside_the_same_network():
    """It belongs neither to the encoder nor to what is served, and does not change the initial weights of the rest."""
    recipe = replace(smoke(), batch_norm="synchronized", decoder_filters=(16, 16, 8))
    keras.utils.set_random_seed(3)
    network = training_network(recipe)
    keras.utils.set_random_seed(3)
    model = training_network(replace(recipe, objective=(("video", 1.0),)))
    poses = {v.path for v in model.trainable_variables if v.path.startswith("pose_")}
    assert poses and {v.path for v in network.trainable_variables} | poses == {
        v.path for v in model.trainable_variables
    }
    for variable in network.trainable_variables:
        same = next(v for v in model.trainable_variables if v.path == variable.path)
        np.testing.assert_array_equal(same, variable)
    assert [v.path for v in encoder_variables(model)] == [v.path for v in encoder_variables(network)]
    assert [v.path for v in serving_network(model).weights] == [v.path for v in network.weights]
    given = training_network(replace(recipe, objective=(("video", 1.0),), poses="given"))
    assert len(given.inputs) == 1
