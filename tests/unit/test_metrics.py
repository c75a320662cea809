"""Metrics of one image by hand, against DIODE's devkit, and their mean over images."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from depthflow.metrics import (
    BOUNDARY_NAMES,
    HIGHER_IS_BETTER,
    METRIC_NAMES,
    boundary_metrics,
    image_metrics,
    mean_over_images,
)

LN2 = math.log(2.0)
LOG10_2 = math.log10(2.0)

# Three valid pixels: predicted twice the truth, exactly the truth, and half of it. The fourth is masked.
PRED = np.array([[2.0, 4.0], [2.0, 7.0]])
GT = np.array([[1.0, 4.0], [4.0, 1.0]])
VALID = np.array([[True, True], [True, False]])
BY_HAND = {
    "mae": (1 + 0 + 2) / 3,
    "rmse": math.sqrt((1 + 0 + 4) / 3),
    "abs_rel": (1 / 1 + 0 + 2 / 4) / 3,
    "sq_rel": (1 / 1 + 0 + 4 / 4) / 3,
    "log10": (LOG10_2 + 0 + LOG10_2) / 3,
    "rmse_log": LN2 * math.sqrt(2 / 3),
    "rmse_log10": LOG10_2 * math.sqrt(2 / 3),
    "silog": 100 * LN2 * math.sqrt(2 / 3),  # The log ratios ln 2, 0, -ln 2 have mean 0.
    "delta1": 1 / 3,
    "delta2": 1 / 3,
    "delta3": 1 / 3,
}

depths = st.floats(0.125, 350.0, width=32)


@st.composite
def maps(draw):
    """(depth_pred, depth_gt, valid_mask): random depths with holes, at least one pixel valid."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
    pred = draw(hnp.arrays(np.float32, shape, elements=depths))
    gt = draw(hnp.arrays(np.float32, shape, elements=depths))
    valid = draw(hnp.arrays(np.bool_, shape))
    valid[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = True
    return pred, gt, valid


def devkit_metrics(pred, gt, valid):
    """DIODE's official formulas, written another way: invalid pixels are those whose ground truth is set to zero."""
    gt = np.where(valid, gt.astype(np.float64), 0.0)
    count, totals = 0, dict.fromkeys(("mae", "mse", "abs_rel", "log_mae", "log_mse", "d1", "d2", "d3"), 0.0)
    for p, g in zip(pred.astype(np.float64).ravel().tolist(), gt.ravel().tolist(), strict=True):
        if g <= 0:
            continue
        count += 1
        log_error = abs(math.log10(p) - math.log10(g))
        worst = max(p / g, g / p)
        totals["mae"] += abs(p - g)
        totals["mse"] += (p - g) ** 2
        totals["abs_rel"] += abs(p - g) / g
        totals["log_mae"] += log_error
        totals["log_mse"] += log_error**2
        for power in (1, 2, 3):
            totals[f"d{power}"] += worst < 1.25**power
    mean = {name: total / count for name, total in totals.items()}
    return {
        "mae": mean["mae"],
        "rmse": math.sqrt(mean["mse"]),
        "abs_rel": mean["abs_rel"],
        "log10": mean["log_mae"],
        "rmse_log10": math.sqrt(mean["log_mse"]),
        "delta1": mean["d1"],
        "delta2": mean["d2"],
        "delta3": mean["d3"],
    }


# --- one image ---


def test_every_metric_by_hand():
    metrics = image_metrics(depth_pred=PRED, depth_gt=GT, valid_mask=VALID)
    assert metrics == pytest.approx(BY_HAND, abs=1e-12)
    assert tuple(metrics) == METRIC_NAMES
    assert all(type(value) is float for value in metrics.values())
    assert {name for name in METRIC_NAMES if name in HIGHER_IS_BETTER} == {"delta1", "delta2", "delta3"}


def test_silog_takes_the_mean_log_ratio_away():
    """Log ratios ln 2 and ln 4: the standard deviation is ln 2 / 2."""
    pred, gt = np.array([[2.0, 4.0]]), np.ones((1, 2))
    metrics = image_metrics(depth_pred=pred, depth_gt=gt, valid_mask=np.ones((1, 2), bool))
    assert metrics["silog"] == pytest.approx(100 * LN2 / 2)
    assert metrics["rmse_log"] == pytest.approx(LN2 * math.sqrt((1 + 4) / 2))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 0.0, -3.0])
