"""Histograms: each group by its own sum, a colour a group, SVG that is the same for the same counts."""

import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from depthflow.reports.plots import GROUP_COLOURS, draw_histograms, shares

EDGES = np.array([0.1, 0.2, 0.4, 0.8])
COUNTS = np.array([1, 3, 0])


@pytest.fixture(autouse=True)
def no_warnings():
    """matplotlib warns where an axis is empty or a layout collapses."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(groups, edges=EDGES, **changes) -> str:
    return draw_histograms(edges, groups, **{"x_label": "depth, m", "y_label": "share", **changes}).decode()


def words(svg: str) -> list[str]:
    """The texts of a drawing, which are outlines: each stands in a comment before them."""
    return re.findall(r"<!-- (.*?) -->", svg)


def test_shares_by_hand():
    np.testing.assert_array_equal(shares(COUNTS), [0.25, 0.75, 0.0])
    np.testing.assert_array_equal(shares(np.zeros(3, np.int64)), [0.0, 0.0, 0.0])


def test_heights_by_hand():
    """The bins of 1, 3 and 0 counts stand at a quarter, three quarters and nothing of the axis."""
    svg = draw({"all": COUNTS})
    outline = next(path for path in re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: #0072b2', svg))
    heights = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", outline)]
    base = heights[0]
    tops = sorted({round((base - y) / (base - min(heights)), 3) for y in heights})
    assert tops == [0.0, pytest.approx(1 / 3, abs=1e-3), 1.0]


@pytest.mark.parametrize("x_axis", ["linear", "logarithmic", "percent"])
def test_a_picture_of_each_axis(x_axis):
    svg = draw({"indoors": COUNTS, "outdoor": COUNTS[::-1]}, x_axis=x_axis)
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert {"indoors", "outdoor", "depth, m", "share"} <= set(words(svg))
    assert all(f"stroke: {colour}" in svg for colour in GROUP_COLOURS[:2])
    assert not any(f"stroke: {colour}" in svg for colour in GROUP_COLOURS[2:])


def test_the_axis_is_labelled_in_its_unit():
    assert {"0.1", "0.2", "0.5"} <= set(words(draw({"all": COUNTS}, x_axis="logarithmic")))
    assert words(draw({"all": COUNTS}, x_axis="percent")).count("60%") == 2, "on both axes"


def test_large_and_small_groups_compare():
    """A group's size does not show, its form does."""
    assert draw({"all": COUNTS * 1000}) == draw({"all": COUNTS})
    assert draw({"all": COUNTS[::-1]}) != draw({"all": COUNTS})


def test_a_group_without_counts_can_be_drawn():
    assert "none" in words(draw({"all": COUNTS, "none": np.zeros(3, np.int64)}))


def test_more_groups_than_colours_differ_in_their_lines():
    count = 2 * len(GROUP_COLOURS)
    svg = draw({f"group {k}": COUNTS for k in range(count)})
    outlines = re.findall(r'style="(fill: none;[^"]*)"', svg)
    styles = {style for style in outlines if "stroke-width: 1.4" in style and "linejoin" in style}
    assert len(styles) == count


@pytest.mark.parametrize("label", ["models/$\\frac$", "a$b_1$", "cost$"])
def test_a_label_with_dollars_is_no_mathematics(label):
    assert label in words(draw({label: COUNTS}))
