"""Encoders: shapes of the maps, input scaling as in Keras, weights, and rejected arguments."""

import warnings
from dataclasses import replace

import keras
import numpy as np
import pytest

from depthflow.errors import TrainingError
from depthflow.models.encoders import ENCODERS, build_encoder

APPLICATIONS = {name: encoder for name, encoder in ENCODERS.items() if encoder.has_weights}

# Channels at 1/2, 1/4, 1/8, 1/16 and 1/32, and the number of parameters that Keras publishes, without the top.
CHANNELS = {
    "resnet50": (64, 256, 512, 1024, 2048),
    "resnet50v2": (64, 256, 512, 1024, 2048),
    "convnext_tiny": (48, 96, 192, 384, 768),
    "efficientnetv2_s": (24, 48, 64, 160, 1280),
    "mobilenetv3_large": (16, 24, 40, 112, 960),
}
PARAMETERS = {
    "resnet50": 23_587_712,
    "resnet50v2": 23_564_800,
    "convnext_tiny": 27_820_128,
    "efficientnetv2_s": 20_331_360,
    "mobilenetv3_large": 2_996_352,
}
PREPROCESSING = {
    "resnet50": keras.applications.resnet,
    "resnet50v2": keras.applications.resnet_v2,
    "convnext_tiny": keras.applications.convnext,
    "efficientnetv2_s": keras.applications.efficientnet_v2,
    "mobilenetv3_large": keras.applications.mobilenet_v3,
}


def encoder(name: str, weights: str = "none", input_scaling: str = "encoder") -> keras.Model:
    """Builds an encoder from images of any size to the five maps, fine to coarse."""
    rgb = keras.Input((None, None, 3), dtype="uint8")
    features = build_encoder(rgb, name=name, weights=weights, input_scaling=input_scaling)
    return keras.Model(rgb, [*features.skips, features.bottom])


def backbone_weights(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(w) for layer in model.layers if not layer.name.startswith("decoder") for w in layer.weights]


def scaled(model: keras.Model, layer: str, rgb: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(model.input, model.get_layer(layer).output)(rgb))


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)


@pytest.fixture(scope="module", params=APPLICATIONS)
def built(request):
    """Returns (name, encoder); each is built once."""
    return request.param, encoder(request.param)


@pytest.fixture(scope="module")
def reference(built):
    """Returns the network as Keras builds it for a user, with its own preprocessing and our encoder's weights."""
    name, model = built
    network = APPLICATIONS[name].build(include_top=False, weights=None)
    network.set_weights(backbone_weights(model))
    return network


# --- the applications ---


def test_every_encoder_with_weights_is_tested():
    assert CHANNELS.keys() == APPLICATIONS.keys()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96)])
def test_maps_halve_five_times(built, rgb, height, width):
    name, model = built
    maps = model(rgb[:, :, :width])
    expected = [(1, height >> k, width >> k, channels) for k, channels in enumerate(CHANNELS[name], start=1)]
    assert [tuple(x.shape) for x in maps] == expected
    assert all(np.isfinite(x).all() and np.std(x) > 0 for x in maps)


def test_parameter_count_is_that_of_keras(built):
    name, model = built
    assert sum(weight.size for weight in backbone_weights(model)) == PARAMETERS[name]