@pytest.mark.parametrize("plane", ["depth_pred", "depth_gt"])
def test_what_is_under_the_mask_never_matters(plane, broken):
    planes = {"depth_pred": PRED.copy(), "depth_gt": GT.copy()}
    planes[plane][~VALID] = broken
    assert image_metrics(**planes, valid_mask=VALID) == pytest.approx(BY_HAND, abs=1e-12)


def test_no_valid_pixel_is_nan_everywhere():
    metrics = image_metrics(depth_pred=PRED, depth_gt=GT, valid_mask=np.zeros((2, 2), bool))
    assert tuple(metrics) == METRIC_NAMES
    assert all(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_ratio_of_exactly_the_threshold_does_not_count(power):
    """1.25^k is a binary fraction, so both ratios are exact."""
    threshold = 1.25**power
    for ratio, share in ((threshold, 0.0), (1 / threshold, 0.0), (np.nextafter(threshold, 0), 1.0)):
        metrics = image_metrics(
            depth_pred=np.array([[ratio]]), depth_gt=np.ones((1, 1)), valid_mask=np.ones((1, 1), bool)
        )
        assert metrics[f"delta{power}"] == share


def test_arithmetic_is_float64():
    """Neighbouring float32 depths: their logarithms' difference is lost in float32."""
    pred = np.full((2, 2), 300.0, np.float32)
    gt = np.nextafter(pred, np.float32(np.inf))
    metrics = image_metrics(depth_pred=pred, depth_gt=gt, valid_mask=np.ones((2, 2), bool))
    assert metrics["rmse_log"] == pytest.approx(math.log(float(gt[0, 0]) / 300.0), rel=1e-6)
    assert metrics["abs_rel"] == pytest.approx((float(gt[0, 0]) - 300.0) / float(gt[0, 0]), rel=1e-12)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0, -1.0])
def test_a_broken_prediction_is_seen(broken):
    pred = PRED.copy()
    pred[0, 0] = broken
    metrics = image_metrics(depth_pred=pred, depth_gt=GT, valid_mask=VALID)
    assert not math.isfinite(metrics["rmse_log"])
    assert not all(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("plane", ["depth_pred", "depth_gt", "valid_mask"])
def test_another_shape_is_refused(plane):
    planes = {"depth_pred": PRED, "depth_gt": GT, "valid_mask": VALID}
    planes[plane] = planes[plane][:1]
    with pytest.raises(ValueError, match=r"one shape\. Received: .*\(1, 2\)"):
        image_metrics(**planes)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_a_mask_that_is_not_boolean_is_refused(dtype):
    with pytest.raises(ValueError, match=rf"must be bool.*Received: {np.dtype(dtype)}"):
        image_metrics(depth_pred=PRED, depth_gt=GT, valid_mask=VALID.astype(dtype))


@given(maps())
def test_equals_the_devkit(drawn):
    pred, gt, valid = drawn
    metrics = image_metrics(depth_pred=pred, depth_gt=gt, valid_mask=valid)
    expected = devkit_metrics(pred, gt, valid)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(maps(), st.floats(0.01, 100.0))
def test_silog_is_blind_to_scale_and_sq_rel_and_rmse_are_linear_in_it(drawn, scale):
    pred, gt, valid = drawn
    pred, gt = pred.astype(np.float64), gt.astype(np.float64)
    before = image_metrics(depth_pred=pred, depth_gt=gt, valid_mask=valid)
    after = image_metrics(depth_pred=pred * scale, depth_gt=gt, valid_mask=valid)
    assert after["silog"] == pytest.approx(before["silog"], rel=1e-6, abs=1e-6)
    both = image_metrics(depth_pred=pred * scale, depth_gt=gt * scale, valid_mask=valid)
    assert both["rmse"] == pytest.approx(before["rmse"] * scale, rel=1e-9, abs=1e-9)
    assert both["sq_rel"] == pytest.approx(before["sq_rel"] * scale, rel=1e-9, abs=1e-9)
    assert both["abs_rel"] == pytest.approx(before["abs_rel"], rel=1e-9, abs=1e-9)


@given(maps())
def test_the_truth_is_perfect(drawn):
    _, gt, valid = drawn
    metrics = image_metrics(depth_pred=gt, depth_gt=gt, valid_mask=valid)
    assert all(value == (1.0 if name in HIGHER_IS_BETTER else 0.0) for name, value in metrics.items())


# --- depth boundaries of one image ---


def boundary(pred, gt, valid=None) -> dict[str, float]:
    gt = np.array(gt, dtype=np.float32)
    valid = np.ones(gt.shape, bool) if valid is None else np.array(valid, bool)
    found = boundary_metrics(depth_pred=np.array(pred, dtype=np.float32), depth_gt=gt, valid_mask=valid)
    assert all(type(value) is float for value in found.values())
    return {name.removeprefix("boundary_"): value for name, value in found.items()}


def boundaries_by_loops(pred, gt, valid) -> dict[str, float]:
    """The paper's formula, written another way: pair by pair, in each of both orders."""
    height, width = gt.shape
    pairs = [((y, x), (y + 1, x)) for y in range(height - 1) for x in range(width)]
    pairs += [((y, x), (y, x + 1)) for y in range(height) for x in range(width - 1)]
    pairs = [(i, j) for i, j in pairs if valid[i] and valid[j]]
    sums, weight = np.zeros(3), 0.0
    for t in np.linspace(5, 25, 10):
        in_pred, in_gt = (
            {(i, j) for a, b in pairs for i, j in ((a, b), (b, a)) if float(d[j]) / float(d[i]) > 1 + t / 100}
            for d in (pred, gt)
        )
        if in_gt:
            precision = len(in_pred & in_gt) / len(in_pred) if in_pred else 0.0
            recall = len(in_pred & in_gt) / len(in_gt)
            f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            sums += (1 + t / 100) * np.array([f1, precision, recall])
            weight += 1 + t / 100
    return dict(zip(("f1", "precision", "recall"), sums / weight if weight else [math.nan] * 3, strict=True))


STEPS = [[1.0, 1.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]]
"""The middle two of the upper row are farther: four pairs of neighbours are a boundary at every ratio."""


@pytest.mark.parametrize("scale", [1.0, 0.1, 7.0])
def test_boundaries_of_the_truth_are_perfect_at_any_scale(scale):
    assert boundary(np.array(STEPS) * scale, STEPS) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}


