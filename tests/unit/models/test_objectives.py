"""Objectives: additive over images, zero for images they are not for, and lowest at the true depth and pose."""

import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.augmentation import NEUTRAL, Column, augment, augment_views
from depthflow.models.losses import Loss
from depthflow.models.objectives import OBJECTIVES, ObjectiveInputs, ObjectiveOptions, Outputs, WeightedObjective
from depthflow.models.views import Views, learned_poses
from depthflow.models.warp import pose_matrix
from tests.textured_plane import CAMERA, Plane, pose_of, render
from tests.unit.models.test_warp import assert_gradients_are_differences

SCALES = 2
BASELINE_M = 0.12
NAMES = list(OBJECTIVES)
MIXED = (("supervised", 1.0), ("video", 0.5))
PLANES = [Plane(2.0, 0.3, -0.2), Plane(1.5, -0.2, 0.1), Plane(3.0, 0.1, 0.4)]
MOTION = ((0.01, -0.02, 0.01), (0.08, 0.02, -0.04)), ((-0.01, 0.015, 0.0), (-0.07, 0.0, 0.05))
STEREO = [pose_of(translation=(-BASELINE_M, 0, 0))]
VIDEO = [pose_of(*motion) for motion in MOTION]


def objective_of(name, **options):
    return WeightedObjective(((name, 1.0),), ObjectiveOptions(scales=SCALES, **options))


def scene(poses, dtype=np.float64):
    """Returns inputs of one frame per plane with views at these poses, and the true log-depth of frame and views."""
    frames = [render(np.eye(4), plane=plane) for plane in PLANES]
    views = [[render(pose, plane=plane) for pose in poses] for plane in PLANES]
    batch = len(PLANES)
    depth = np.stack([depth for _, depth in frames]).astype(dtype)
    inputs = ObjectiveInputs(
        rgb=np.stack([image for image, _ in frames]),
        log_depth=np.log(depth).astype(np.float32),
        valid_mask=np.random.default_rng(0).random(depth.shape) < 0.7,
        views=Views(
            images=np.stack([[image for image, _ in one] for one in views]),
            camera=np.tile(CAMERA, (batch, 1)).astype(np.float32),
            view_cameras=np.tile(CAMERA, (batch, len(poses), 1)).astype(np.float32),
            poses=np.tile(np.stack(poses), (batch, 1, 1, 1)).astype(np.float32),
        ),
    )
    return inputs, np.log(depth), np.log(np.stack([one[0][1] for one in views])).astype(dtype)


def at_scales(log_depth):
    """Returns one prediction per scale, each the mean of the pixels that it covers."""
    batch, height, width = log_depth.shape
    blocks = (log_depth.reshape(batch, height >> s, 1 << s, width >> s, 1 << s) for s in range(SCALES))
    return [block.mean(axis=(2, 4)) for block in blocks]


def scene_of(name):
    """Returns inputs and random outputs."""
    inputs, frame, partner = scene(STEREO if name == "stereo" else VIDEO)
    generator = np.random.default_rng(1)
    predictions, partners = (
        [one + generator.normal(0, 0.05, one.shape) for one in at_scales(plane)] for plane in (frame, partner)
    )
    return inputs, Outputs(predictions, partners)


def mapped(function, tree):
    """Applies a function to every array of a tree, but not to None."""
    return tf.nest.map_structure(lambda one: None if one is None else function(one), tree)


def arrays(tree):
    return [one for one in tf.nest.flatten(tree) if one is not None]


def rows(tree, part):
    """Returns these images of a tree of batches."""
    return mapped(lambda array: array[part], tree)


def value_and_gradients(objective, outputs, inputs, counts=None):
    """Returns the value, with the inputs' own counts by default, and its gradient by each output."""
    counts = objective.counts(inputs) if counts is None else counts
    outputs = mapped(tf.convert_to_tensor, outputs)
    with tf.GradientTape() as tape:
        watched = arrays(outputs)
        tape.watch(watched)
        value = objective.value(objective.sums(outputs, inputs), counts)
    gradients = tape.gradient(value, watched, unconnected_gradients="zero")
    return float(value), [gradient.numpy() for gradient in gradients]


