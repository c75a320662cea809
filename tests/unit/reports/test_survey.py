"""What is said of a store's samples: draws, histograms and oddities, by hand."""

from collections import Counter
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.reports.survey import (
    BATCH_SIZE,
    DEPTH_BINS,
    depth_histogram,
    drawn_samples,
    evenly_spaced,
    implausible_depths,
    oddities,
    robust_z,
    sample_rows,
    values_by,
)
from depthflow.store.read.reader import SplitReader


@pytest.fixture(scope="module")
def rows(small):
    return sample_rows(small.store)


def silent(done, total):
    pass


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(10, 2, [2, 7]), (10, 5, [1, 3, 5, 7, 9]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (5, 1, [2]), (0, 4, []), (4, 0, [])],
)
def test_evenly_spaced_by_hand(count, wanted, expected):
    assert evenly_spaced(count, wanted).tolist() == expected


@given(st.integers(1, 5000), st.integers(1, 1000))
def test_evenly_spaced_numbers_are_evenly_far_apart(count, wanted):
    numbers = evenly_spaced(count, wanted)
    assert len(numbers) == min(count, wanted)
    assert numbers[0] >= 0 and numbers[-1] < count
    steps = np.diff(numbers)
    assert steps.size == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_a_row_knows_its_place_in_the_split(small, rows):
    assert len(rows) == 75
    readers = {split: SplitReader(small.store, split) for split in ("train", "val")}
    for row in rows:
        assert readers[row["split"]].sample_ids[row["position"]] == row["sample_id"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (12, {"train indoors": 4, "train outdoor": 4, "val indoors": 4}),
        (17, {"train indoors": 6, "train outdoor": 6, "val indoors": 5}),
        (2, {"train indoors": 1, "train outdoor": 1}),
        (1000, {"train indoors": 40, "train outdoor": 30, "val indoors": 5}),
    ],
)
def test_alike_many_are_drawn_of_each_group(rows, wanted, expected):
    drawn = drawn_samples(rows, wanted=wanted)
    assert Counter(f"{row['split']} {row['scene_type']}" for row in drawn) == expected
    assert len({row["sample_id"] for row in drawn}) == len(drawn)


def test_what_is_drawn_does_not_depend_on_the_order_of_rows(rows):
    shuffled = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    assert drawn_samples(shuffled, wanted=12) == drawn_samples(rows, wanted=12)


def test_depths_are_counted_by_hand(small, rows):
    """The frames have five depths: each one's valid pixels are in its bin, and nothing is elsewhere."""
    histogram = depth_histogram(small.store, rows, limit=1000, progress=silent)
    assert histogram.samples == 75
    assert histogram.edges_m[[0, -1]] == pytest.approx([0.7, 150.0])
    expected = {scene_type: np.zeros(DEPTH_BINS, int) for scene_type in ("indoors", "outdoor")}
    for frames in small.tree.values():
        for sample_id, (_, depth_m, mask) in frames.items():
            for value in depth_m[mask > 0]:
                place = int(np.log(value / 0.7) / np.log(150.0 / 0.7) * DEPTH_BINS)
                expected[sample_id.split("_")[2]][min(place, DEPTH_BINS - 1)] += 1
    assert {name: counts.tolist() for name, counts in histogram.counts.items()} == {
        name: counts.tolist() for name, counts in expected.items()
    }
    assert np.count_nonzero(expected["indoors"]) >= 4


def test_a_depth_beyond_the_edges_is_counted_in_the_outermost_bin(small, rows):
    whole = depth_histogram(small.store, rows, limit=1000, progress=silent)
    narrow = [{**row, "depth_min_m": 2.05, "depth_max_m": 8.0} for row in rows]
    cut = depth_histogram(small.store, narrow, limit=1000, progress=silent)
    for scene_type, counts in cut.counts.items():
        near, far = (counts[k] for k in (0, -1))
        assert counts.sum() == whole.counts[scene_type].sum()
        assert near + far > 0.6 * counts.sum()
        assert far == whole.counts[scene_type][whole.edges_m[1:] > 8.5].sum()


