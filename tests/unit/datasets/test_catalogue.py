"""The catalogue: what is missing, extra or doubled, per scan for train and by the archive's counts for val."""

import json
from collections.abc import Mapping

import pytest

from depthflow.datasets.catalogue import VAL_SAMPLES, Accounting, Place, account, expected_counts, is_diode
from depthflow.synthetic.synthesize import plan

BOTH = ("train", "val")
KITCHEN = Place("train", "indoors", "scene_00000", "scan_00000")
HALL = Place("train", "indoors", "scene_00000", "scan_00001")
STAIRS = Place("train", "indoors", "scene_00001", "scan_00009")
YARD = Place("train", "outdoor", "scene_00007", "scan_00082")
ATTIC = Place("val", "indoors", "scene_00019", "scan_00183")
GARDEN = Place("val", "outdoor", "scene_00022", "scan_00193")
STREET = Place("train", "outdoor", "scene_00099", "scan_00999")

SMALL = {KITCHEN: 4, HALL: 3, STAIRS: 5, YARD: 2, ATTIC: 73, GARDEN: 35}
"""A catalogue of 12 + 2 samples of train, and of less of val than there is."""
WHOLE = {**SMALL, ATTIC: 325, GARDEN: 446}
"""All that there is."""


def samples(counts: Mapping[Place, int]) -> list[tuple[str, str, str, str, str]]:
    return [(*place, sample_id(place, i)) for place, count in counts.items() for i in range(count)]


def sample_id(place: Place, i: int) -> str:
    return f"{place.scene[6:]}_{place.scan[5:]}_{place.scene_type}_{i:03d}_000"


def accounting(changes: Mapping[Place, int], *, splits: tuple[str, ...] = BOTH) -> Accounting:
    """The small catalogue against all that there is, but for some scans."""
    return account(samples({**WHOLE, **changes}), splits=splits, catalogue=SMALL)


def short(counts) -> list[tuple[str, int | None, int]]:
    return [(str(count.place), count.expected, count.found) for count in counts]


def test_the_packaged_catalogue_has_the_published_totals():
    totals: dict[tuple[str, str], int] = {}
    for place, count in expected_counts().items():
        totals[place[:2]] = totals.get(place[:2], 0) + count
    assert totals == {
        ("train", "indoors"): 8574,
        ("train", "outdoor"): 16884,
        ("val", "indoors"): 220,
        ("val", "outdoor"): 392,
    }
    assert VAL_SAMPLES == {"indoors": 325, "outdoor": 446}
    assert len(expected_counts()) == 199
    assert expected_counts()[YARD] == 137


def test_train_and_val_of_the_catalogue_share_no_scene():
    scenes = {split: {place[1:3] for place in expected_counts() if place.split == split} for split in BOTH}
    assert scenes["train"] and scenes["val"]
    assert not scenes["train"] & scenes["val"]


def test_the_published_archives_are_complete():
    catalogue = expected_counts()
    # Val as published: 105 samples indoors and 54 outdoor that the catalogue does not list.
    archives = {**catalogue, ATTIC: 73 + 105, GARDEN: 35 + 54}
    result = account(samples(archives), splits=BOTH, catalogue=catalogue)
    assert result.is_complete
    assert (result.missing, result.extra, result.doubled) == ((), (), ())
    assert result.summary() == {
        "train": {"expected": 25458, "found": 25458, "missing": 0, "extra": 0, "doubled": 0},
        "val": {"expected": 771, "found": 771, "missing": 0, "extra": 0, "doubled": 0},
    }


def test_the_catalogue_lists_only_a_part_of_val():
    catalogue = expected_counts()
    result = account(samples(catalogue), splits=BOTH, catalogue=catalogue)
    assert short(result.missing) == [("val/indoors", 325, 220), ("val/outdoor", 446, 392)]
    assert result.summary()["val"]["missing"] == 159


