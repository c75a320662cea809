"""Warping: values by hand, gradients equal to finite differences, and the identity exact to the bit."""

import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.warp import bilinear_sample, inverse_pose, pose_matrix, project, taken
from tests.textured_plane import CAMERA, pose_of, render, rotation

HEIGHT, WIDTH = 7, 9
SIDES = (1e-6, -1e-6)


def centres(height=HEIGHT, width=WIDTH, batch=1, dtype=np.float32):
    y, x = np.mgrid[:height, :width] + 0.5
    return np.tile(x, (batch, 1, 1)).astype(dtype), np.tile(y, (batch, 1, 1)).astype(dtype)


def random_image(seed=0, batch=2, channels=3, dtype=np.float64):
    return np.random.default_rng(seed).uniform(0, 1, (batch, HEIGHT, WIDTH, channels)).astype(dtype)


def assert_gradients_are_differences(function, arguments, *, seed=0, directions=5, rel=1e-6):
    """Compares the gradient of a random projection of function's result with central differences, per argument."""
    generator = np.random.default_rng(seed)
    arguments = [np.asarray(argument, np.float64) for argument in arguments]
    weights = generator.normal(size=np.shape(function(*arguments)))
    tensors = [tf.constant(argument) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = tf.reduce_sum(weights * function(*tensors))
    for index, gradient in enumerate(tape.gradient(value, tensors)):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.abs(gradient).max() > 0
        for _ in range(directions):
            way = generator.normal(size=gradient.shape)
            moved = [[*arguments[:index], arguments[index] + side * way, *arguments[index + 1 :]] for side in SIDES]
            ends = [np.sum(weights * function(*one)) for one in moved]
            assert np.sum(gradient * way) == pytest.approx(
                (ends[0] - ends[1]) / (SIDES[0] - SIDES[1]), rel=rel, abs=1e-6
            )


# The sampler.


def test_sampled_by_hand():
    """Quarter of the way from 1 to 3 and half of the way down to 5 and 9: 1.5 and 6, so 3.75."""
    image = np.array([[[[1.0], [3.0]], [[5.0], [9.0]]]])
    sampled, inside = bilinear_sample(image, np.array([[[0.75]]]), np.array([[[1.0]]]))
    assert sampled.numpy().item() == 3.75 and inside.numpy().item()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centres_return_the_image_to_the_bit(dtype):
    image = random_image(dtype=dtype) * 255
    sampled, inside = bilinear_sample(image, *centres(batch=2, dtype=dtype))
    np.testing.assert_array_equal(sampled, image)
    assert sampled.dtype == dtype and inside.numpy().all()


def test_whole_pixels_of_translation_shift_the_image():
    image = random_image(dtype=np.float32)
    x, y = centres(batch=2)
    sampled, inside = bilinear_sample(image, x + 2, y - 1)
    np.testing.assert_array_equal(sampled[:, 1:, :-2], image[:, :-1, 2:])
    np.testing.assert_array_equal(inside[:, 1:, :-2], True)
    np.testing.assert_array_equal(inside[:, 0], False)
    np.testing.assert_array_equal(inside[:, :, -2:], False)


def test_the_border_repeats_without_gradient():
    image = random_image(batch=1)
    x, y = tf.constant([[[-3.0, 0.4, WIDTH + 40.0, 1e30]]], tf.float64), tf.constant([[[2.5] * 4]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        sampled, inside = bilinear_sample(image, x, y)
    np.testing.assert_array_equal(sampled[0, 0], image[0, 2, [0, 0, -1, -1]])
    np.testing.assert_array_equal(inside, False)
    np.testing.assert_array_equal(tape.gradient(sampled, x), 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_no_numbers_are_outside_with_finite_gradients(value):
    x, y = (tf.constant(plane) for plane in centres())
    bad = x > 4
    x = tf.where(bad, tf.constant(value, x.dtype), x)
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        sampled, inside = bilinear_sample(random_image(batch=1, dtype=np.float32), x, y)
    assert np.isfinite(sampled).all()
    np.testing.assert_array_equal(inside, ~bad)
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(sampled, [x, y]))


def test_gradients_by_image_and_position_are_finite_differences():
    generator = np.random.default_rng(1)
    x, y = (plane + generator.uniform(0.05, 0.9, plane.shape) for plane in centres(batch=2, dtype=np.float64))
    x[0, 0, :3] -= 4  # Beyond the border as well.
    assert_gradients_are_differences(lambda *a: bilinear_sample(*a)[0], (random_image(), x, y))


def test_another_size_than_the_images():
    image = random_image()
    sampled, inside = bilinear_sample(image, np.full((2, 3, 5), 1.5), np.full((2, 3, 5), 2.5))
    np.testing.assert_array_equal(sampled, np.tile(image[:, 2:3, 1:2], (1, 3, 5, 1)))
    assert inside.shape == (2, 3, 5)


def test_taken_is_of_each_image():
    plane = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(taken(plane, np.array([[0, 5], [1, 0]], np.int32)), [[0, 5], [7, 6]])


# Projection.


def cameras(batch, dtype=np.float64, shift=0.0):
    return np.tile(CAMERA + shift, (batch, 1)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_identity_returns_centres_to_the_bit(dtype):
    depth = np.random.default_rng(0).uniform(0.1, 90, (2, 24, 40)).astype(dtype)
    camera = cameras(2, dtype)
    x, y, z = project(depth, camera, camera, np.tile(np.eye(4, dtype=dtype), (2, 1, 1)))
    expected = centres(24, 40, batch=2, dtype=dtype)
    np.testing.assert_array_equal(x, expected[0])
    np.testing.assert_array_equal(y, expected[1])
    np.testing.assert_array_equal(z, depth)


def test_a_rectified_pair_shifts_by_the_disparity():
    depth = np.random.default_rng(0).uniform(1, 9, (1, 24, 40))
    camera, right = cameras(1), cameras(1)
    right[:, 2] += 3  # Middlebury's doffs.
    x, y, z = project(depth, camera, right, pose_of(translation=(-0.2, 0, 0))[None])
    expected_x, expected_y = centres(24, 40, dtype=np.float64)
    np.testing.assert_allclose(x, expected_x + 3 - CAMERA[0] * 0.2 / depth, rtol=1e-12)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_allclose(z, depth, rtol=1e-15)


def test_points_are_those_of_matrix_arithmetic():
    generator = np.random.default_rng(2)
    depth = generator.uniform(1, 9, (2, 24, 40))
    view_camera = cameras(2) * [[1.2, 0.9, 1.1, 1.0]]
    poses = np.stack([pose_of(generator.normal(0, 0.2, 3), generator.normal(0, 0.2, 3)) for _ in range(2)])
    x, y, z = project(depth, cameras(2), view_camera, poses)
    u, v = centres(24, 40, batch=2, dtype=np.float64)
    fx, fy, cx, cy = CAMERA
    points = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth, np.ones_like(depth)], axis=-1)
    seen = np.einsum("bij,bhwj->bhwi", poses, points)
    fx, fy, cx, cy = view_camera.T[:, :, None, None]
    np.testing.assert_allclose(z, seen[..., 2], rtol=1e-12)
    np.testing.assert_allclose(x, fx * seen[..., 0] / seen[..., 2] + cx, rtol=1e-10)
    np.testing.assert_allclose(y, fy * seen[..., 1] / seen[..., 2] + cy, rtol=1e-10)


def test_what_is_not_in_front_has_no_depth_and_finite_gradients():
    depth = tf.constant([[[0.0, -1.0, 0.5, 1.0, 2.0, np.nan]]], tf.float64)
    pose = tf.constant(pose_of(translation=(0.1, 0, -1.0))[None])  # One metre forward: 1 m and nearer is behind.
    with tf.GradientTape() as tape:
        tape.watch([depth, pose])
        x, y, z = project(depth, cameras(1), cameras(1), pose)
        total = tf.reduce_sum(x + y + z)
    np.testing.assert_array_equal(z, [[[0, 0, 0, 0, 1, 0]]])
    assert np.isfinite(x).all() and np.isfinite(y).all()
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(total, [depth, pose]))


def test_gradients_by_depth_and_pose_through_the_sampler_are_finite_differences():
    image, depth = render(pose_of((0.01, -0.02, 0.01), (0.05, 0.02, -0.03)))
    image, depth = image[None] / 255.0, depth[None]
    vector = np.array([[0.01, -0.03, 0.02, 0.04, 0.03, -0.02]])

    def warped(depth, vector):
        x, y, _ = project(depth, cameras(1), cameras(1), pose_matrix(vector))
        return bilinear_sample(image, x, y)[0]

    assert_gradients_are_differences(warped, (depth, vector))


# Poses.


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1e-4, 0.01, 1.0, 3.1])
def test_rotations_are_opencvs(angle):
    generator = np.random.default_rng(3)
    axis = generator.normal(size=(4, 3))
    axis *= angle / np.linalg.norm(axis, axis=1, keepdims=True)
    translation = generator.normal(size=(4, 3))
    matrices = pose_matrix(np.concatenate([axis, translation], axis=1)).numpy()
    np.testing.assert_allclose(matrices[:, :3, :3], [rotation(one) for one in axis], atol=1e-12)
    np.testing.assert_array_equal(matrices[:, :3, 3], translation)
    np.testing.assert_array_equal(matrices[:, 3], np.tile([0.0, 0, 0, 1], (4, 1)))


def test_no_rotation_is_the_identity_to_the_bit_with_finite_gradients():
    vector = tf.zeros((1, 6))
    with tf.GradientTape() as tape:
        tape.watch(vector)
        matrix = pose_matrix(vector)
        entry = matrix[0, 2, 1] + matrix[0, 0, 3]
    np.testing.assert_array_equal(matrix[0], np.eye(4))
    np.testing.assert_array_equal(tape.gradient(entry, vector), [[1, 0, 0, 1, 0, 0]])


@pytest.mark.parametrize("scale", [1e-3, 0.5])
def test_gradients_of_poses_are_finite_differences(scale):
    vectors = scale * np.random.default_rng(4).normal(size=(3, 6))
    assert_gradients_are_differences(pose_matrix, (vectors,))


def test_inverses():
    poses = np.stack([pose_of(), pose_of((0.3, -0.2, 0.9), (1, 2, 3))])
    np.testing.assert_allclose(inverse_pose(poses), np.linalg.inv(poses), atol=1e-12)
