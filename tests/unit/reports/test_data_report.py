"""The data report: opens without a network, counts what is there, lists every reject, names what is slow or odd."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from depthflow.reports.catalogue_section import catalogue_counts
from depthflow.reports.data_report import REPORT, read_accounting, read_report, write_report
from depthflow.reports.data_sections import MAX_REJECTS_LISTED, refused, slowest
from depthflow.reports.survey import sample_rows
from depthflow.store.store import MANIFEST, open_store
from depthflow.store.write.config import PreprocessConfig
from tests.stores import make_store
from tests.view_trees import write_pairs, write_table, write_video

COUNTS = ("split", "scene type", "expected", "found", "missing", "extra", "doubled", "stored", "rejected")
BY_SCAN = ("split", "scene type", "scene", "scan", "expected", "found", "missing", "extra", "doubled")
REJECTS = ("sample_id", "split", "reason", "message", "source")
ODDEST = ("sample", "split", "scene type", "odd in", "value", "typical", "z")
SLOWEST = ("sample", "split", "scene type", "seconds", "times the median")
EVIL = "<script>alert(1)<"
FAR = "00002_00001_outdoor_700_000"


@pytest.fixture(scope="module")
def broken(tmp_path_factory, write):
    """A tree of 20 indoors and 15 outdoor samples, one of them far away; an evil name, a lone file, a doubled id."""
    root = tmp_path_factory.mktemp("broken")
    write.tree(root / "tree", {"train": {"00001_00001_indoors": 20, "00002_00001_outdoor": 14}})
    rgb, depth, mask = write.frame(0)
    folder = write.triplet(root / "tree", "train", FAR, rgb, np.full_like(depth, 4000), mask)
    np.save(folder / f"{EVIL}_depth.npy", depth)
    np.save(folder / "00002_00001_outdoor_800_000_depth.npy", depth)
    write.tree(root / "again", {"train": {"00001_00001_indoors": 1}})
    return [root / "tree", root / "again"]


@pytest.fixture(scope="module")
def store(broken, tmp_path_factory, write):
    store = write.store(tmp_path_factory.mktemp("store") / "out", *broken, splits=("train",))
    assert write_report(store) == f"{store.files.root}/{REPORT}"
    return store


@pytest.fixture
def report(store, parse_html):
    return parse_html(read_report(store))


def test_it_opens_without_a_network(report):
    assert report.outside() == []


def test_the_same_store_gives_the_same_report(store):
    before = store.files.read(REPORT).to_pybytes()
    write_report(store)
    assert store.files.read(REPORT).to_pybytes() == before
    assert len(before) < 5e6


def test_panels_and_histograms_come_first_and_the_catalogue_last(report):
    assert report.text_of("h2") == [
        "Overview",
        "Samples",
        "Depth",
        "Valid and edge pixels",
        "Rejects",
        "Oddest samples",
        "Slowest samples",
        "Counts against the catalogue",
    ]


def test_it_says_what_the_store_is(store, report):
    facts = dict(zip(report.text_of("dt"), report.text_of("dd"), strict=True))
    size = sum(len(store.files.read(shard["path"])) for shard in store.manifest["shards"])
    assert facts["samples"] == "35"
    assert facts["rejects"] == "3"
    assert facts["shards"] == str(len(store.manifest["shards"]))
    assert facts["size of the shards"] == f"{size / 1e6:.1f} MB"
    assert facts["stored size, px"] == "6 × 8"
    identity = report.table("what", "value")
    assert ["fingerprint", store.fingerprint] in identity
    assert ["written", store.manifest["written"]] in identity
    assert [value for name, value in identity if name == "source"] == store.manifest["sources"]
    assert ["height", "6"] in report.table("setting", "value")
    assert ["splits", "train"] in report.table("setting", "value")
    assert ["resplit", "–"] in report.table("setting", "value")
    assert report.table("package", "version") == [list(item) for item in store.manifest["versions"].items()]


def test_counts_against_the_catalogue_by_hand(report):
    """Nothing is expected in scans that are not DIODE's; one id is doubled, one that lacks a member not found."""
    assert report.table(*COUNTS) == [
        ["train", "indoors", "–", "20", "–", "–", "1", "20", "1"],
        ["train", "outdoor", "–", "15", "–", "–", "0", "15", "1"],
        ["train", "(name not DIODE's)", "–", "–", "–", "–", "–", "0", "1"],
    ]
    assert report.table(*BY_SCAN) == [["train", "indoors", "scene_00001", "scan_00001", "–", "20", "–", "–", "1"]]
    assert "This is not DIODE, as the names of its scans say, so nothing is expected: 35 samples found." in report.text