@pytest.mark.parametrize(
    ("pred", "gt", "precision", "recall"),
    [
        ([[1, 2, 2]], [[1, 2, 1]], 1, 1 / 2),  # One of two is missing.
        ([[1, 2, 1]], [[1, 2, 2]], 1 / 2, 1),  # One of two is wrong.
        ([[1, 2, 2, 2]], [[1, 1, 2, 2]], 0, 0),  # One pixel beside.
        ([[2, 1]], [[1, 2]], 0, 0),  # At the right place, but the other side is farther.
        ([[1, 1, 1]], [[1, 2, 1]], 0, 0),  # None.
        ([[1], [2], [1]], [[1], [2], [1]], 1, 1),
        ([[1, 2], [1, 2]], [[1, 1], [2, 2]], 0, 0),  # Upright instead of level.
    ],
)
def test_boundaries_by_hand(pred, gt, precision, recall):
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert boundary(pred, gt) == pytest.approx({"f1": f1, "precision": precision, "recall": recall})


def test_a_ratio_at_which_the_truth_has_no_boundary_does_not_count_and_larger_ones_weigh_more():
    """The truth's 1.15 exceeds five of the ratios, the predicted 1.1 three, and 1.3 all ten."""
    first, all_five = sum(1.05 + k * 0.2 / 9 for k in range(3)), sum(1.05 + k * 0.2 / 9 for k in range(5))
    share = pytest.approx(first / all_five)
    assert boundary([[1, 1.1]], [[1, 1.15]]) == {"f1": share, "precision": share, "recall": share}
    assert boundary([[1, 1.3]], [[1, 1.15]]) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}


@pytest.mark.parametrize("hidden", [np.nan, np.inf, 0.0, -3.0, 50.0])
def test_neighbours_count_where_both_are_valid(hidden):
    """The hidden pixel is an edge to its left, where the truth has one, and to its right and below."""
    gt, pred, valid = np.array(STEPS), np.array(STEPS), np.ones((2, 5), bool)
    gt[0, 2] = pred[0, 2] = hidden
    valid[0, 2] = False
    assert boundary(pred, gt, valid) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    valid[0, 3] = False
    assert math.isnan(boundary(pred, gt, valid)["f1"])


@pytest.mark.parametrize("gt", [[[1.0, 1.04, 1.08]], [[3.0]], [[1.0, 2.0]]])
def test_without_a_boundary_there_is_no_figure(gt):
    """Of the last, no pixel is valid."""
    valid = np.full(np.shape(gt), gt != [[1.0, 2.0]])
    assert all(math.isnan(value) for value in boundary(np.ones_like(gt), gt, valid).values())


