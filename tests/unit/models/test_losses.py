"""Losses on log-depth: by hand, their gradients, and that an invalid pixel is worth exactly nothing."""

import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.losses import LOSSES, l1_loss, masked_loss_sum, tutorial_loss

# Difference to (loss, slope): Huber is quadratic up to 1 and linear beyond.
TUTORIAL = {
    0.0: (0.0, 0.0),
    0.5: (0.25 + 0.1 * 0.125, 1.0 + 0.05),
    -0.5: (0.25 + 0.1 * 0.125, -1.0 - 0.05),
    1.0: (1.0 + 0.1 * 0.5, 2.0 + 0.1),
    2.0: (4.0 + 0.1 * 1.5, 4.0 + 0.1),
    -3.0: (9.0 + 0.1 * 2.5, -6.0 - 0.1),
}
L1 = {0.0: (0.0, 0.0), 0.5: (0.5, 1.0), -0.5: (0.5, -1.0), 2.0: (2.0, 1.0), -3.0: (3.0, -1.0)}


def loss_and_gradient(loss, pred, gt, valid):
    """The sum and its gradient with respect to the prediction."""
    pred = tf.constant(pred)
    with tf.GradientTape() as tape:
        tape.watch(pred)
        total = masked_loss_sum(loss, log_depth_pred=pred, log_depth_gt=tf.constant(gt), valid_mask=tf.constant(valid))
    return float(total), tape.gradient(total, pred).numpy()


@pytest.mark.parametrize(("loss", "table"), [(tutorial_loss, TUTORIAL), (l1_loss, L1)])
def test_each_pixel_by_hand(loss, table):
    differences = np.array(list(table), np.float64)
    expected = np.array([value for value, _ in table.values()])
    np.testing.assert_allclose(np.asarray(loss(tf.constant(differences))), expected, rtol=1e-12)


@pytest.mark.parametrize(("loss", "table"), [(tutorial_loss, TUTORIAL), (l1_loss, L1)])
def test_sum_and_slope_over_valid_pixels_by_hand(loss, table):
    """The ground truth is 1 everywhere; every second pixel is masked and far off."""
    differences = np.array([[[d, 100.0] for d in table]], np.float64)
    valid = np.array([[[True, False] for _ in table]])
    total, gradient = loss_and_gradient(loss, differences + 1.0, np.ones_like(differences), valid)
    assert total == pytest.approx(sum(value for value, _ in table.values()), rel=1e-12)
    np.testing.assert_allclose(gradient[..., 0], [[slope for _, slope in table.values()]], rtol=1e-12)
    np.testing.assert_array_equal(gradient[..., 1], 0.0)


def test_the_registry_has_both():
    assert {"tutorial": tutorial_loss, "l1": l1_loss} == LOSSES


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("broken_gt", [0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("broken_pred", [0.3, np.nan, np.inf])
def test_nothing_valid_is_zero_with_zero_gradients(name, broken_gt, broken_pred):
    shape = (2, 3, 4)
    pred, gt = np.full(shape, broken_pred, np.float32), np.full(shape, broken_gt, np.float32)
    total, gradient = loss_and_gradient(LOSSES[name], pred, gt, np.zeros(shape, bool))
    assert total == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("plane", ["pred", "gt"])
def test_what_is_under_the_mask_changes_neither_loss_nor_gradient(name, broken, plane):
    generator = np.random.default_rng(0)
    pred, gt = generator.normal(size=(2, 2, 5, 5)).astype(np.float32)
    valid = generator.random((2, 5, 5)) < 0.6
    expected, expected_gradient = loss_and_gradient(LOSSES[name], pred, gt, valid)
    (pred if plane == "pred" else gt)[~valid] = broken
    total, gradient = loss_and_gradient(LOSSES[name], pred, gt, valid)
    assert total == expected > 0
    np.testing.assert_array_equal(gradient, expected_gradient)
    np.testing.assert_array_equal(gradient[~valid], 0.0)
    assert (gradient[valid] != 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_an_invalid_batch_leaves_a_network_as_it_is(name):
    """Through weights too: 0 times a gradient of a finite activation is 0."""
    weight = tf.Variable(np.full((1, 1), 0.5, np.float32))
    with tf.GradientTape() as tape:
        pred = tf.ones((2, 3, 1)) @ weight
        total = masked_loss_sum(
            LOSSES[name],
            log_depth_pred=pred,
            log_depth_gt=tf.fill((2, 3, 1), np.float32(np.nan)),
            valid_mask=tf.zeros((2, 3, 1), tf.bool),
        )
    assert float(total) == 0.0
    np.testing.assert_array_equal(tape.gradient(total, weight).numpy(), 0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_finite_differences_in_float64(name):
    generator = np.random.default_rng(2)
    pred, gt = generator.uniform(-2.5, 2.5, size=(2, 1, 4, 5))
    valid = generator.random((1, 4, 5)) < 0.7
    size = np.abs(pred - gt)
    assert (size > 1e-3).all() and (np.abs(size - 1) > 1e-3).all(), "no pixel may lie on a kink"
    assert (size[valid] < 1).any() and (size[valid] > 1).any(), "both branches must be taken"
    total, gradient = loss_and_gradient(LOSSES[name], pred, gt, valid)
    step = 1e-6
    numeric = np.zeros_like(pred)
    for place in np.ndindex(pred.shape):
        up, down = pred.copy(), pred.copy()
        up[place] += step
        down[place] -= step
        numeric[place] = loss_and_gradient(LOSSES[name], up, gt, valid)[0]
        numeric[place] -= loss_and_gradient(LOSSES[name], down, gt, valid)[0]
    np.testing.assert_allclose(gradient, numeric / (2 * step), rtol=1e-6, atol=1e-7)
    assert gradient.dtype == np.float64 and total > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_keeps_the_dtype(name, dtype):
    pred = tf.ones((1, 2, 2), dtype)
    total = masked_loss_sum(
        LOSSES[name], log_depth_pred=pred, log_depth_gt=pred * 2, valid_mask=tf.ones((1, 2, 2), tf.bool)
    )
    assert total.dtype == dtype
    assert total.shape == ()