def counts(store):
    """The section's verdict, its table, and its other parts."""
    rejects = pq.read_table(f"{store.files.root}/rejects.parquet").to_pylist()
    section = catalogue_counts(store.manifest, read_accounting(store), sample_rows(store), rejects)
    verdict, table, *others = section.parts
    return verdict, [tuple(row) for row in table.rows], others


@pytest.fixture(scope="module")
def part(tmp_path_factory, write):
    """Three samples of a scan of DIODE's train, and two of its val."""
    root = tmp_path_factory.mktemp("part")
    write.tree(root / "tree", {"train": {"00007_00082_outdoor": 3}, "val": {"00019_00183_indoors": 2}})
    return write.store(root / "out", root / "tree")


def test_a_part_of_diode_is_compared_with_its_catalogue(part):
    """It has 8,574 and 16,884 in train; val is judged by the published archive, and no scan of it."""
    verdict, table, others = counts(part)
    assert verdict == "A part of DIODE's train and val: 5 of 26,229 samples."
    assert table == [
        ("train", "indoors", 8574, 0, 8574, 0, 0, 0, 0),
        ("train", "outdoor", 16884, 3, 16881, 0, 0, 3, 0),
        ("val", "indoors", 325, 2, 323, 0, 0, 2, 0),
        ("val", "outdoor", 446, 0, 446, 0, 0, 0, 0),
    ]
    scans = others[-1].parts[0].rows
    assert ("train", "outdoor", "scene_00007", "scan_00082", 137, 3, 134, 0, 0) in scans
    assert sum(row[6] for row in scans) == 8574 + 16881
    assert {row[0] for row in scans} == {"train"}


def test_a_whole_data_set_is_called_complete(part):
    store, accounting = part, replace(read_accounting(part), splits=("train",))
    accounting = replace(accounting, scans=tuple(c for c in accounting.scans if c.place.split == "train"))
    whole = [replace(scan, found=scan.listed, missing=0, extra=0, doubled=()) for scan in accounting.scans]
    section = catalogue_counts(store.manifest, replace(accounting, scans=tuple(whole)), sample_rows(store), [])
    assert section.parts[0] == "DIODE's train, complete: no sample is missing."
    assert section.parts[-1] == "Every scan that is judged holds what is expected, and no id twice."


def test_resplit_is_counted_by_the_sources_split(tmp_path, write):
    write.tree(tmp_path / "tree", {"val": {"00019_00183_indoors": 6, "00020_00184_indoors": 4}})
    store = write.store(tmp_path / "out", tmp_path / "tree", resplit="val", val_fraction=0.4)
    assert set(store.manifest["counts"]) == {"train", "val"}
    _, table, others = counts(store)
    assert table == [("val", "indoors", 325, 10, 315, 0, 0, 10, 0), ("val", "outdoor", 446, 0, 446, 0, 0, 0, 0)]
    assert "drawn anew from the source's val" in others[1]


def test_pooled_splits_are_counted_together(tmp_path, write):
    """Time of DIODE is the order of its ids: at 30 Hz, 0.1 s are 3 frames, so 10 give 8 - 2 of train and 2 of val."""
    write.tree(tmp_path / "tree", {"train": {"00007_00082_outdoor": 10}, "val": {"00019_00183_indoors": 1}})
    (tmp_path / "val.txt").write_text("scan_00183\n")
    flags = {
        "--resplit time": {"resplit": "time", "gap_s": 0.1},
        "--split-file": {"split_file": (f"val={tmp_path / 'val.txt'}",)},
    }
    for flag, changes in flags.items():
        store = write.store(tmp_path / flag, tmp_path / "tree", **changes)
        verdict, table, others = counts(store)
        assert verdict == "A part of DIODE's train and val: 11 of 26,229 samples."
        rejects = 2 if flag == "--resplit time" else 0
        assert table == [
            ("train + val", "indoors", 8574 + 325, 1, 8574 + 324, 0, 0, 1, 0),
            ("train + val", "outdoor", 16884 + 446, 10, 16874 + 446, 0, 0, 10 - rejects, rejects),
        ]
        assert f"from the source's train + val ({flag})" in others[1]