def test_a_blurred_edge_is_worse_and_a_wider_blur_more_so():
    gt = np.full((8, 32), 2.0)
    gt[:, 16:] = 4.0
    blurred = {
        radius: np.stack([np.convolve(np.pad(row, radius, mode="edge"), np.ones(n) / n, mode="valid") for row in gt])
        for radius, n in ((0, 1), (1, 3), (3, 7))
    }
    found = [boundary(pred, gt)["f1"] for pred in blurred.values()]
    assert found[0] == 1.0 > found[1] > found[2] > 0


@pytest.mark.parametrize("broken", [np.nan, 0.0, -1.0])
def test_a_broken_prediction_has_no_boundary(broken):
    assert boundary([[broken, 2, 1]], [[1, 2, 1]]) == pytest.approx({"f1": 2 / 3, "precision": 1.0, "recall": 0.5})


@given(maps())
def test_boundaries_equal_the_papers_formula(drawn):
    pred, gt, valid = drawn
    assert boundary(pred, gt, valid) == pytest.approx(boundaries_by_loops(pred, gt, valid), nan_ok=True)


def test_boundaries_of_near_ratios_equal_the_papers_formula():
    """Depths close to each other, so that each ratio divides them differently."""
    rng = np.random.default_rng(0)
    gt = (3 * np.exp(rng.normal(0, 0.1, (30, 40)))).astype(np.float32)
    pred = (gt * np.exp(rng.normal(0, 0.05, gt.shape))).astype(np.float32)
    valid = rng.random(gt.shape) > 0.2
    found = boundary(pred, gt, valid)
    assert found == pytest.approx(boundaries_by_loops(pred, gt, valid))
    assert 0.2 < found["recall"] < 0.9


def test_planes_of_boundaries_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        boundary_metrics(depth_pred=PRED[:1], depth_gt=GT, valid_mask=VALID)
    with pytest.raises(ValueError, match="must be bool"):
        boundary_metrics(depth_pred=PRED, depth_gt=GT, valid_mask=VALID.astype(int))


# --- mean over images ---


def figures(value: float, **others: float) -> dict[str, float]:
    return {**dict.fromkeys(METRIC_NAMES, value), **others}


def test_mean_over_images_is_the_plain_mean():
    assert mean_over_images([figures(1.0, mae=4.0), figures(2.0), figures(6.0)]) == pytest.approx(figures(3.0, mae=4.0))


def test_an_image_without_a_valid_pixel_is_left_out():
    nothing = image_metrics(depth_pred=PRED, depth_gt=GT, valid_mask=np.zeros((2, 2), bool))
    assert mean_over_images([figures(1.0), nothing, figures(3.0)]) == figures(2.0)


def test_a_single_nan_stays_visible():
    mean = mean_over_images([figures(1.0), figures(3.0, silog=math.nan)])
    assert math.isnan(mean.pop("silog"))
    assert all(value == 2.0 for value in mean.values())


@pytest.mark.parametrize("images", [[], [figures(math.nan)], iter([])])
def test_no_image_that_counts_is_nan(images):
    mean = mean_over_images(images)
    assert tuple(mean) == METRIC_NAMES
    assert all(math.isnan(value) for value in mean.values())


def test_an_image_without_a_boundary_is_left_out_of_the_boundaries_alone():
    none = dict.fromkeys(BOUNDARY_NAMES, math.nan)
    mean = mean_over_images([figures(1.0, **dict.fromkeys(BOUNDARY_NAMES, 0.5)), figures(3.0, **none)])
    assert mean == figures(2.0, **dict.fromkeys(BOUNDARY_NAMES, 0.5))
    assert all(math.isnan(mean_over_images([figures(1.0, **none)])[name]) for name in BOUNDARY_NAMES)


def test_boundaries_of_a_broken_prediction_stay_visible():
    fine = dict.fromkeys(BOUNDARY_NAMES, 0.5)
    broken = fine | {"abs_rel": math.nan, "edge_abs_rel": math.nan}
    mean = mean_over_images([figures(1.0, **fine), figures(3.0, **broken)])
    assert math.isnan(mean["edge_abs_rel"]) and mean["boundary_f1"] == 0.5


def test_boundaries_are_averaged_where_every_image_has_them():
    """What is stored of images that were evaluated without them still has a mean."""
    mean = mean_over_images([figures(1.0), figures(3.0, **dict.fromkeys(BOUNDARY_NAMES, 0.5))])
    assert mean == figures(2.0)
