"""A fixed-size log-depth network as a predictor of metres for photographs of any size."""

import pickle
import shutil
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest

from depthflow.errors import RegistryError
from depthflow.inference.predictor import ConstantPredictor, NetworkPredictor, find_network, load_predictor
from depthflow.models.canonical_camera import ModelCamera
from depthflow.models.interface import file_sha256
from depthflow.models.network import build_network
from depthflow.recipes import smoke


def network_of(log_depth, *, height: int = 4, width: int = 8, dtype: str = "float32") -> keras.Model:
    """uint8 (B, height, width, 3) to what `log_depth` makes of the pixels as numbers."""
    rgb = keras.Input((height, width, 3), dtype="uint8")
    pixels = keras.layers.Rescaling(1.0, dtype=dtype)(rgb)
    return keras.Model(rgb, log_depth(pixels))


def constant(value: float, **options) -> keras.Model:
    """The same log-depth everywhere."""
    return network_of(lambda x: keras.layers.Rescaling(0.0, offset=value, dtype=x.dtype)(x[..., :1]), **options)


def red_as_log_depth(**options) -> keras.Model:
    """Log-depth is the red channel / 100."""
    return network_of(lambda x: keras.layers.Rescaling(0.01)(x[..., :1]), **options)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def tiny():
    return build_network(replace(smoke(), height=32, width=64))


@pytest.mark.parametrize("size", [(32, 64), (48, 36), (7, 200), (1, 1), (480, 640)])
@pytest.mark.parametrize("images", [1, 3])
def test_metres_at_the_photographs_size(tiny, size, images):
    depth_m = NetworkPredictor(tiny)(noise(images, *size, 3))
    assert depth_m.shape == (images, *size)
    assert depth_m.dtype == np.float32
    assert np.isfinite(depth_m).all() and (depth_m > 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(4, 8), (9, 5), (100, 160)])
def test_constant_network_gives_that_depth_exactly(size, dtype):
    depth_m = NetworkPredictor(constant(2.0, dtype=dtype))(noise(2, *size, 3))
    np.testing.assert_array_equal(depth_m, np.exp(np.full((2, *size), 2.0, np.float32)))


def test_at_the_networks_size_nothing_is_resampled():
    rgb = noise(2, 4, 8, 3)
    depth_m = NetworkPredictor(red_as_log_depth())(rgb)
    np.testing.assert_allclose(depth_m, np.exp(rgb[..., 0] * 0.01), rtol=1e-5)


def test_photograph_is_averaged_over_areas():
    """A chequerboard of 0 and 200 at twice the size is 100 everywhere: exp(1) metres."""
    board = np.zeros((1, 8, 16, 3), np.uint8)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = 200
    np.testing.assert_allclose(NetworkPredictor(red_as_log_depth())(board), np.exp(1.0), rtol=1e-6)


def test_log_depth_is_resized_before_it_becomes_metres():
    """Halfway between 1 m and e^2 m lies e m, not their mean (4.19 m)."""
    rgb = np.zeros((1, 1, 3, 3), np.uint8)
    network = network_of(
        lambda x: keras.layers.Rescaling(0.0)(x[..., :1]) + np.array([[[0.0], [2.0]]], np.float32), height=1, width=2
    )
    np.testing.assert_allclose(NetworkPredictor(network)(rgb)[0, 0], np.exp([0.0, 1.0, 2.0]), rtol=1e-6)


def test_left_stays_left_and_up_stays_up():
    rgb = np.zeros((1, 40, 80, 3), np.uint8)
    rgb[:, :20, :40, 0] = 100
    depth_m = NetworkPredictor(red_as_log_depth())(rgb)[0]
    assert depth_m[3, 3] == pytest.approx(np.e)
    assert [depth_m[3, -3], depth_m[-3, 3], depth_m[-3, -3]] == [1.0, 1.0, 1.0]


def test_each_image_by_itself(tiny):
    rgb = noise(3, 40, 50, 3)
    predictor = NetworkPredictor(tiny)
    alone = np.concatenate([predictor(image[None]) for image in rgb])
    np.testing.assert_allclose(predictor(rgb), alone, rtol=1e-4)
    assert not np.allclose(alone[0], alone[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 8, 3), np.uint8), ((1, 4, 8, 4), np.uint8), ((1, 4, 8), np.uint8), ((1, 4, 8, 3), np.float32)],
)
def test_what_is_no_batch_of_photographs_is_refused(shape, dtype):
    with pytest.raises(ValueError, match=r"uint8 \(B, H, W, 3\)\. Received: ") as caught:
        NetworkPredictor(constant(0.0))(np.zeros(shape, dtype))
    assert str(caught.value).endswith(f"Received: {np.dtype(dtype)} {shape}")