def test_every_reject_is_listed_and_escaped(store, report):
    reasons = report.table("reason", "inputs", "for example", "its message")
    assert {reason: int(count) for reason, count, *_ in reasons} == store.manifest["rejects_by_reason"]
    listed = report.table(*REJECTS)
    assert {(row[0], row[2]) for row in listed} == {
        (EVIL, "bad_name"),
        ("00002_00001_outdoor_800_000", "missing_member"),
        ("00001_00001_indoors_000_000", "duplicate"),
    }
    assert all(row[3] and row[4] in store.manifest["sources"] for row in listed)
    assert EVIL not in read_report(store)


def test_of_many_rejects_the_first_are_listed():
    """The commonest reason comes first, and the section says that there are more."""
    reasons = ["rare"] * 3 + ["common"] * MAX_REJECTS_LISTED
    rejects = [
        {"sample_id": f"s{k:05d}", "split": "val", "reason": reason, "message": "m", "source": "s"}
        for k, reason in enumerate(reasons)
    ]
    table, details = refused(rejects).parts
    assert [row[:2] for row in table.rows] == [("common", MAX_REJECTS_LISTED), ("rare", 3)]
    assert details.parts[0] == "The first 1,000 of 1,003; rejects.parquet has all."
    assert len(details.parts[1].rows) == MAX_REJECTS_LISTED


def test_figures_are_percentiles_over_samples(store, report):
    heads = ("figure", "scene type", "least", "1%", "5%", "median", "95%", "99%", "greatest")
    depth, fraction = [rows for head, *rows in report.tables if head == list(heads)]
    assert len(depth) == 6 and len(fraction) == 4
    outdoor = [row for row in sample_rows(store) if row["scene_type"] == "outdoor"]
    greatest = [row["depth_max_m"] for row in outdoor]
    assert next(row for row in depth if row[:2] == ["greatest depth", "outdoor"])[2:] == [
        f"{np.percentile(greatest, q):.2f}" for q in (0, 1, 5, 50, 95, 99, 100)
    ]
    edges = [row["edge_fraction"] for row in outdoor]
    assert next(row for row in fraction if row[:2] == ["edge fraction", "outdoor"])[5] == f"{np.median(edges):.1%}"


def test_pictures_of_charts_samples_and_oddities(report):
    alts = report.attributes("img", "alt")
    assert sum("Histogram" in alt for alt in alts) == 3
    panels = [alt.rpartition(" ")[2] for alt in alts if alt.startswith("Photograph")]
    assert len(panels) == 12 + 6
    assert len(set(panels[:12])) == 12
    assert sum("indoors" in name for name in panels[:12]) == 6
    sources = [source for alt, source in zip(alts, report.attributes("img", "src"), strict=True) if alt[:5] == "Photo"]
    assert len(set(sources)) == len(set(zip(panels, sources, strict=True))) == len(set(panels)), "each its own picture"
    oddest = [row[0] for row in report.table(*ODDEST)]
    assert panels[12:] == oddest[:6]
    assert all(f"{name} (train): " in report.text for name in panels)


def test_the_oddest_is_named_with_its_figure(report):
    rows = report.table(*ODDEST)
    assert len(rows) == 12
    assert rows[0][:5] == [FAR, "train", "outdoor", "median depth", "4000.00 m"]
    z = [abs(float(row[-1])) for row in rows]
    assert z == sorted(z, reverse=True)
    assert z[0] > 3.5


def test_the_slowest_are_named_in_order(store, report):
    seconds = {row["sample_id"]: row["seconds"] for row in sample_rows(store)}
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:10]
    assert [row[0] for row in report.table(*SLOWEST)] == slowest
    facts = dict(zip(report.text_of("dt"), report.text_of("dd"), strict=True))
    assert facts["median"] == f"{np.median(list(seconds.values())):.3f} s"


def test_times_that_nobody_knows(store):
    """Of shards that a run found made there are none."""
    rows = [{**row, "seconds": None} for row in sample_rows(store)]
    (text,) = slowest(rows).parts
    assert text.startswith("No times are known")
    rows[0]["seconds"], rows[1]["seconds"] = 1.0, 3.0
    text, facts, table = slowest(rows).parts
    assert "Known of 2 of 35 samples" in text
    assert facts.values == {"median": "2.000 s", "95th percentile": "2.900 s", "slowest": "3.000 s"}
    assert [row[0] for row in table.rows] == [rows[1]["sample_id"], rows[0]["sample_id"]]
    assert [row[-2:] for row in table.rows] == [(3.0, 1.5), (1.0, 0.5)]


