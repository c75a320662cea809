"""One model's evaluation: metrics by scene type, and why its predictions may not be used."""

import math

import pytest

from depthflow.evaluation.evaluate import Evaluation
from depthflow.metrics import METRIC_NAMES


def image(row: int, *, scene_type="indoors", dataset="diode", low: float = 1.0, high: float = 3.0, **metrics: float):
    """An image's row; its metrics are 0.5 unless given."""
    facts = {"row": row, "sample_id": f"id{row}", "scene_type": scene_type, "dataset": dataset}
    return {**facts, "pred_min": low, "pred_max": high, **dict.fromkeys(METRIC_NAMES, 0.5), **metrics}


def evaluation(*images) -> Evaluation:
    return Evaluation(protocol="devkit", fingerprint="f00", split="val", images=images)


# --- metrics ---


def test_metrics_by_scene_type():
    result = evaluation(
        image(0, abs_rel=0.1), image(1, abs_rel=0.3), image(2, abs_rel=0.8, scene_type="outdoor", delta1=0.25)
    )
    assert result.samples == 3
    metrics = result.metrics
    assert set(metrics) == {"all", "indoors", "outdoor"}
    assert all(tuple(group) == METRIC_NAMES for group in metrics.values())
    assert {name: group["abs_rel"] for name, group in metrics.items()} == pytest.approx(
        {"all": 0.4, "indoors": 0.2, "outdoor": 0.8}
    )
    assert metrics["outdoor"]["delta1"] == 0.25
    assert metrics["indoors"]["delta1"] == 0.5


def test_metrics_by_data_set_where_there_are_several():
    result = evaluation(
        image(0, abs_rel=0.1),
        image(1, abs_rel=0.3, dataset="tum"),
        image(2, abs_rel=0.8, dataset="tum", scene_type="outdoor"),
        image(3, abs_rel=0.2, dataset="my set/(2)"),
    )
    assert {name: group["abs_rel"] for name, group in result.metrics.items()} == pytest.approx(
        {
            "all": 0.35,
            "indoors": 0.2,
            "outdoor": 0.8,
            "dataset diode": 0.1,
            "dataset my_set__2_": 0.2,
            "dataset tum": 0.55,
        }
    )


def test_a_scene_type_that_is_not_there_is_nan():
    metrics = evaluation(image(0, abs_rel=0.1)).metrics
    assert all(math.isnan(value) for value in metrics["outdoor"].values())
    assert metrics["all"] == metrics["indoors"]


def test_an_image_without_a_valid_pixel_counts_as_a_sample_and_not_in_the_mean():
    result = evaluation(image(0, abs_rel=0.1), image(1, **dict.fromkeys(METRIC_NAMES, math.nan)))
    assert result.samples == 2
    assert result.metrics["all"]["abs_rel"] == 0.1


def test_a_nan_prediction_is_not_averaged_away():
    assert math.isnan(evaluation(image(0), image(1, mae=math.nan)).metrics["all"]["mae"])


# --- problems ---

NOT_FINITE = "some predictions are not finite"
NOT_POSITIVE = "some predictions are not positive"
CONSTANT = "every predicted map is flat"


def test_sane_predictions_have_no_problem():
    assert evaluation(image(0), image(1, low=0.001, high=350.0)).problems == ()


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ((math.nan, math.nan), NOT_FINITE),
        ((1.0, math.inf), NOT_FINITE),
        ((0.0, 3.0), NOT_POSITIVE),
        ((-1.0, 3.0), NOT_POSITIVE),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_image_is_enough(limits, problem, place):
    images = [image(row) for row in range(3)]
    images[place] = image(place, low=limits[0], high=limits[1])
    problems = evaluation(*images).problems
    assert problem in problems
    assert CONSTANT not in problems


def test_constant_predictions_are_a_problem_only_if_all_are():
    flat = [image(row, low=2.5, high=2.5) for row in range(3)]
    assert evaluation(*flat).problems == (CONSTANT,)
    assert evaluation(*flat[:2], image(2)).problems == ()


def test_problems_add_up():
    assert evaluation(image(0, low=-1.0, high=-1.0)).problems == (NOT_POSITIVE, CONSTANT)