# --- lenses wider than those in training ---


def mean_red(**options) -> keras.Model:
    """Log-depth is the mean of the red channel / 100 everywhere: what an image shows, not where."""
    pool = keras.layers.GlobalAveragePooling2D(keepdims=True)
    return network_of(
        lambda x: keras.layers.UpSampling2D((4, 8))(pool(keras.layers.Rescaling(0.01)(x[..., :1]))), **options
    )


def seen_by(camera, focal, images=2):
    """Returns log-depth of black images whose right half is red 100."""
    rgb = np.zeros((images, 40, 80, 3), np.uint8)
    rgb[:, :, 40:, 0] = 100
    return np.log(NetworkPredictor(mean_red(), camera)(rgb, np.full(images, focal)))


TRAINED = ModelCamera(camera="canonical", median_focal=1.0, least_focal=0.8)


@pytest.mark.parametrize("focal", [0.8, 0.79, 1.5])
def test_a_lens_as_in_training_is_predicted_at_once(focal):
    np.testing.assert_allclose(seen_by(TRAINED, focal), 0.5 + np.log(focal), atol=1e-5)


def test_a_wider_lens_is_predicted_in_tiles_that_show_as_much_as_the_widest_one_in_training():
    """At half the focal length a tile is half as wide and high: those at the sides show one colour alone, and each has
    the focal length of the widest lens."""
    log_depth = seen_by(TRAINED, 0.4)
    np.testing.assert_allclose(log_depth[:, :, 2], np.log(0.8), atol=1e-5)
    np.testing.assert_allclose(log_depth[:, :, -3], 1.0 + np.log(0.8), atol=1e-5)
    assert (np.diff(log_depth, axis=2) > -1e-5).all()