def test_a_complete_source():
    result = accounting({})
    assert result.is_complete
    assert [(str(c.place), c.expected, c.found) for c in result.scene_types] == [
        ("train/indoors", 12, 12),
        ("train/outdoor", 2, 2),
        ("val/indoors", 325, 325),
        ("val/outdoor", 446, 446),
    ]


def test_the_order_of_the_samples_does_not_matter():
    found = samples(WHOLE)
    assert account(reversed(found), splits=BOTH, catalogue=SMALL) == account(found, splits=BOTH, catalogue=SMALL)


def test_a_missing_scan():
    result = accounting({STAIRS: 0})
    assert not result.is_complete
    assert short(result.missing) == [("train/indoors/scene_00001/scan_00009", 5, 0)]
    assert result.missing[0].missing == 5
    assert result.summary()["train"] == {"expected": 14, "found": 9, "missing": 5, "extra": 0, "doubled": 0}


def test_a_scan_short_by_two():
    result = accounting({KITCHEN: 2})
    assert short(result.missing) == [("train/indoors/scene_00000/scan_00000", 4, 2)]
    scenes = {str(c.place): (c.expected, c.found, c.missing) for c in result.scenes if c.place.split == "train"}
    assert scenes == {
        "train/indoors/scene_00000": (7, 5, 2),
        "train/indoors/scene_00001": (5, 5, 0),
        "train/outdoor/scene_00007": (2, 2, 0),
    }


def test_a_scan_that_the_catalogue_does_not_have():
    result = accounting({STREET: 3})
    assert result.is_complete
    assert short(result.extra) == [("train/outdoor/scene_00099/scan_00999", 0, 3)]
    assert result.summary()["train"] == {"expected": 14, "found": 17, "missing": 0, "extra": 3, "doubled": 0}


def test_extra_samples_of_one_scan_do_not_hide_missing_ones_of_another():
    result = accounting({HALL: 5, KITCHEN: 2})
    assert not result.is_complete
    assert short(result.extra) == [("train/indoors/scene_00000/scan_00001", 3, 5)]
    assert short(result.missing) == [("train/indoors/scene_00000/scan_00000", 4, 2)]
    assert result.summary()["train"] == {"expected": 14, "found": 14, "missing": 2, "extra": 2, "doubled": 0}
    (scene,) = (c for c in result.scenes if str(c.place) == "train/indoors/scene_00000")
    assert (scene.expected, scene.found, scene.missing, scene.extra) == (7, 7, 2, 2)


def test_a_doubled_id_counts_once_and_does_not_fill_a_gap():
    twice, thrice = sample_id(HALL, 1), sample_id(GARDEN, 7)
    found = [*samples({**WHOLE, HALL: 2}), (*HALL, twice), (*GARDEN, thrice), (*GARDEN, thrice)]
    result = account(found, splits=BOTH, catalogue=SMALL)
    assert result.doubled == ("00000_00001_indoors_001_000", "00022_00193_outdoor_007_000")
    assert short(result.missing) == [("train/indoors/scene_00000/scan_00001", 3, 2)]
    assert result.summary() == {
        "train": {"expected": 14, "found": 13, "missing": 1, "extra": 0, "doubled": 1},
        "val": {"expected": 771, "found": 771, "missing": 0, "extra": 0, "doubled": 1},
    }
    assert [row["doubled"] for row in result.rows() if row["doubled"]] == [[twice], [thrice]]


def test_a_sample_of_val_among_train_is_extra():
    result = account([*samples(WHOLE), ("train", *ATTIC[1:], sample_id(ATTIC, 0))], splits=BOTH, catalogue=SMALL)
    assert result.doubled == ()
    assert short(result.extra) == [("train/indoors/scene_00019/scan_00183", 0, 1)]


