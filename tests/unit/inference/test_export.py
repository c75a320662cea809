"""Exported networks predict the registered network's metres in their own runtimes, or are not written."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from depthflow.errors import RegistryError, SourceError
from depthflow.inference.config import ExportConfig
from depthflow.inference.conversion import Variant, in_float32
from depthflow.inference.export import (
    Source,
    commit_exports,
    export_network,
    images_to_compare,
    open_source,
    representative_images,
)
from depthflow.inference.exported import RUNTIMES, load_exported
from depthflow.inference.named_model import NamedModel, find_model
from depthflow.inference.predictor import ConstantPredictor
from depthflow.models.canonical_camera import ModelCamera
from depthflow.registry.versions import ResolvedModel
from depthflow.storage.files import DiskFiles

HEIGHT, WIDTH = 16, 24
CANONICAL = ModelCamera(camera="canonical", median_focal=0.9)
VARIANTS = [
    *(Variant(format=name) for name in RUNTIMES),
    Variant(format="litert", weights="float16"),
    Variant(format="litert", weights="int8"),
]


def network_with(layer, *, dtype="float32") -> keras.Model:
    """uint8 (B, HEIGHT, WIDTH, 3) through a convolution and a layer to log-depth."""
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        rgb = keras.Input((HEIGHT, WIDTH, 3), dtype="uint8")
        x = keras.layers.Conv2D(8, 3, padding="same")(keras.layers.Rescaling(1 / 64, offset=-2.0)(rgb))
        return keras.Model(rgb, keras.layers.Conv2D(1, 1, dtype="float32")(layer(x)))
    finally:
        keras.config.set_dtype_policy(policy)


def source_of(network: keras.Model, **of_model) -> Source:
    model = NamedModel(uri="models:/depthflow/7", load=lambda: ConstantPredictor(1), output="metres", resolved=None)
    return Source(model=replace(model, **of_model), network=network, sha256="0" * 64)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def export(source: Source, folder: Path, *variants: Variant, tolerance: float = 1e-4) -> dict[str, float]:
    images, representative = [noise(40, 30, 3), noise(HEIGHT, WIDTH, 3)], noise(8, HEIGHT, WIDTH, 3)
    return export_network(
        source, variants, folder, images=images, tolerance=tolerance, representative=[*representative]
    )


@pytest.fixture(scope="module")
def gelu():
    resolved = ResolvedModel(
        uri="models:/depthflow/7", tracking_uri="", version=None, tags={"weights.licence": "Apache-2.0"}
    )
    return source_of(network_with(keras.layers.Activation("gelu")), camera=CANONICAL, resolved=resolved)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, gelu):
    """Every variant of the network with gelu, committed, and the differences."""
    scratch, out = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("out")
    differences = export(gelu, scratch, *VARIANTS)
    commit_exports(scratch, differences, DiskFiles(str(out)))
    return out, differences


def test_gelu_is_the_same_in_every_runtime(exported):
    _, differences = exported
    assert max(differences[name] for name in ("network.onnx", "network.tflite", "network.saved_model")) < 1e-5
    assert 1e-5 < differences["network.float16.tflite"] < 0.01
    assert 1e-3 < differences["network.int8.tflite"] < 0.5


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_exported_network_is_a_model_like_any_other(exported, gelu, variant):
    """Batches of any size, images of any size, the camera: predict.py and evaluate.py find it by its path."""
    out, differences = exported
    model = find_model(str(out / variant.name))
    assert (model.uri, model.output, model.camera) == (str(out / variant.name), "metres", CANONICAL)
    predictor, focal = model.load(), np.array([0.5, np.nan, 1.5])
    for count in (3, 1):
        rgb = noise(count, 20, 30, 3)
        depth_m = predictor(rgb, focal[:count])
        assert depth_m.dtype == np.float32
        largest = max(1e-5, 3 * differences[variant.name])
        np.testing.assert_allclose(depth_m, gelu.predictor(rgb, focal[:count]), rtol=largest)


def test_facts_say_what_goes_in_and_what_comes_out(exported):
    out, differences = exported
    facts = json.loads((out / "network.onnx.json").read_text())
    assert (facts["input"]["height"], facts["input"]["width"], facts["input"]["dtype"]) == (HEIGHT, WIDTH, "uint8")
    assert "logarithm of metres as the canonical camera" in facts["output"]["unit"]
    assert facts["model_camera"] == {"camera": "canonical", "median_focal": 0.9, "least_focal": None}
    assert (facts["model"], facts["licence"]) == ("models:/depthflow/7", "Apache-2.0")
    assert facts["network_sha256"] == "0" * 64
    assert facts["largest_difference"] == differences["network.onnx"]


def test_a_network_of_unknown_scale_says_so(tmp_path):
    """And a file without the entry, as older versions wrote it, is of metres."""
    relative = source_of(network_with(keras.layers.Activation("relu")), output="relative depth")
    export(relative, tmp_path, Variant(format="saved_model"))
    path, facts_file = tmp_path / "network.saved_model", tmp_path / "network.saved_model.json"
    facts = json.loads(facts_file.read_text())
    assert facts["output"]["unit"].startswith("natural logarithm of relative depth, which is metres up to an unknown")
    assert (find_model(str(path)).output, load_exported(str(path)).output) == ("relative depth", "relative depth")
    del facts["model_output"]
    facts_file.write_text(json.dumps(facts))
    assert (find_model(str(path)).output, load_exported(str(path)).output) == ("metres", "metres")
    facts_file.write_text(json.dumps({**facts, "model_output": "feet"}))
    with pytest.raises(RegistryError, match=r"is not what export\.py wrote: .*Received: 'feet'"):
        find_model(str(path))


def test_a_grouped_convolution_is_exported_to_onnx(tmp_path):
    """As in ConvNeXt. Keras compiles it with XLA, and tf2onnx left the call of the compiled function in the file."""
    grouped = source_of(network_with(keras.layers.Conv2D(8, 7, padding="same", groups=8)))
    assert export(grouped, tmp_path, Variant(format="onnx"))["network.onnx"] < 1e-5


def test_a_transformer_is_exported_to_litert(tmp_path):
    """Its layer scale was an einsum with a vector, which the converter took for a product of matrices."""
    scaled = keras.layers.EinsumDense(
        "btd,d->btd", (None, 8), kernel_initializer=keras.initializers.RandomNormal(seed=0)
    )

    def attended(x):
        tokens = keras.layers.Reshape((HEIGHT * WIDTH, 8))(x)
        tokens = keras.layers.Add()([tokens, scaled(keras.layers.MultiHeadAttention(2, 4)(tokens, tokens))])
        return keras.layers.Reshape((HEIGHT, WIDTH, 8))(keras.layers.LayerNormalization()(tokens))

    variants = [Variant(format=name) for name in RUNTIMES]
    assert max(export(source_of(network_with(attended)), tmp_path, *variants).values()) < 1e-5


def test_a_network_of_mixed_precision_is_exported_in_float32(tmp_path):
    mixed = network_with(keras.layers.Conv2D(8, 3, padding="same", activation="gelu"), dtype="mixed_bfloat16")
    network = in_float32(mixed)
    rgb = noise(2, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(network.predict_on_batch(rgb), mixed.predict_on_batch(rgb), atol=0.05)
    assert max(export(source_of(network), tmp_path, *(Variant(format=name) for name in RUNTIMES)).values()) < 1e-5


def test_what_onnxruntime_refuses_is_an_error_in_one_line(tmp_path):
    """tf2onnx does not raise for an operation that ONNX does not have."""
    strange = source_of(network_with(lambda x: keras.ops.erfinv(keras.ops.tanh(x))))
    with pytest.raises(RegistryError, match=r"^onnxruntime refuses network\.onnx: .*Erfinv.* Export") as caught:
        export(strange, tmp_path, Variant(format="onnx"))
    assert "\n" not in str(caught.value)


def test_what_litert_refuses_is_an_error_in_one_line(tmp_path):
    """Its converter takes TensorFlow's own operations, which the runtime does not have."""
    strange = source_of(network_with(keras.layers.Conv2D(8, 3), dtype="float64"))
    with pytest.raises(RegistryError, match=r"^LiteRT refuses network\.tflite: .*Flex.* Export") as caught:
        export(strange, tmp_path, Variant(format="litert"))
    assert "\n" not in str(caught.value)