def test_supervised_is_the_loss_to_the_bit():
    inputs, outputs = scene_of("supervised")
    outputs = Outputs([one.astype(np.float32) for one in outputs.predictions])
    terms = (("l1", 1.0), ("gradient", 0.5), ("silog", 0.3))
    objective, loss = objective_of("supervised", loss=terms), Loss(terms, scales=SCALES)
    planes = {"log_depth": inputs.log_depth, "valid_mask": inputs.valid_mask, "rgb": inputs.rgb}
    sums, counts = loss.sums(outputs.predictions, **planes), loss.counts(inputs.valid_mask)
    np.testing.assert_array_equal(objective.sums(outputs, inputs), sums)
    np.testing.assert_array_equal(objective.counts(inputs), counts)
    assert objective.weights == loss.weights
    assert float(objective.value(sums, counts)) == float(loss.value(sums, counts))


@pytest.mark.parametrize("photometric_scale", ["full", "own"])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_sum_of_its_parts(name, photometric_scale):
    inputs, outputs = scene_of(name)
    objective = objective_of(name, photometric_scale=photometric_scale)
    sums, counts = objective.sums(outputs, inputs), objective.counts(inputs)
    assert sums.shape == counts.shape == (len(objective.weights),)
    parts = [slice(0, 1), slice(1, 3)]
    part_sums = sum(objective.sums(rows(outputs, part), rows(inputs, part)) for part in parts)
    np.testing.assert_allclose(part_sums, sums, rtol=1e-12)
    np.testing.assert_array_equal(sum(objective.counts(rows(inputs, part)) for part in parts), counts)
    _, gradients = value_and_gradients(objective, outputs, inputs)
    for part in parts:
        mine = value_and_gradients(objective, rows(outputs, part), rows(inputs, part), counts)[1]
        for gradient, whole in zip(mine, gradients, strict=True):
            np.testing.assert_allclose(gradient, whole[part], rtol=1e-9, atol=1e-15)


def test_an_image_without_depth_adds_nothing_to_labels_and_counts_in_views():
    """Whatever its labels are, NaN included."""
    inputs, outputs = scene_of("video")
    inputs.valid_mask[1] = False
    inputs.log_depth[1] = np.nan
    labels, views = objective_of("supervised"), objective_of("video")
    value, (finest, *_) = value_and_gradients(labels, outputs, inputs)
    alone = [rows(tree, [0, 2]) for tree in (outputs, inputs)]
    assert value == pytest.approx(value_and_gradients(labels, *alone)[0], rel=1e-12)
    np.testing.assert_array_equal(labels.counts(inputs), labels.counts(alone[1]))
    np.testing.assert_array_equal(finest[1], 0)
    np.testing.assert_array_equal(views.counts(inputs), np.full(len(views.weights), 3))


@pytest.mark.parametrize("name", ["stereo", "video"])
def test_the_loss_is_lowest_at_the_true_depth(name):
    inputs, frame, partner = scene(STEREO if name == "stereo" else VIDEO)
    objective = objective_of(name, smoothness=1e-6)

    def value(shift):
        outputs = Outputs(at_scales(frame + shift), at_scales(partner + shift))
        return value_and_gradients(objective, outputs, inputs)

    truth = value(0.0)[0]
    for wrong in (-0.4, -0.15, 0.15, 0.4):
        assert value(wrong)[0] > 1.3 * truth, wrong
    # A small error is corrected: the loss rises with depth where depth is too large.
    for shift in (-0.05, 0.05):
        assert sum(gradient.sum() for gradient in value(shift)[1]) * shift > 0


def test_the_loss_is_lowest_at_the_true_pose():
    inputs, frame, _ = scene(VIDEO)
    objective = objective_of("video")
    truth = np.array([[*axis, *translation] for axis, translation in MOTION])

    def value(vectors):
        poses = np.tile(np.asarray(pose_matrix(vectors)), (len(PLANES), 1, 1, 1))
        outputs = Outputs(at_scales(frame), poses=poses)
        blind = inputs._replace(views=inputs.views._replace(poses=np.full_like(inputs.views.poses, np.nan)))
        return value_and_gradients(objective, outputs, blind)[0]

    for wrong in (0 * truth, -truth, 0.5 * truth, 1.5 * truth, truth + np.eye(6)[0] * 0.02):
        assert value(wrong) > 1.3 * value(truth)


