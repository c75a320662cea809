"""Networks with weights of transformers against transformers' own outputs, which tests/reference/ has made."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from depthflow.errors import TrainingError, WeightsError
from depthflow.models.depth_anything import build_depth_anything
from depthflow.models.features import IMAGENET_OFFSET, IMAGENET_SCALE
from depthflow.models.network import build_network
from depthflow.models.transformers_config import measures
from depthflow.models.transformers_folder import TransformersFolder, open_transformers
from depthflow.models.transformers_weights import bicubic_weights, load_weights
from depthflow.models.vit import VisionTransformer, transformer_maps
from depthflow.recipes import smoke
from tests.reference.transformers_outputs import FILE, SIDES, is_depth, key, sampled
from tests.transformers_models import FOUR_LAYERS, MODELS, random_image, write_model

EXPECTED = dict(np.load(FILE))
LARGEST_RELATIVE_DIFFERENCE = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, TransformersFolder]:
    return {name: open_transformers(str(write_model(tmp_path_factory.mktemp(name), name))) for name in MODELS}


def encoder(folder: TransformersFolder, *, height: int, width: int) -> keras.Model:
    """The tokens of an encoder's last layer, as a map."""
    vit = VisionTransformer(**measures(folder), taps=(1, 2, 3, 4), map_filters=(8, 8, 8, 8))
    rgb = keras.Input((height, width, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(list(IMAGENET_SCALE), offset=list(IMAGENET_OFFSET), dtype="float32")(rgb)
    features = transformer_maps(scaled, vit)
    network = keras.Model(rgb, [*features.skips[1:], features.bottom])
    load_weights(network, vit, folder)
    return keras.Model(rgb, network.get_layer("decoder_reassemble3_map").output)


@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_transformers(folders, name, height, width):
    build = build_depth_anything if is_depth(name) else encoder
    found = np.asarray(build(folders[name], height=height, width=width)(random_image(height, width)[None]))[0]
    found = sampled(name, found[..., 0] if is_depth(name) else found)
    expected = EXPECTED[key(name, height, width)]
    assert found.shape == expected.shape and np.ptp(expected) > 0.1 * np.abs(expected).max()
    scale = expected if is_depth(name) else np.abs(expected).max()  # Depth is above 0, and features are not.
    assert np.max(np.abs(found - expected) / scale) < LARGEST_RELATIVE_DIFFERENCE


def test_positions_by_hand():
    """PyTorch's two bicubic interpolations of a step, from its formula with a = -0.75 and with a = -0.5."""
    step = np.array([0.0, 0.0, 1.0, 1.0])
    plain = step @ bicubic_weights(4, 8, antialias=False)
    # Half a pixel beside the step: the two nearest right weights, at distances 0.75 and 1.75, or 0.25 and 1.25.
    cubic = {a: lambda d, a=a: a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for a in (-0.75, -0.5)}
    inner = {a: lambda d, a=a: (a + 2) * d**3 - (a + 3) * d**2 + 1 for a in (-0.75, -0.5)}
    assert plain[3] == pytest.approx(inner[-0.75](0.75) + cubic[-0.75](1.75), abs=1e-6)
    assert plain[4] == pytest.approx(inner[-0.75](0.25) + cubic[-0.75](1.25), abs=1e-6)
    smooth = step @ bicubic_weights(4, 8, antialias=True)
    assert smooth[3] == pytest.approx(inner[-0.5](0.75) + cubic[-0.5](1.75), abs=1e-6)
    np.testing.assert_allclose(bicubic_weights(4, 4, antialias=True), np.eye(4), atol=1e-7)
    np.testing.assert_allclose(bicubic_weights(9, 3, antialias=True).sum(axis=0), 1, atol=1e-6)


RECIPE = replace(
    smoke(),
    **{"encoder": "dinov2_tiny", "decoder": "dpt", "decoder_filters": (16,), "decoder_norm": "none"},
    **{"height": 70, "width": 98},
)


@pytest.fixture
def tiny(folders) -> TransformersFolder:
    return folders["tiny"]


class TestFineTuning:
    """What --weights puts into the network of a recipe."""

    def loaded(self, place: object, **changes) -> set[str]:
        """Builds a network and returns the names of the layers whose weights are other than random ones."""
        recipe = replace(RECIPE, **changes)
        keras.utils.set_random_seed(0)
        fresh = build_network(recipe)
        keras.utils.set_random_seed(0)
        network = build_network(replace(recipe, weights=str(place)))
        pairs = zip(fresh.layers, network.layers, strict=True)
        return {
            ours.name
            for ours, theirs in pairs
            if any(not np.array_equal(a, b) for a, b in zip(ours.weights, theirs.weights, strict=True))
        }

    def test_encoder_and_decoder_of_a_depth_anything(self, tiny):
        """All layers but the last, whose output is log-depth: the map before it is the Depth Anything's."""
        networks = (
            build_network(replace(RECIPE, weights=tiny.place)),
            build_depth_anything(tiny, height=70, width=98),
        )
        rgb = random_image(70, 98)[None]
        ours, expected = (
            keras.Model(one.inputs[0], one.get_layer("decoder_head_relu").output)(rgb) for one in networks
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.max(expected))
        names = self.loaded(tiny.place)
        assert {"embed", "block3_fc2", "final_norm", "decoder_reassemble0_resize", "decoder_head_conv2"} <= names
        assert "log_depth" not in names

    @pytest.mark.parametrize(
        "changes",
        [{"decoder": "unet", "decoder_filters": (16, 16, 8, 8)}, {"decoder_filters": (8,)}, {"decoder_norm": "group"}],
    )
    def test_another_decoder_begins_at_random(self, tiny, changes):
        names = self.loaded(tiny.place, **changes)
        assert {"embed", "block3_fc2", "final_norm"} <= names
        assert not [name for name in names if name.startswith(("decoder", "log_depth"))]

    def test_an_encoder_alone(self, tmp_path):
        sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "image_size": 518}
        names = self.loaded(write_model(tmp_path, "dinov2", **sizes))
        assert {"embed", "block3_fc2", "final_norm"} <= names
        assert not [name for name in names if name.startswith(("decoder", "log_depth"))]

    @pytest.mark.parametrize(
        ("name", "changes", "match"),
        [
            ("relative", {}, r"not those of the encoder dinov2_tiny: width is 32 instead of 48\. Pass the --encoder"),
            ("dinov2", {"hidden_size": 48}, "heads is 2 instead of 3"),
            ("registers", {"hidden_size": 48, "num_attention_heads": 3}, "registers is 4 instead of 0"),
            ("vit", {}, "width is 32 instead of 48"),
        ],
    )
    def test_another_encoder_is_named(self, tmp_path, name, changes, match):
        with pytest.raises(TrainingError, match=match):
            build_network(replace(RECIPE, weights=str(write_model(tmp_path, name, **changes))))


def without(name: str):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def replaced(name: str, shape: tuple[int, ...]):
    return lambda tensors: {**tensors, name: np.zeros(shape, np.float32)}


QUERY = "backbone.encoder.layer.2.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (without(QUERY), f"lack the tensor {QUERY}"),
        (without("neck.fusion_stage.layers.1.residual_layer1.convolution2.bias"), r"lack .*residual_layer1\.convolu"),
        (without("backbone.embeddings.position_embeddings"), "lack the tensor backbone.embeddings.position_embeddings"),
        (replaced(QUERY, (32, 31)), rf"{QUERY} of \S+ must have the shape \(32, 32\)\. Received: \(32, 31\)"),
        (replaced("backbone.embeddings.position_embeddings", (1, 27, 32)), r"must have the shape \(1, 26, 32\)"),
        (replaced("backbone.embeddings.position_embeddings", (26, 32)), r"must have the shape"),
        (replaced("head.conv3.weight", (2, 32, 1, 1)), r"head\.conv3\.weight .* shape \(1, 32, 1, 1\)"),
        (replaced("head.conv2.weight", (16, 4, 3, 3)), r"head\.conv2\.weight .* shape \(32, 4, 3, 3\)"),
        (replaced("backbone.encoder.layer.4.norm1.weight", (32,)), r"no place for: backbone\.encoder\.layer\.4\.norm1"),
        (replaced("neck.extra", (3,)), r"no place for: neck\.extra"),
    ],
)
def test_a_missing_or_surplus_tensor_or_another_shape_is_named(tmp_path, change, match):
    folder = write_model(tmp_path, "metric")
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    with pytest.raises(WeightsError, match=match) as caught:
        build_depth_anything(open_transformers(str(folder)), height=28, width=28)
    assert "\n" not in str(caught.value)