def test_images_of_several_lenses_are_predicted_as_each_alone():
    rgb, focal = noise(3, 40, 80, 3), np.array([0.4, 1.0, np.nan])
    predictor = NetworkPredictor(mean_red(), TRAINED)
    alone = np.concatenate([predictor(rgb[k : k + 1], focal[k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(predictor(rgb, focal), alone, rtol=1e-5)


def test_a_model_that_does_not_know_its_widest_lens_makes_no_tiles():
    np.testing.assert_allclose(
        seen_by(ModelCamera(camera="canonical", median_focal=1.0), 0.4), 0.5 + np.log(0.4), atol=1e-5
    )


def test_without_the_canonical_camera_a_wider_lens_is_tiled_too():
    """Its metres are those of the training's lens, which a tile is of."""
    log_depth = seen_by(ModelCamera(median_focal=0.8, least_focal=0.8), 0.4)
    np.testing.assert_allclose(log_depth[:, :, 2], 0.0, atol=1e-5)
    np.testing.assert_allclose(log_depth[:, :, -3], 1.0, atol=1e-5)


def test_constant_predictor():
    depth_m = ConstantPredictor(2.5)(noise(2, 5, 7, 3))
    assert depth_m.dtype == np.float32
    np.testing.assert_array_equal(depth_m, np.full((2, 5, 7), 2.5, np.float32))


# --- loading ---


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tiny):
    """A folder like the one that MLflow makes."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "artifacts").mkdir()
    (folder / "MLmodel").write_text("flavors: {python_function: {config: {}}}\n")
    tiny.save(folder / "artifacts" / "network.keras")
    return folder


def test_loaded_predictor_predicts_the_same(packed, tiny):
    rgb = noise(1, 50, 40, 3)
    np.testing.assert_array_equal(load_predictor(str(packed))(rgb), NetworkPredictor(tiny)(rgb))


@pytest.mark.parametrize(
    ("config", "output"),
    [
        ("{}", "metres"),
        ("{model_output: metres}", "metres"),
        ("{model_output: relative depth}", "relative depth"),
        ("{model_output: relative depth, model_camera: {camera: canonical, median_focal: 2.0}}", "relative depth"),
    ],
)
def test_a_model_says_what_it_predicts_and_older_ones_predict_metres(tmp_path, packed, tiny, config, output):
    """A canonical camera is applied to relative depth, too: the unknown factor is the same for all lenses."""
    folder = shutil.copytree(packed, tmp_path / "model")
    (folder / "MLmodel").write_text(f"flavors: {{python_function: {{config: {config}}}}}\n")
    predictor, rgb = load_predictor(str(folder)), noise(2, 32, 64, 3)
    assert (predictor.output, find_network(str(folder)).output) == (output, output)
    by_lens = np.array([4.0, np.nan]) if "canonical" in config else np.ones(2)
    by_lens = np.where(np.isnan(by_lens), 2.0, by_lens)[:, None, None]
    expected = by_lens * NetworkPredictor(tiny)(rgb)
    np.testing.assert_allclose(predictor(rgb, np.array([4.0, np.nan])), expected, rtol=1e-6)


@pytest.mark.parametrize("said", ["relative inverse depth", "feet", "[metres]", "null"])
def test_a_model_that_predicts_what_no_log_depth_network_does_is_refused(tmp_path, packed, said):
    folder = shutil.copytree(packed, tmp_path / "model")
    (folder / "MLmodel").write_text(f"flavors: {{python_function: {{config: {{model_output: {said}}}}}}}\n")
    with pytest.raises(RegistryError, match=r"is not a depthflow model's: model_output is metres or relative depth\."):
        load_predictor(str(folder))


@pytest.mark.parametrize("broken", ["no MLmodel", "no network", "two networks", "no folder"])
def test_what_is_no_depthflow_model_is_refused(tmp_path, packed, broken):
    folder = tmp_path / "model"
    if broken != "no folder":
        folder.mkdir()
    if broken in ("no network", "two networks"):
        (folder / "MLmodel").touch()
    if broken != "no network" and folder.exists():
        for name in ("a", "b") if broken == "two networks" else ("a",):
            (folder / f"{name}.keras").touch()
    with pytest.raises(RegistryError, match=rf"{folder} is not a depthflow model: .*MLmodel.*\.keras"):
        load_predictor(str(folder))


def test_a_model_with_a_pickle_beside_its_network_is_refused(tmp_path, packed):
    """As log_model packages an object instead of code."""
    folder = shutil.copytree(packed, tmp_path / "model")
    (folder / "python_model.pkl").write_bytes(pickle.dumps(None))
    with pytest.raises(RegistryError, match=r"python_model\.pkl is a pickle, .*Pass the folder"):
        load_predictor(str(folder))


def test_lambda_layers_are_not_run(tmp_path):
    """safe_mode: a file that would run code of its own is refused."""
    rgb = keras.Input((4, 4, 3), dtype="uint8")
    network = keras.Model(rgb, keras.layers.Lambda(lambda x: x[..., :1] * 1.0)(rgb))
    network.save(tmp_path / "network.keras")
    with pytest.raises(RegistryError, match=r"cannot be loaded: .*(unsafe|safe_mode|lambda)"):
        NetworkPredictor.load(str(tmp_path / "network.keras"))


@pytest.mark.parametrize("damage", ["empty", "no archive", "truncated", "a flipped bit", "no config"])
def test_a_damaged_network_is_told_in_one_line(tmp_path, tiny, damage):
    path = tmp_path / "network.keras"
    tiny.save(path)
    content = bytearray(path.read_bytes())
    if damage == "no config":
        with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "less.keras", "w") as less:
            less.writestr("config.json", "{}")
            less.writestr("model.weights.h5", whole.read("model.weights.h5"))
        path = tmp_path / "less.keras"
    else:
        content[len(content) // 2] ^= 1
        damaged = {"empty": b"", "no archive": b"PK" * 100, "truncated": content[:-100], "a flipped bit": content}
        path.write_bytes(damaged[damage])
    with pytest.raises(RegistryError, match=r"network .*\.keras cannot be loaded: .+ Restore it") as caught:
        NetworkPredictor.load(str(path))
    assert "\n" not in str(caught.value)


def test_a_network_of_other_inputs_is_rejected(tmp_path):
    rgb = keras.Input((4, 4, 3), dtype="uint8")
    for outputs in (keras.layers.Rescaling(1.0)(rgb), keras.layers.GlobalAveragePooling2D()(rgb)):
        keras.Model(rgb, outputs).save(tmp_path / "network.keras")
        with pytest.raises(RegistryError, match="is not a depth network"):
            NetworkPredictor.load(str(tmp_path / "network.keras"))


def test_only_the_network_that_was_registered_is_loaded(packed):
    registered = file_sha256(packed / "artifacts" / "network.keras")
    assert load_predictor(str(packed), sha256=registered).output == "metres"
    with pytest.raises(RegistryError, match=rf"SHA-256 is {registered}, and the registry says {'0' * 64}"):
        load_predictor(str(packed), sha256="0" * 64)