def test_what_a_converter_refuses_is_an_error_in_one_line(tmp_path):
    strange = source_of(network_with(lambda x: keras.ops.erfinv(keras.ops.tanh(x))))
    with pytest.raises(RegistryError, match=r"^The network cannot be converted to litert: .*Pass another") as caught:
        export(strange, tmp_path, Variant(format="litert"))
    assert "\n" not in str(caught.value)


def test_too_large_a_difference_is_an_error(tmp_path, gelu):
    with pytest.raises(RegistryError, match=r"^network\.onnx differs from models:/depthflow/7 by \S+ of .* 1e-12\. "):
        export(gelu, tmp_path, Variant(format="onnx"), tolerance=1e-12)


def test_predictions_that_are_not_numbers_are_an_error(tmp_path):
    broken = network_with(keras.layers.ReLU())
    broken.set_weights([np.full_like(weights, np.nan) for weights in broken.get_weights()])
    with pytest.raises(RegistryError, match="by nan of"):
        export(source_of(broken), tmp_path, Variant(format="saved_model"))


def test_a_missing_runtime_is_told_with_what_to_install(tmp_path, gelu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(RegistryError, match=r"onnx needs packages .*tf2onnx.* pip install 'depthflow\[export\]'$"):
        export(gelu, tmp_path, Variant(format="onnx"))


def test_only_registered_networks_are_exported(exported):
    out, _ = exported
    with pytest.raises(RegistryError, match=r"that train\.py registered can be exported\. Received: .*network\.onnx$"):
        open_source(find_model(str(out / "network.onnx")))


# --- images ---


def test_images_are_the_example_and_the_users(tmp_path, gelu, write):
    write.triplet(tmp_path, "val", "00001_00001_indoors_000_000", *write.frame(0))
    source = replace(gelu, example=next(tmp_path.rglob("*.png")).read_bytes())
    example, image = images_to_compare(source, (str(tmp_path),))
    np.testing.assert_array_equal(example, write.frame(0)[0])
    np.testing.assert_array_equal(image, example)
    with pytest.raises(RegistryError, match=r"has no input example to compare on\. Pass some --images"):
        next(images_to_compare(gelu, ()))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"broken\.png cannot be read: "):
        list(images_to_compare(gelu, (str(tmp_path / "broken.png"),)))