BACKBONE = MODELS["metric"]["backbone_config"]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "zoedepth"}, "is not a Depth Anything, but of the type zoedepth"),
        (MODELS["dinov2"], "is not a Depth Anything, but of the type dinov2"),
        (
            {**MODELS["metric"], "backbone_config": {**BACKBONE, "model_type": "swin"}},
            r"of the type swin\. Pass one of",
        ),
        ({**MODELS["metric"], "backbone_config": None}, "of the type depth_anything"),
        ({**MODELS["metric"], "backbone_config": {**BACKBONE, "use_swiglu_ffn": True}}, "has use_swiglu_ffn True"),
        ({**MODELS["metric"], "head_in_index": 0}, "has head_in_index 0 .* only -1 is read"),
        ({**MODELS["metric"], "reassemble_factors": [4, 2, 1, 1]}, "does not describe a Depth Anything"),
        (
            {**MODELS["metric"], "backbone_config": {**BACKBONE, "out_features": ["stage9"]}},
            "does not describe a Depth",
        ),
        (
            {**MODELS["metric"], "backbone_config": {**BACKBONE, "num_attention_heads": 5}},
            "not describe a vision trans",
        ),
        ({**MODELS["metric"], "backbone_config": {**BACKBONE, "hidden_size": None}}, "not describe a vision trans"),
    ],
)
def test_another_architecture_is_named(tmp_path, config, match):
    folder = write_model(tmp_path, "metric")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=match) as caught:
        build_depth_anything(open_transformers(str(folder)), height=28, width=28)
    assert "\n" not in str(caught.value)


def test_indices_of_layers_are_read_like_their_names(tmp_path):
    """Some configurations have out_indices alone."""
    backbone = {k: v for k, v in BACKBONE.items() if k != "out_features"} | {"out_indices": [1, 2, 3, 4]}
    assert FOUR_LAYERS["out_features"] == BACKBONE["out_features"]
    folder = open_transformers(str(write_model(tmp_path, "metric", backbone_config=backbone)))
    found = build_depth_anything(folder, height=70, width=98)(random_image(70, 98)[None])
    expected = EXPECTED[key("metric", 70, 98)]
    np.testing.assert_allclose(sampled("metric", np.asarray(found)[0, ..., 0]), expected, rtol=1e-5)