@pytest.mark.parametrize(
    ("val", "missing", "extra"),
    [
        pytest.param({ATTIC: 325}, [], [], id="a scan with more than listed"),
        pytest.param({ATTIC: 0, Place("val", *STAIRS[1:]): 325}, [], [], id="a scan that is not listed"),
        pytest.param({ATTIC: 72, Place("val", *STAIRS[1:]): 253}, [], [], id="a scan with less than listed"),
        pytest.param({ATTIC: 324}, [("val/indoors", 325, 324)], [], id="one short"),
        pytest.param({GARDEN: 0}, [("val/outdoor", 446, 0)], [], id="a scene type missing"),
        pytest.param({ATTIC: 327}, [], [("val/indoors", 325, 327)], id="two too many"),
    ],
)
def test_val_is_compared_with_the_archives_counts(val, missing, extra):
    result = accounting(val)
    assert short(result.missing) == missing
    assert short(result.extra) == extra
    assert result.is_complete is (not missing)
    within = [count for count in (*result.scans, *result.scenes) if count.place.split == "val"]
    assert within and all(count.expected is None for count in within)


@pytest.mark.parametrize(("split", "expected"), [("train", 14), ("val", 771)])
def test_other_splits_are_not_counted(split, expected):
    other = {place: 0 for place in WHOLE if place.split != split}
    for changes in ({}, other):
        result = accounting(changes, splits=(split,))
        assert result.is_complete
        assert result.summary() == {
            split: {"expected": expected, "found": expected, "missing": 0, "extra": 0, "doubled": 0}
        }
        assert {row["split"] for row in result.rows()} == {split}
        assert {count.place.split for count in result.scene_types} == {split}


@pytest.mark.parametrize("split", BOTH)
def test_nothing_found(split):
    result = account([], splits=(split,), catalogue=expected_counts())
    total = {"train": 25458, "val": 771}[split]
    assert not result.is_complete
    assert result.summary()[split] == {"expected": total, "found": 0, "missing": total, "extra": 0, "doubled": 0}
    assert len(result.missing) == {"train": 179, "val": 2}[split]


def test_one_row_per_scan_listed_or_found():
    rows = accounting({STAIRS: 4, STREET: 1}).rows()
    assert [row["scan"][5:] for row in rows] == ["00000", "00001", "00009", "00082", "00999", "00183", "00193"]
    assert rows[2] == {
        "split": "train",
        "scene_type": "indoors",
        "scene": "scene_00001",
        "scan": "scan_00009",
        "listed": 5,
        "expected": 5,
        "found": 4,
        "missing": 1,
        "extra": 0,
        "doubled": [],
    }
    assert (rows[5]["listed"], rows[5]["found"]) == (73, 325)
    assert (rows[5]["expected"], rows[5]["missing"], rows[5]["extra"]) == (None, None, None)
    assert json.loads(json.dumps(rows)) == rows


def test_the_description_of_a_gap():
    result = accounting({KITCHEN: 1, STAIRS: 0, HALL: 4, ATTIC: 320})
    assert result.describe_gap().splitlines() == [
        "train/indoors: 5 of 12 samples, 8 missing, 1 more than expected "
        "(indoors/scene_00000/scan_00000: 1 of 4, indoors/scene_00001/scan_00009: 0 of 5)",
        "train/outdoor: 2 of 2 samples, 0 missing",
        "val/indoors: 320 of 325 samples, 5 missing",
        "val/outdoor: 446 of 446 samples, 0 missing",
    ]


def test_only_the_description_of_a_long_gap_is_shortened():
    result = account([], splits=("train",), catalogue=expected_counts())
    indoors, outdoor = result.describe_gap().splitlines()
    assert indoors == (
        "train/indoors: 0 of 8574 samples, 8574 missing (indoors/scene_00000/scan_00000: 0 of 182, "
        "indoors/scene_00000/scan_00001: 0 of 157, indoors/scene_00000/scan_00002: 0 of 172, and 77 more)"
    )
    assert outdoor.endswith("and 96 more)")
    assert sum(count.missing or 0 for count in result.missing) == 25458


