"""Sums by range, by hand; and that they do not depend on how images are grouped."""

import numpy as np
import pytest

from depthflow.evaluation.breakdown import (
    DEPTH_EDGES_M,
    EDGE_DISTANCES_PX,
    NEAR_EDGE_PX,
    RATIOS,
    image_breakdown,
    total,
)


def maps(seed: int = 0, shape: tuple[int, int] = (12, 16)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    depth_gt = np.exp(rng.normal(1.5, 1.2, shape)).astype(np.float32)
    return {
        "depth_gt": depth_gt,
        "depth_pred": depth_gt * np.exp(rng.normal(0, 0.3, shape)),
        "mask": rng.random(shape) > 0.2,
        "edge_mask": rng.random(shape) > 0.97,
    }


def test_by_hand():
    found = image_breakdown(
        depth_gt=np.array([[0.5, 1.0, 1.5, 200.0]]),
        depth_pred=np.array([[1.0, 0.5, 1.8, 100.0]]),
        mask=np.array([[True, True, True, True]]),
        edge_mask=np.array([[True, False, False, False]]),
    )
    np.testing.assert_allclose(found.by_depth[0], [1, 1.0, 1.0])
    np.testing.assert_allclose(found.by_depth[1], [2, 0.7, -0.3])
    np.testing.assert_allclose(found.by_depth[-1], [1, 0.5, -0.5])
    np.testing.assert_allclose(found.by_edge_distance[:3, 0], [1, 1, 2])
    np.testing.assert_allclose(found.by_edge_distance[:3, 1], [1.0, 0.5, 0.7])
    np.testing.assert_allclose(found.within_ratio[RATIOS < 1.19], 0)
    np.testing.assert_allclose(found.within_ratio[(RATIOS > 1.21) & (RATIOS < 1.999)], 0.25)


def test_the_error_near_an_edge_is_that_of_pixels_less_than_four_away():
    """One edge pixel at the left, a second one is not counted; relative errors 1, 0.5, 0.25, 2 and 7, 7 beyond."""
    depth_gt = np.full((1, 6), 2.0)
    image = {
        "depth_gt": depth_gt,
        "depth_pred": depth_gt * (1 + np.array([[1.0, -0.5, 0.25, 2.0, 7.0, 7.0]])),
        "mask": np.array([[True, True, False, True, True, True]]),
    }
    edge_mask = np.array([[True, False, False, False, False, False]])
    assert image_breakdown(**image, edge_mask=edge_mask).edge_abs_rel == pytest.approx((1 + 0.5 + 2) / 3)
    assert np.isnan(image_breakdown(**image, edge_mask=np.zeros((1, 6), bool)).edge_abs_rel)
    assert NEAR_EDGE_PX in EDGE_DISTANCES_PX


@pytest.mark.parametrize("seed", range(5))
def test_every_counted_pixel_is_in_one_range(seed):
    image = maps(seed)
    found = image_breakdown(**image)
    assert found.by_depth[:, 0].sum() == found.by_edge_distance[:, 0].sum() == image["mask"].sum()
    error = ((image["depth_pred"] - image["depth_gt"]) / image["depth_gt"].astype(float))[image["mask"]]
    np.testing.assert_allclose(found.by_depth[:, 1].sum(), np.abs(error).sum())
    np.testing.assert_allclose(found.by_edge_distance[:, 2].sum(), error.sum())
    ratio = np.maximum(image["depth_pred"] / image["depth_gt"], image["depth_gt"] / image["depth_pred"])[image["mask"]]
    np.testing.assert_allclose(found.within_ratio, [(ratio < bound).mean() for bound in RATIOS])


def test_a_ratio_at_a_bound_is_not_within_it():
    """Nor is one that is not a number, or infinite."""
    depth_gt = np.ones((1, len(RATIOS) + 2))
    found = image_breakdown(
        depth_gt=depth_gt,
        depth_pred=np.concatenate([RATIOS, [np.nan, np.inf]])[None],
        mask=np.ones_like(depth_gt, bool),
        edge_mask=np.zeros_like(depth_gt, bool),
    )
    np.testing.assert_allclose(found.within_ratio * depth_gt.size, np.arange(len(RATIOS)), rtol=1e-12)


def test_sums_add_up_whatever_the_grouping():
    found = [image_breakdown(**maps(seed)) for seed in range(4)]
    whole, halves = total(found), total(found[:2]) + total(found[2:])
    assert whole.images == halves.images == 4
    np.testing.assert_allclose(whole.by_depth, halves.by_depth)
    np.testing.assert_allclose(whole.within_ratio, halves.within_ratio)


def test_an_image_without_a_counted_pixel_adds_nothing():
    image = maps() | {"mask": np.zeros((12, 16), bool)}
    found = image_breakdown(**image)
    assert found.images == 0 and not found.by_depth.any() and not found.within_ratio.any()


def test_without_an_edge_all_is_far_from_one():
    image = maps() | {"edge_mask": np.zeros((12, 16), bool)}
    found = image_breakdown(**image)
    assert found.by_edge_distance[-1, 0] == image["mask"].sum()


def test_ranges_cover_everything():
    for edges in (DEPTH_EDGES_M, EDGE_DISTANCES_PX):
        assert edges[0] == 0 and np.isinf(edges[-1]) and (np.diff(edges) > 0).all()