def test_a_limit_reads_evenly_spaced_samples(small, rows):
    calls = []
    few = depth_histogram(small.store, rows, limit=20, progress=lambda *call: calls.append(call))
    assert few.samples == 20
    assert calls[-1] == (20, 20)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert max(np.diff([0, *(done for done, _ in calls)])) <= BATCH_SIZE
    height, width = small.store.height, small.store.width
    valid = sum(round(rows[k]["valid_fraction"] * height * width) for k in evenly_spaced(75, 20))
    assert sum(counts.sum() for counts in few.counts.values()) == valid


def test_robust_z_by_hand():
    """Median 3, median deviation 1."""
    np.testing.assert_allclose(robust_z(np.array([1.0, 2, 3, 4, 100])) * 1.4826, [-2, -1, 0, 1, 97])


def test_a_hairs_breadth_is_not_odd():
    values = np.full(100, 0.5)
    values[7] = 0.5001
    assert np.abs(robust_z(values)).max() == pytest.approx(0.01)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(-100, 100))
def test_robust_z_is_of_differences(values, moved):
    z = robust_z(np.array(values))
    assert np.isfinite(z).all()
    assert np.abs(np.median(z)) < 1e-6
    np.testing.assert_allclose(robust_z(np.array(values) + moved), z, atol=1e-6)


def row(sample_id, scene_type="indoors", dataset="diode", *, median=2.0, greatest=8.0, valid=0.5, edge=0.1):
    figures = {"depth_median_m": median, "depth_max_m": greatest, "valid_fraction": valid, "edge_fraction": edge}
    return {"sample_id": sample_id, "scene_type": scene_type, "dataset": dataset, **figures}


def test_oddities_by_hand():
    """Depths are judged by their logarithm, each scene type by itself, and only the oddest figure is named."""
    plain = [row(f"i{k}") for k in range(9)] + [row(f"o{k}", "outdoor", median=20.0) for k in range(9)]
    odd = [row("far", median=4.0, edge=0.11), row("few", valid=0.1), row("near", "outdoor", median=10.0)]
    found = oddities(plain + odd)
    told = [(o.row["sample_id"], o.figure, o.typical, round(o.z, 2)) for o in found[:4]]
    assert told == [
        ("far", "depth_median_m", 2.0, 69.31),  # ln(4 / 2) / 0.01
        ("near", "depth_median_m", 20.0, -69.31),
        ("few", "valid_fraction", 0.5, -40.0),  # (0.1 - 0.5) / 0.01
        ("i0", "depth_median_m", 2.0, 0.0),
    ]
    assert len(found) == 21


def test_each_data_set_is_judged_by_itself():
    near, far = [row(f"n{k}") for k in range(9)], [row(f"f{k}", dataset="tum", median=20.0) for k in range(9)]
    assert {odd.z for odd in oddities(near + far)} == {0.0}


def test_values_by_scene_type(rows):
    values = values_by(rows, "scene_type", "depth_median_m")
    assert {scene_type: len(of_type) for scene_type, of_type in values.items()} == {"indoors": 45, "outdoor": 30}
    outdoor = [r["depth_median_m"] for r in sorted(rows, key=itemgetter("sample_id")) if r["scene_type"] == "outdoor"]
    assert sorted(values["outdoor"]) == sorted(outdoor)


@pytest.mark.parametrize("medians_m", [[], [0.05, 500.0], [0.6, 4.9, 300.0]])
def test_depths_that_may_be_metres_raise_no_warning(medians_m):
    assert implausible_depths([{"sample_id": "a", "depth_median_m": median} for median in medians_m]) == ""


@pytest.mark.parametrize(
    ("median_m", "words"),
    [
        (4937.0, "with 4937 m. Depth is stored in metres, and this looks like millimetres, which would be 4.94 m. "),
        (501.0, "looks like millimetres, which would be 0.501 m. "),
        (5e6, "looks like micrometres, which would be 5 m. "),
        (0.004, "looks like kilometres, which would be 4 m, or inverse or normalized depth. "),
        (1e-5, "looks like inverse or normalized depth. "),
        (1e20, "looks like none of the usual units. "),
    ],
)
def test_a_median_depth_that_can_hardly_be_metres_names_the_likely_unit(median_m, words):
    medians_m = {"a": 2.0, "b": median_m}
    warning = implausible_depths([{"sample_id": name, "depth_median_m": m} for name, m in medians_m.items()])
    assert warning.startswith("1 of 2 samples have a median depth outside 0.05 to 500 m, such as b with ")
    assert words in warning
