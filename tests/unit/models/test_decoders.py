"""Every decoder with every kind of encoder, and the parts of DPT and FCRN against their definitions."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.network import build_network, encoder_variables
from depthflow.models.resizing import corner_weights
from depthflow.recipes import smoke

FILTERS = {"unet": (24, 16, 16, 8), "dpt": (16,), "fcrn": (24, 16, 16, 8)}
SIZES = {"tiny": (64, 96), "convnext_tiny": (64, 96), "dinov2_tiny": (70, 98)}


@pytest.mark.parametrize(("encoder", "norm"), [("tiny", "batch"), ("convnext_tiny", "group"), ("dinov2_tiny", "none")])
@pytest.mark.parametrize("decoder", FILTERS)
def test_any_encoder_goes_with_any_decoder(decoder, encoder, norm, tmp_path):
    height, width = SIZES[encoder]
    of_decoder = {"decoder": decoder, "decoder_filters": FILTERS[decoder], "decoder_norm": norm}
    network = build_network(replace(smoke(), encoder=encoder, height=height, width=width, **of_decoder))
    assert network.name == f"{encoder}_{decoder}"
    assert network.output_shape == (None, height, width, 1)
    rgb = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(rgb, training=True) - 1.0))
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        is_without_effect = variable.path.endswith("attention/key/bias")
        assert gradient is not None and np.isfinite(gradient).all(), variable.path
        assert np.any(gradient) or is_without_effect, variable.path
    own = {id(variable) for variable in encoder_variables(network)}
    assert 0 < len(own) < len(network.trainable_variables)
    network.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(restored(rgb), network(rgb))


def test_corners_stay_in_the_corners():
    """Bilinear interpolation with aligned corners, by hand: 3 values at 0, 2 and 4 of 5 places."""
    values = np.array([1.0, 5.0, 3.0])
    np.testing.assert_allclose(values @ corner_weights(3, 5), [1, 3, 5, 4, 3])
    np.testing.assert_allclose(values @ corner_weights(3, 3), values)
    np.testing.assert_allclose(np.array([7.0]) @ corner_weights(1, 4), [7, 7, 7, 7])


def test_an_up_projection_is_unpooling_and_convolution():
    """Laina et al.'s unpooling writes each value to the upper left of a square of zeros; then a 5x5 convolution."""
    layer = keras.layers.Conv2DTranspose(1, 5, strides=2, padding="same")
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 1)).astype(np.float32)
    layer.build(x.shape)
    unpooled = np.zeros((1, 8, 12, 1), np.float32)
    unpooled[:, ::2, ::2] = x
    flipped = np.asarray(layer.kernel)[::-1, ::-1]
    convolved = tf.nn.conv2d(np.pad(unpooled, ((0, 0), (3, 1), (3, 1), (0, 0))), flipped, 1, "VALID")
    np.testing.assert_allclose(layer(x), convolved, atol=1e-5)


def test_fcrn_takes_only_the_coarsest_map():
    network = build_network(replace(smoke(), decoder="fcrn", bottleneck_filters=40, decoder_filters=(24, 16, 8)))
    assert network.get_layer("decoder0_conv").kernel_size == (1, 1)
    assert network.get_layer("decoder0_conv").input is network.get_layer("tiny5_relu").output
    assert not any(isinstance(layer, keras.layers.Concatenate) for layer in network.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "dpt"}, "--decoder-filters takes one number"),
        ({"decoder": "dpt", "decoder_filters": (1,)}, "--decoder-filters takes one number"),
        ({"decoder": "dpt", "decoder_filters": (16,), "bottleneck_filters": 8}, "--bottleneck-filters must be 0"),
        ({"decoder": "fcrn", "decoder_upsampling": "bilinear"}, "--decoder-upsampling is only for --decoder unet"),
        ({"decoder": "dpt", "decoder_filters": (16,), "supervised_scales": 2}, "--supervised-scales must be 1 to 1"),
        ({"encoder": "dinov2_tiny", "height": 70, "width": 70, "supervised_scales": 2}, "must be 1 with a vision"),
        ({"encoder": "dinov2_tiny"}, "--height must be a multiple of 14"),
        ({"encoder": "deit_small", "height": 72, "width": 64}, "--height must be a multiple of 16"),
        ({"decoder": "unet3"}, "--decoder takes: unet, dpt, fcrn"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(smoke(), **changes)