def test_mini_diode_is_not_complete():
    mini = {Place(*scan.folder.parts): 3 for scan in plan(scans=8, val_fraction=0.25)}
    catalogue = expected_counts()
    of_train = {place for place in mini if place.split == "train"}
    unknown = of_train - catalogue.keys()
    assert (len(of_train), len(mini)) == (6, 8)
    assert unknown

    result = account(samples(mini), splits=BOTH, catalogue=catalogue)

    assert not result.is_complete
    assert {count.place for count in result.extra} == unknown
    extra = 3 * len(unknown)
    assert result.summary() == {
        "train": {"expected": 25458, "found": 18, "missing": 25458 - 18 + extra, "extra": extra, "doubled": 0},
        "val": {"expected": 771, "found": 6, "missing": 765, "extra": 0, "doubled": 0},
    }


@pytest.mark.parametrize("splits", ["train", ("test",), ("train", "validation")])
def test_an_unknown_split_is_rejected(splits):
    with pytest.raises(ValueError, match=r"train and val.*Received"):
        account([], splits=splits, catalogue=SMALL)


def test_a_misnamed_sample_is_rejected():
    with pytest.raises(ValueError, match=r"with a DIODE name.*photo"):
        account([("train", "", "", "", "photo")], splits=BOTH, catalogue=SMALL)


# --- is it DIODE at all ---


def named(split: str, scenes_and_scans: list[tuple[int, int]], scene_type: str = "indoors") -> list[Place]:
    return [Place(split, scene_type, f"scene_{scene:05d}", f"scan_{scan:05d}") for scene, scan in scenes_and_scans]


OTHERS = {
    "one scan": dict.fromkeys(named("train", [(0, 0)]), 80),
    "scans of one scene": dict.fromkeys(named("train", [(0, scan) for scan in range(8)]), 10),
    "scans counted in each scene": dict.fromkeys(named("train", [(k // 5, k % 5) for k in range(20)]), 10),
    "scans counted throughout": dict.fromkeys(named("train", [(k // 5, k) for k in range(40)]), 5),
    "counted from 1": dict.fromkeys(named("val", [(k, 1) for k in range(1, 9)], "outdoor"), 5),
    "mini-DIODE": {Place(*scan.folder.parts): 3 for scan in plan(scans=24, val_fraction=0.25)},
}


@pytest.mark.parametrize("counts", OTHERS.values(), ids=OTHERS)
def test_other_data_are_not_diode_however_they_are_numbered(counts):
    assert not is_diode(samples(counts), catalogue=expected_counts())


@pytest.mark.parametrize(
    "is_there",
    [
        lambda place: True,
        lambda place: place.split == "val",
        lambda place: place.scene_type == "outdoor",
        lambda place: place.scene == "scene_00000",
        lambda place: place == KITCHEN,
        lambda place: place.scan.endswith("7"),
    ],
)
def test_a_part_of_diode_is_diode(is_there):
    part = {place: count for place, count in expected_counts().items() if is_there(place)}
    assert is_diode(samples(part), catalogue=expected_counts())
    few = dict.fromkeys((place for place in part if place.scene != "scene_00000"), 1)
    assert is_diode(samples(few), catalogue=expected_counts())


def test_of_other_data_nothing_is_expected():
    place = named("train", [(3, 1)])[0]
    found = [*samples({place: 4}), *samples({place: 1})]
    result = account(found, splits=BOTH, catalogue={})
    assert not result.is_diode and not result.is_complete
    assert (result.missing, result.extra, len(result.doubled)) == ((), (), 1)
    unknown = {"expected": None, "missing": None, "extra": None}
    assert result.summary() == {
        "train": {**unknown, "found": 4, "doubled": 1},
        "val": {**unknown, "found": 0, "doubled": 0},
    }
    assert [(row["scan"], row["listed"], row["expected"], row["found"]) for row in result.rows()] == [
        ("scan_00001", 0, None, 4)
    ]