def test_images_for_int8_are_of_train(gelu, small, write):
    images = representative_images(gelu, small.store, "val")
    assert len(images) == 64 and {image.shape for image in images} == {(HEIGHT, WIDTH, 3)}
    assert len({image.tobytes() for image in images}) == 64


# --- files ---


@pytest.fixture
def lone(tmp_path, exported):
    """A copy of the .onnx file with its facts."""
    out, _ = exported
    for name in ("network.onnx", "network.onnx.json"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    return tmp_path / "network.onnx"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"There is no .*network\.onnx\. Pass"),
        (lambda path: facts_beside(path).unlink(), r"There is no .*network\.onnx\.json\. Pass"),
        (lambda path: facts_beside(path).write_text("{}"), r"json is not what export\.py wrote: KeyError"),
        (lambda path: facts_beside(path).write_text("["), r"json is not what export\.py wrote: JSONDecodeError"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"is not the network that .*json describes"),
    ],
)
def test_files_that_do_not_belong_together_are_rejected(lone, damage, message):
    damage(lone)
    with pytest.raises(RegistryError, match=message) as caught:
        find_model(str(lone))
    assert "\n" not in str(caught.value)


def facts_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def test_an_interrupted_commit_leaves_nothing_that_loads(tmp_path, exported):
    """The facts of an earlier export go first, and those of this one come last."""
    earlier, _ = exported
    out = DiskFiles(str(tmp_path / "out"))
    names = ["network.saved_model", "network.onnx"]
    commit_exports(earlier, names, out)
    (Path(out.root) / "network.saved_model" / "stale").touch()

    class FullDisk(DiskFiles):
        def write(self, path, content):
            if path == "network.onnx":
                raise OSError("full")
            super().write(path, content)

    with pytest.raises(OSError, match="full"):
        commit_exports(earlier, names, FullDisk(out.root))
    load_exported(f"{out.root}/network.saved_model")
    with pytest.raises(RegistryError, match="There is no"):
        find_model(f"{out.root}/network.onnx")


def test_flags_offer_every_format():
    assert ExportConfig.__dataclass_fields__["format"].type.__args__[0].__args__[0].__args__ == tuple(RUNTIMES)
