"""Alignment recovers what was planted, in each model's own space, and divides by nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.evaluation.alignment import MAX_DEPTH_M, affine_aligned, median_aligned

SHAPE = (6, 8)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Depth in metres, and a mask with holes."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(1.0, 0.8, SHAPE)), rng.random(SHAPE) > 0.3


@given(st.floats(0.01, 100), st.integers(0, 20))
def test_median_recovers_a_scale(scale, seed):
    depth_gt, mask = scene(seed)
    pred = np.where(mask, scale * depth_gt, 777.0)
    np.testing.assert_allclose(median_aligned(pred, depth_gt=depth_gt, mask=mask)[mask], depth_gt[mask], rtol=1e-12)


@given(st.floats(0.2, 5), st.floats(-3, 3), st.integers(0, 20))
def test_affine_recovers_scale_and_shift_of_log_depth(scale, shift, seed):
    depth_gt, mask = scene(seed)
    pred = np.exp(np.where(mask, (np.log(depth_gt) - shift) / scale, 5.0))
    aligned = affine_aligned(pred, depth_gt=depth_gt, mask=mask, output="metres")
    relative = affine_aligned(7 * pred, depth_gt=depth_gt, mask=mask, output="relative depth")
    np.testing.assert_allclose(relative, aligned, rtol=1e-9)
    np.testing.assert_allclose(aligned[mask], depth_gt[mask], rtol=1e-9)


@given(st.floats(0.01, 100), st.floats(-3, 3), st.integers(0, 20))
def test_affine_recovers_scale_and_shift_of_inverse_depth(scale, shift, seed):
    depth_gt, mask = scene(seed)
    pred = np.where(mask, (1 / depth_gt - shift) / scale, 9.0)
    aligned = affine_aligned(pred, depth_gt=depth_gt, mask=mask, output="relative inverse depth")
    np.testing.assert_allclose(aligned[mask], depth_gt[mask], rtol=1e-7)


@pytest.mark.parametrize("output", ["metres", "relative inverse depth"])
@pytest.mark.parametrize("constant", [1e-6, 1.0, 2.7, 3e4])
def test_a_constant_prediction_becomes_the_mean(output, constant):
    depth_gt, mask = scene()
    pred = np.full(SHAPE, constant, np.float32)
    aligned = affine_aligned(pred, depth_gt=depth_gt, mask=mask, output=output)
    mean = np.exp(np.log(depth_gt[mask]).mean()) if output == "metres" else 1 / (1 / depth_gt[mask]).mean()
    np.testing.assert_allclose(aligned, mean, rtol=1e-6)


@pytest.mark.parametrize("output", ["metres", "relative inverse depth"])
def test_the_fit_is_the_least_squares_one(output):
    depth_gt, mask = scene(3)
    pred = np.exp(np.random.default_rng(4).normal(size=SHAPE))
    values, target = (np.log(pred), np.log(depth_gt)) if output == "metres" else (pred, 1 / depth_gt)
    design = np.stack([values[mask], np.ones(mask.sum())], axis=1)
    scale, shift = np.linalg.lstsq(design, target[mask], rcond=None)[0]
    expected = scale * values + shift
    expected = np.exp(expected) if output == "metres" else 1 / np.maximum(expected, 1 / MAX_DEPTH_M)
    np.testing.assert_allclose(affine_aligned(pred, depth_gt=depth_gt, mask=mask, output=output), expected, rtol=1e-9)


def test_inverse_depth_that_is_not_positive_is_as_far_as_the_laser_reaches():
    depth_gt = np.array([[1.0, 2.0, 4.0, 300.0]])
    pred = np.array([[1.0, 0.5, 0.25, -5.0]])
    mask = np.array([[True, True, True, False]])
    aligned = affine_aligned(pred, depth_gt=depth_gt, mask=mask, output="relative inverse depth")
    np.testing.assert_allclose(aligned, [[1.0, 2.0, 4.0, MAX_DEPTH_M]])


def test_without_a_counted_pixel_nothing_is_known():
    depth_gt, _ = scene()
    nothing = np.zeros(SHAPE, bool)
    assert np.isnan(affine_aligned(depth_gt, depth_gt=depth_gt, mask=nothing, output="metres")).all()
    np.testing.assert_array_equal(median_aligned(depth_gt, depth_gt=depth_gt, mask=nothing), depth_gt)


def test_a_broken_prediction_stays_visible():
    depth_gt, mask = scene()
    pred = np.where(mask, -1.0, 1.0)
    assert np.isnan(affine_aligned(pred, depth_gt=depth_gt, mask=mask, output="metres")[mask]).all()