def test_gradients_by_depth_and_learned_motion_are_finite_differences():
    """But for the few pixels whose best view changes within the step."""
    inputs, outputs = scene_of("video")
    objective = objective_of("video", smoothness=0.1)
    generator = np.random.default_rng(5)
    vectors = np.array([[*axis, *translation] for axis, translation in MOTION] * 3) + generator.normal(0, 0.003, (6, 6))

    def sums(fine, coarse, vectors):
        return objective.sums(Outputs([fine, coarse], poses=learned_poses(vectors, ("previous", "next"))), inputs)

    assert_gradients_are_differences(sums, (*outputs.predictions, vectors), directions=3, rel=1e-3)


def test_gradients_of_both_disparities_are_finite_differences():
    inputs, outputs = scene_of("stereo")
    objective = objective_of("stereo", smoothness=0.1)

    def sums(*planes):
        return objective.sums(Outputs(planes[:SCALES], planes[SCALES:]), inputs)

    assert_gradients_are_differences(sums, (*outputs.predictions, *outputs.partner_predictions), directions=3, rel=1e-3)


@pytest.mark.parametrize("min_reprojection", [True, False])
def test_a_static_scene_contributes_no_gradient(min_reprojection):
    """Without the auto-mask it does."""
    inputs, outputs = scene_of("video")
    images = np.stack([inputs.rgb, inputs.rgb], axis=1)
    inputs = inputs._replace(views=inputs.views._replace(images=images))
    for auto_mask in (True, False):
        options = {"auto_mask": auto_mask, "min_reprojection": min_reprojection, "smoothness": 0.0}
        value, gradients = value_and_gradients(objective_of("video", **options), outputs, inputs)
        assert (value == 0) == auto_mask
        assert all((gradient == 0).all() for gradient in gradients) == auto_mask


def test_wild_predictions_have_finite_gradients():
    for name in ("stereo", "video"):
        inputs, outputs = scene_of(name)
        wild = [np.random.default_rng(0).normal(0, 50, one.shape) for one in outputs.predictions]
        motion = pose_matrix(np.random.default_rng(0).normal(0, 5, (6, 6))) if name == "video" else None
        poses = None if motion is None else tf.reshape(motion, (3, 2, 4, 4))
        value, gradients = value_and_gradients(objective_of(name), Outputs(wild, wild, poses), inputs)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("zoom_depth", ["focal", "keep"])
@pytest.mark.parametrize("name", ["stereo", "video"])
def test_augmented_views_fit_the_augmented_depth(name, zoom_depth):
    """The photometric error at the true depth stays low when all is mirrored, zoomed and recoloured."""
    inputs, _, _ = scene(STEREO if name == "stereo" else VIDEO, np.float32)
    objective = objective_of("video").parts["video"]  # Its score needs the frame's depth alone.
    draws = np.tile(NEUTRAL, (3, 1))
    changes = {"FLIP": [1, 0, 1], "ZOOM": [1.4, 1.3, 1.0], "CENTRE_X": [0.42, 0.6, 0.5], "CENTRE_Y": [0.55, 0.5, 0.5]}
    changes |= {"BRIGHTNESS": [1.2, 0.8, 1.1], "CONTRAST": [0.8, 1.2, 0.7], "HUE": [0.02, -0.03, 0.0]}
    for column, values in changes.items():
        draws[:, Column[column]] = values
    mask = np.ones_like(inputs.valid_mask)
    rgb, log_depth, _ = augment(inputs.rgb, inputs.log_depth, mask, draws, zoom_depth=zoom_depth)
    views = augment_views(inputs.views, inputs.rgb, draws, zoom_depth=zoom_depth)

    def error(rgb, log_depth, views):
        given = inputs._replace(rgb=tf.convert_to_tensor(rgb), views=views)
        return objective.photometric(Outputs([log_depth, log_depth[:, ::2, ::2]]), given).numpy()

    before = error(inputs.rgb, inputs.log_depth, inputs.views)
    after = error(rgb, log_depth, views)
    unchanged = inputs.views._replace(images=views.images)
    assert (after < 2 * before).all(), (before, after)
    mirrored = draws[:, Column.FLIP] == 1  # A zoom alone shifts the pixels of a stereo pair as it divides depth.
    assert (error(rgb, log_depth, unchanged) > 3 * after)[mirrored].all()


