"""Learning from views on real stores: where depth begins, what validation measures, and how metres are found."""

from dataclasses import replace

import numpy as np
import pytest

from depthflow.errors import TrainingError
from depthflow.models.network import depth_network, heads, pose_network, serving_network, shift_log_depth
from depthflow.recipes import smoke
from depthflow.store.read.geometry import Geometry
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.share import Position
from depthflow.store.write.config import PreprocessConfig
from depthflow.training.feed import planes_of, training_batches
from depthflow.training.initial_depth import SWEPT_M, begin_at_likely_depth, best_log_depths
from depthflow.training.learner import Learner
from depthflow.training.scale import ScaleMeter
from depthflow.training.validation import Validator
from depthflow.training.view_measure import ViewMeasure, direction_errors_deg
from tests.stores import make_store
from tests.view_trees import STEP_M, WALL_M, write_pairs, write_table, write_video

SIZE = 32
RECIPE = replace(smoke(), height=SIZE, width=SIZE, horizontal_flip=False, max_zoom=1.0, colour_jitter=0.0)
STEREO = replace(RECIPE, objective=(("stereo", 1.0),))
VIDEO = replace(RECIPE, objective=(("video", 1.0),))
GIVEN = replace(VIDEO, poses="given")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Returns a store per kind: a wall at 4 m, past which cameras move along their x axis."""
    folder, stores = tmp_path_factory.mktemp("views"), {}
    for kind in ("stereo", "video"):
        rows = []
        for split, count in (("train", 8), ("val", 4)):
            root = folder / kind
            pairs = kind == "stereo"
            rows += (
                write_pairs(root, count, split=split)
                if pairs
                else write_video(root, count + 2, scans=(split,), split=split)
            )
        write_table(folder / kind, rows)
        config = PreprocessConfig(
            source=(str(folder / kind),), out=str(folder / f"{kind}-store"), kind=kind, height=SIZE, width=SIZE
        )
        stores[kind] = make_store(config)
    return stores


@pytest.fixture
def reader(stores):
    """Reads a split with all that a recipe needs."""

    def read(recipe, split="train"):
        store = stores[recipe.views_from]
        return SplitReader(store, split, planes=planes_of(recipe, store))

    return read


def model_of(small_network, recipe):
    return small_network(size=SIZE, scales=recipe.supervised_scales, poses=recipe.learns_poses)


# --- the network ---


def test_the_trained_model_falls_into_its_parts(small_network):
    model = small_network(size=SIZE, scales=2, poses=True)
    assert [len(part.outputs) for part in (depth_network(model), pose_network(model), serving_network(model))] == [
        *(2, 1, 1)
    ]
    assert not any(layer.name.startswith("pose_") for layer in serving_network(model).layers)
    plain = small_network(size=SIZE)
    assert depth_network(plain) is plain and pose_network(plain) is None


def test_a_shift_moves_all_scales(small_network):
    model, rgb = small_network(size=SIZE, scales=2), np.full((1, SIZE, SIZE, 3), 99, np.uint8)
    before = [np.array(output) for output in model(rgb)]
    shift_log_depth(model, 0.5)
    for one, other in zip(before, model(rgb), strict=True):
        np.testing.assert_allclose(other, one + 0.5, rtol=1e-5)


# --- feed ---


def test_a_batch_has_the_views_of_its_samples(reader):
    batches = training_batches(reader(VIDEO), VIDEO, position=Position(seed=0, epoch=0), rank=0, num_workers=1)
    batch = next(batches)
    assert batch.views.images.shape == (len(batch.rgb), 2, SIZE, SIZE, 3)
    np.testing.assert_allclose(batch.views.poses[:, :, 0, 3], [[STEP_M, -STEP_M]] * len(batch.rgb), atol=1e-6)


def test_supervised_training_reads_no_views(stores, reader):
    recipe = RECIPE
    assert planes_of(recipe, stores["video"]) == ("rgb", "log_depth", "valid_mask")


# --- where depth begins ---


@pytest.mark.parametrize("recipe", [STEREO, GIVEN])
def test_depth_begins_at_that_of_the_scene(small_network, reader, recipe):
    """Of planes each 1.29 times as far as the last, the one nearest to the wall wins; depth is almost flat."""
    model, batch = model_of(small_network, recipe), reader(recipe)
    begin_at_likely_depth(model, recipe, batch)
    log_depth = np.array(serving_network(model)(batch.read([0]).rgb))
    nearest = np.abs(np.log(SWEPT_M / WALL_M)).min()
    assert abs(np.median(log_depth) - np.log(WALL_M)) <= nearest + 0.1
    assert log_depth.std() < 0.15


def test_the_clearest_pixels_tell_the_depth():
    """The second pixel has no clear best; the third is seen from nowhere."""
    errors = np.full((len(SWEPT_M), 3), 0.5)
    errors[7, 0], errors[3, 1], errors[:, 2] = 0.1, 0.49, np.inf
    assert best_log_depths(errors).tolist() == pytest.approx([np.log(SWEPT_M[7]), np.log(SWEPT_M[3])])
    assert best_log_depths(errors[:, [0, 1, 1, 1]])[0] == pytest.approx(np.log(SWEPT_M[7]))


# --- validation ---


def test_directions_by_hand():
    """Straight, at a right angle, opposite; unknown and without motion do not count."""
    true, predicted = np.zeros((5, 1, 4, 4)), np.zeros((5, 1, 4, 4))
    true[:, 0, :3, 3] = [[1, 0, 0], [0, 2, 0], [0, 0, 1], [np.nan] * 3, [0, 0, 0]]
    predicted[:, 0, :3, 3] = [[3, 0, 0], [0, 0, 1], [0, 0, -2], [1, 0, 0], [1, 0, 0]]
    geometry = Geometry(np.zeros((5, 4)), np.zeros((5, 1, 4)), true, np.zeros(5))
    assert direction_errors_deg(predicted, geometry).tolist() == pytest.approx([0.0, 90.0, 180.0])


@pytest.mark.parametrize("recipe", [STEREO, GIVEN, VIDEO])
def test_validation_measures_views(small_network, reader, group, recipe):
    """Depth of 2 m everywhere, where the wall is at 4 m."""
    model = model_of(small_network, recipe)
    for head in heads(model):
        head.kernel.assign(0 * head.kernel)
        head.bias.assign(0 * head.bias + np.log(2.0))
    measure = ViewMeasure(Learner(model, recipe))
    is_relative = recipe.output == "relative depth"
    validator = Validator(
        model, reader(recipe, "val"), group, max_batch_size=3, view_measure=measure, is_relative=is_relative
    )
    found = validator.metrics(validator.sums(beat=lambda doing: None))
    assert found["val/abs_rel"] == pytest.approx(0.0 if is_relative else 0.5, abs=1e-6)
    assert found["val/abs_rel_aligned"] == pytest.approx(0.0, abs=1e-6)
    assert 0.01 < found["val/photometric"] < 0.6
    assert ("val/pose_direction_median_deg" in found) == recipe.learns_poses
    validator.metres_per_unit = 2.0
    metres = validator.metrics(validator.sums(beat=lambda doing: None))
    assert metres["val/abs_rel"] == pytest.approx(0.0, abs=1e-6)


# --- scale ---


def measured(learner, recipe, reader, group, rows=range(8)):
    meter = ScaleMeter(learner, reader(recipe), group, recipe, rows=np.array(rows), max_batch_size=3)
    return meter.metres_per_unit(meter.logs(beat=lambda doing: None))


def test_labels_tell_metres(small_network, reader, group):
    recipe = replace(VIDEO, scale_from="median")
    model = model_of(small_network, recipe)
    for head in heads(model):
        head.kernel.assign(0 * head.kernel)
        head.bias.assign(0 * head.bias + np.log(0.5))
    assert measured(Learner(model, recipe), recipe, reader, group) == pytest.approx(WALL_M / 0.5)


def test_distances_tell_metres(small_network, reader, group):
    """The pose network says that each neighbour is 0.1 units away."""
    recipe = replace(VIDEO, scale_from="velocity")
    model = model_of(small_network, recipe)
    convolution = model.get_layer("pose_conv")
    convolution.kernel.assign(0 * convolution.kernel)
    convolution.bias.assign(np.array([0, 0, 0, 1, 0, 0], np.float32))
    assert measured(Learner(model, recipe), recipe, reader, group) == pytest.approx(STEP_M / 0.1, rel=1e-5)


def test_without_anything_to_measure_the_run_ends(small_network, reader, group):
    recipe = replace(VIDEO, scale_from="median")
    learner = Learner(model_of(small_network, recipe), recipe)
    meter = ScaleMeter(learner, reader(recipe), group, recipe, rows=np.arange(2), max_batch_size=2)
    with pytest.raises(TrainingError, match="--scale-from median found no training sample with depth"):
        meter.metres_per_unit(np.zeros((2, 2)))
