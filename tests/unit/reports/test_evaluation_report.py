"""Which images of an evaluation are drawn: best, median and worst, none twice."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.evaluation.evaluate import Evaluation
from depthflow.reports.evaluation_report import chosen_images


def evaluation(abs_rels) -> Evaluation:
    """Image k has row k and this abs_rel; rows come sorted by id, so in no order of merit."""
    images = tuple({"row": row, "abs_rel": abs_rel} for row, abs_rel in enumerate(abs_rels))
    return Evaluation(protocol="devkit", fingerprint="f00", split="val", images=images)


@pytest.mark.parametrize(
    ("abs_rels", "each", "expected"),
    [
        ([0.5, 0.1, 0.9, 0.3, 0.7], 1, {"best": [1], "median": [0], "worst": [2]}),
        ([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.6], 2, {"best": [1, 5], "median": [3, 0], "worst": [4, 2]}),
        ([0.3, 0.1, 0.2], 1, {"best": [1], "median": [2], "worst": [0]}),
        ([0.3, 0.1], 1, {"best": [1], "median": [], "worst": [0]}),
        ([0.3], 2, {"best": [0], "median": [], "worst": []}),
        ([0.3, 0.1], 2, {"best": [1, 0], "median": [], "worst": []}),
        ([0.3, 0.1, 0.2], 2, {"best": [1, 2], "median": [], "worst": [0]}),
        ([], 2, {"best": [], "median": [], "worst": []}),
    ],
)
def test_by_hand(abs_rels, each, expected):
    assert chosen_images(evaluation(abs_rels), each=each) == expected


@given(st.lists(st.floats(0, 10), max_size=20), st.integers(1, 4))
def test_no_image_twice_and_in_order_of_merit(abs_rels, each):
    chosen = chosen_images(evaluation(abs_rels), each=each)
    assert list(chosen) == ["best", "median", "worst"]
    rows = [row for kind in chosen.values() for row in kind]
    assert len(rows) == len(set(rows))
    assert len(rows) == min(len(abs_rels), 3 * each) or len(abs_rels) < 3 * each
    assert all(len(kind) <= each for kind in chosen.values())
    assert len(chosen["best"]) == min(each, len(abs_rels)), "the best are always shown"
    merits = [abs_rels[row] for row in rows]
    assert merits == sorted(merits)
    if abs_rels:
        assert max(abs_rels) == max(merits) and min(abs_rels) == min(merits), "so are the very worst and the very best"


def test_an_image_without_a_figure_is_not_among_the_best():
    chosen = chosen_images(evaluation([math.nan, 0.3, 0.1, math.nan, 0.2, 0.4]), each=1)
    assert (chosen["best"], chosen["worst"]) in (([2], [5]), ([2], [0]), ([2], [3]))