def test_neutral_draws_change_no_bit_of_the_views():
    """However many there are: compiled kernels compute eight values at once, a reciprocal less exactly than one."""
    inputs, _, _ = scene(VIDEO, np.float32)
    inputs.views.poses[1] = np.nan
    stored, rgb = (tf.nest.map_structure(lambda x: np.repeat(x, 8, axis=0), x) for x in (inputs.views, inputs.rgb))
    draws = np.concatenate([np.tile(NEUTRAL, (24, 1)), np.zeros((24, 1), np.float32)], axis=1)
    compiled = tf.function(lambda *batch: augment_views(*batch, zoom_depth="focal", named=["gamma"]), autograph=False)
    for plane, expected in zip(compiled(stored, rgb, draws), stored, strict=True):
        np.testing.assert_array_equal(plane, expected)


def test_several_objectives_join_their_entries():
    inputs, outputs = scene_of("video")
    options = ObjectiveOptions(scales=SCALES)
    mixed = WeightedObjective(MIXED, options)
    inputs.valid_mask[2] = False
    parts = [WeightedObjective(((name, 1.0),), options) for name, _ in MIXED]
    value = value_and_gradients(mixed, outputs, inputs)[0]
    values = [value_and_gradients(part, outputs, inputs)[0] for part in parts]
    assert value == pytest.approx(values[0] + 0.5 * values[1], rel=1e-12)
    assert mixed.needs_views and mixed.needs_poses and not mixed.needs_partner
    np.testing.assert_array_equal(mixed.counts(inputs)[-1], 3)


def test_weights_of_scales():
    """As Monodepth2: the mean over scales, with the smoothness halved at each."""
    assert objective_of("video", smoothness=0.01).weights == (0.5, 0.005, 0.5, 0.0025)
    assert objective_of("stereo", smoothness=0.01).weights == (0.5, 0.005, 0.5, 0.5, 0.0025, 0.5)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"supervised, stereo, video. Received: .*lidar"):
        WeightedObjective((("lidar", 1.0),), ObjectiveOptions())
    with pytest.raises(ValueError, match="Received"):
        WeightedObjective((), ObjectiveOptions())
    inputs, outputs = scene_of("video")
    with pytest.raises(ValueError, match=r"one per scale, 2. Received: 1"):
        objective_of("video").sums(Outputs(outputs.predictions[:1]), inputs)


@pytest.mark.parametrize("name", ["stereo", "video"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_arithmetic_is_at_least_float32(name, dtype):
    inputs, outputs = scene_of(name)
    narrow = mapped(lambda one: tf.cast(one, dtype), outputs)
    sums = objective_of(name).sums(narrow, inputs)
    assert sums.dtype == "float32"
    exact = objective_of(name).sums(mapped(lambda one: tf.cast(one, "float64"), narrow), inputs)
    assert exact.dtype == "float64"
    np.testing.assert_allclose(sums, exact, rtol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["stereo", "video"])
def test_runs_compiled_and_for_any_batch(name, jit_compile):
    inputs, outputs = scene_of(name)
    planes = mapped(tf.constant, outputs[:2])  # float64, in which rounding seldom decides at a kink.
    inputs = mapped(tf.constant, inputs)
    objective = objective_of(name)

    def loss_and_gradient(planes, inputs):
        with tf.GradientTape() as tape:
            tape.watch(planes)
            value = objective.value(objective.sums(Outputs(*planes), inputs), objective.counts(inputs))
        return value, tape.gradient(value, planes[0])

    spec = mapped(lambda one: tf.TensorSpec((None, *one.shape[1:]), one.dtype), (planes, inputs))
    compiled = tf.function(loss_and_gradient, input_signature=spec, jit_compile=jit_compile, autograph=False)
    for part in (slice(None), slice(0, 1)):
        given = rows(planes, part), rows(inputs, part)
        value, gradients = compiled(*given)
        expected, plain = loss_and_gradient(*given)
        assert float(value) == pytest.approx(float(expected), rel=1e-9)
        for one, other in zip(gradients, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