def test_without_rejects():
    assert refused([]).parts == ["No input was refused."]


def test_a_report_of_other_content_is_none(store, tmp_path):
    shutil.copytree(store.files.root, tmp_path / "out")
    assert read_report(open_store(str(tmp_path / "out"))) is not None
    path = tmp_path / "out" / MANIFEST
    path.write_text(path.read_text().replace(store.fingerprint, "0" * 32))
    assert read_report(open_store(str(tmp_path / "out"))) is None
    (tmp_path / "out" / REPORT).unlink()
    assert read_report(open_store(str(tmp_path / "out"))) is None


# --- several data sets ---


def test_each_data_set_is_shown_apart(mixed, parse_html, tmp_path):
    shutil.copytree(mixed.files.root, tmp_path / "out")
    store = open_store(str(tmp_path / "out"))
    write_report(store)
    report = parse_html(read_report(store))
    assert report.text_of("h2")[2:5] == ["Depth", "Data sets", "Valid and edge pixels"]
    assert report.table("data set", "split", "scene type", "scenes", "samples") == [
        ["diode", "train", "indoors", "1", "30"],
        ["diode", "train", "outdoor", "1", "12"],
        ["diode", "val", "indoors", "1", "4"],
        ["tum", "train", "indoors", "1", "28"],
        ["tum", "val", "indoors", "1", "3"],
    ]
    heads = ["figure", "data set", "least", "1%", "5%", "median", "95%", "99%", "greatest"]
    [depth] = [rows for head, *rows in report.tables if head == heads]
    of_tum = [row["depth_max_m"] for row in sample_rows(store) if row["dataset"] == "tum"]
    assert next(row for row in depth if row[:2] == ["greatest depth", "tum"])[-1] == f"{max(of_tum):.2f}"
    assert any(alt.startswith("Histogram of depth by data set") for alt in report.attributes("img", "alt"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("accounting.parquet", "index.parquet", "manifest.json", "rejects.parquet", "report.html"),
        *("split=train", "split=val"),
    }


def test_only_diode_is_compared_with_its_catalogue(mixed):
    """The id of the rejected frame of tum has five parts between underscores, the third of them indoors."""
    _, rows, _ = counts(mixed)
    found = {row[:2]: row[-2:] for row in rows}
    assert found == {
        ("train", "indoors"): (30, 0),
        ("train", "outdoor"): (12, 0),
        ("val", "indoors"): (4, 0),
        ("val", "outdoor"): (0, 0),
        ("val", "(name not DIODE's)"): (0, 1),
    }


# --- stores with views ---


def view_report(tmp_path, kind, write, parse_html, **changes):
    """The report of a small store of kind stereo or video."""
    rows = write(tmp_path / "frames", 5, **changes)
    config = PreprocessConfig(
        source=(str(tmp_path / "frames"),), out=str(tmp_path / "out"), kind=kind, height=24, width=32, splits=("train",)
    )
    store = make_store(config)
    write_report(store)
    return rows, parse_html(read_report(store))


@pytest.mark.parametrize(
    ("kind", "write", "views"), [("stereo", write_pairs, "right"), ("video", write_video, "previous, next")]
)
@pytest.mark.parametrize("with_depth", [True, False])
def test_a_store_with_views(tmp_path, parse_html, kind, write, views, with_depth):
    _, report = view_report(tmp_path, kind, write, parse_html, with_depth=with_depth)
    wanted = f"Photograph, {views}, depth and masks of own/" if with_depth else f"Photograph, {views} of own/"
    panels = [alt for tag, of in report.elements if tag == "img" and (alt := of.get("alt", "")).startswith("Photo")]
    assert panels and all(alt.startswith(wanted) for alt in panels)
    assert ("No sample has a valid depth." in report.text) is not with_depth
    assert ("no depth" in report.text) is not with_depth
    assert "nan" not in report.text.lower().split()


def test_samples_without_depth_are_counted_in_the_report(tmp_path, parse_html):
    rows = write_pairs(tmp_path / "frames", 5)
    del rows[0]["depth"]
    write_table(tmp_path / "frames", rows)
    _, report = view_report(tmp_path, "stereo", lambda *_: rows, parse_html)
    assert "1 of 5 samples have no valid depth" in report.text
    assert "Valid pixels of all 4 samples" in report.text