def test_input_is_preprocessed_as_in_keras(built, reference, rgb):
    name, model = built
    expected = PREPROCESSING[name].preprocess_input(rgb.astype(np.float32))
    for layer in reference.layers:
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            expected = np.asarray(layer(expected))
    entering = scaled(model, "caffe_means" if name == "resnet50" else f"{name}_scale", rgb)
    assert np.abs(expected).max() < 200 and expected.min() < -0.9, "the reference must not be trivial"
    np.testing.assert_allclose(entering, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_the_bottom_map_is_the_output_of_keras(built, reference, rgb):
    """Equal to the output of Keras's own network, so the scaled image does enter the backbone."""
    name, model = built
    expected = np.asarray(reference(PREPROCESSING[name].preprocess_input(rgb.astype(np.float32))))
    np.testing.assert_allclose(np.asarray(model(rgb)[-1]), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_dropout_is_switched_off(built):
    _, model = built
    assert all(layer.rate == 0.0 for layer in model.layers if isinstance(layer, keras.layers.Dropout))


def test_convnext_map_at_one_half_belongs_to_the_decoder(built):
    name, model = built
    own = [layer.name for layer in model.layers if layer.name.startswith("decoder")]
    assert own == (["decoder_half_conv", "decoder_half_relu"] if name == "convnext_tiny" else [])


def test_weights_file_of_the_application_is_loaded(tmp_path):
    path = tmp_path / "notop.weights.h5"
    application = keras.applications.MobileNetV3Large(include_top=False, weights=None)
    application.save_weights(path)
    loaded = backbone_weights(encoder("mobilenetv3_large", weights=str(path)))
    for mine, theirs in zip(loaded, application.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_imagenet_weights_are_loaded(shared, rgb):
    path = shared / "weights" / "resnet50_imagenet_notop.weights.h5"
    if not path.is_file():
        pytest.skip(f"there is no {path}; set DEPTHFLOW_SHARED to the folder that holds weights/")
    names = (*APPLICATIONS["resnet50"].skips, "conv5_block3_out")
    reference = keras.applications.ResNet50(include_top=False, weights=None)
    reference.load_weights(path)
    expected = keras.Model(reference.input, [reference.get_layer(name).output for name in names])
    pixels = keras.applications.resnet.preprocess_input(rgb.astype(np.float32))
    for mine, theirs in zip(encoder("resnet50", weights=str(path))(rgb), expected(pixels), strict=True):
        assert np.std(theirs) > 0.01, "the reference must not be trivial"
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-4, atol=1e-4)


# --- input scaling ---


def test_tiny_scales_pixels_to_minus_one_to_one():
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    pixels[..., 1] = 255
    np.testing.assert_allclose(scaled(encoder("tiny"), "tiny_scale", pixels)[0, 0, 0], [-1.0, 1.0, -1.0], atol=1e-6)


@pytest.mark.parametrize("name", ["tiny", "resnet50"])
def test_unit_scaling_divides_by_255(name, rgb):
    model = encoder(name, input_scaling="unit")
    assert [layer.name for layer in model.layers if isinstance(layer, keras.layers.Rescaling)] == ["unit_scale"]
    np.testing.assert_allclose(scaled(model, "unit_scale", rgb), rgb / 255, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("policy", "dtype"), [("mixed_bfloat16", "float32"), ("mixed_float16", "float32"), ("float64", "float64")]
)
def test_mixed_policies_scale_in_full_precision(policy, dtype):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = encoder("tiny")
    finally:
        keras.config.set_dtype_policy(previous)
    assert model.get_layer("tiny_scale").output.dtype == dtype


def test_tiny_maps():
    maps = encoder("tiny").outputs
    assert [x.shape[-1] for x in maps] == [16, 24, 32, 48, 64]
    assert encoder("tiny").count_params() == 52_640


# --- rejected arguments ---


@pytest.mark.parametrize("weights", ["imagenet", "/some/file.weights.h5"])
def test_tiny_has_no_weights_to_load(weights):
    with pytest.raises(TrainingError, match=f"Pass --weights none. Received: {weights}"):
        encoder("tiny", weights=weights)


def test_missing_weights_file_is_rejected(tmp_path):
    path = tmp_path / "absent.weights.h5"
    with pytest.raises(TrainingError, match=rf"no weights file {path}.*--weights"):
        encoder("mobilenetv3_large", weights=str(path))


def test_failed_download_is_reported(monkeypatch):
    def build(*, weights, **options):
        if weights == "imagenet":
            raise Exception("URL fetch failure")
        return keras.applications.MobileNetV3Large(weights=weights, **options)

    offline = replace(APPLICATIONS["mobilenetv3_large"], build=build)
    monkeypatch.setitem(ENCODERS, "mobilenetv3_large", offline)
    with pytest.raises(TrainingError, match=r"cannot be downloaded from here: URL fetch failure.*--weights"):
        encoder("mobilenetv3_large", weights="imagenet")


def write_text(path):
    path.write_text("these are no weights")


def write_other_network(path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(path)


@pytest.mark.parametrize("write", [write_text, write_other_network])
def test_file_without_the_encoders_weights_is_rejected(write, tmp_path):
    path = tmp_path / "other.weights.h5"
    write(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of every layer it does not find.
        with pytest.raises(TrainingError, match=f"{path} does not hold this encoder's weights.*--weights"):
            encoder("mobilenetv3_large", weights=str(path))
