"""Which images of an evaluation are drawn: best, median and worst, none twice; and the pages of their points."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.evaluation.evaluate import Evaluation
from depthflow.evaluation.protocols import PROTOCOLS
from depthflow.evaluation.reprojection import Reprojected
from depthflow.reports.evaluation_images import chosen_images, image_sections, shown_rows
from depthflow.reports.published import published_section


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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 11, 36, 100])
def test_of_a_few_images_all_are_shown_and_the_worst_are_called_so(count):
    found = evaluation([k / 100 for k in range(count)])
    assert len(shown_rows(found)) == min(count, 36)
    assert shown_rows(found)[-1] == count - 1


# --- the pages of points ---


@pytest.fixture(params=[True, False], ids=["camera", "no-camera"])
def store(request, write, tmp_path):
    """Seven samples of val, from a source with or without a camera."""
    write.tree(tmp_path / "tree", {"val": {"00003_00001_indoors": 7}})
    if request.param:
        camera = {"width": 8, "height": 6, "fx_px": 7.0, "fy_px": 7.0, "cx_px": 4.0, "cy_px": 3.0}
        (tmp_path / "tree" / "camera.json").write_text(json.dumps(camera))
    return write.store(tmp_path / "store", tmp_path / "tree", splits=("val",))


def test_the_very_worst_is_the_first_and_links_its_page(store, request, tmp_path):
    ids = store.split_index("val")["sample_id"].to_pylist()
    images = tuple({"row": row, "sample_id": ids[row], "abs_rel": row / 10} for row in range(7))
    found = Evaluation(protocol="stored", fingerprint=store.fingerprint, split="val", images=images)
    depth_m = {row: np.full((6, 8), np.inf if row == 6 else 2.0, np.float32) for row in shown_rows(found)}
    sections, viewers = image_sections(
        tmp_path, {"model": found}, protocol=PROTOCOLS["stored"], store=store, depth_m={"model": depth_m}
    )
    [worst] = sections["worst"]
    pictures = worst.parts[-1].pictures
    assert [picture.caption.split(":")[0] for picture in pictures] == [ids[row] for row in (6, 5, 4)][: len(pictures)]
    links = [address for picture in pictures for address in picture.links.values()]
    assert links == [path.name for path in viewers]
    assert all(not picture.links for kind in ("best", "median") for picture in sections[kind][0].parts[-1].pictures)
    if "no-camera" in request.node.callspec.id:
        assert links == [] and "no camera.json" in worst.parts[0]
    else:
        assert links == ["worst-01.html", "worst-02.html", "worst-03.html"][: len(pictures)]
        assert len(worst.parts) == 1
        assert all(path.stat().st_size < 4e6 for path in viewers)


def test_below_an_image_is_how_its_views_explain_it(store, tmp_path):
    """Of the first model's depth, for rows whose views have known poses; the section says what one sees."""
    images = tuple({"row": row, "sample_id": f"id{row}", "abs_rel": row / 10} for row in range(7))
    found = Evaluation(protocol="stored", fingerprint=store.fingerprint, split="val", images=images)
    depth_m = {row: np.full((6, 8), 2.0, np.float32) for row in shown_rows(found)}
    error = np.full((6, 8), 0.25, np.float32)
    error[:3] = np.nan
    view = Reprojected(
        warped={"right": np.zeros((6, 8, 3), np.uint8)}, error=error, counted=np.arange(48).reshape(6, 8) >= 36
    )
    sections, _ = image_sections(
        tmp_path,
        {"a": found, "b": found},
        protocol=PROTOCOLS["stored"],
        store=store,
        depth_m={"a": depth_m, "b": depth_m},
        reprojected={6: view},
    )
    *_, text, gallery = sections["worst"][0].parts
    assert "auto-mask" in text
    captions = [picture.caption for picture in gallery.pictures]
    said = "right by a, photometric error 0.250, 50% of the pixels in view, 25% count by the auto-mask"
    assert captions[2].endswith(f"_006_000: {said}")
    assert len(captions) == 2 * 2 + 1, "two of the worst"
    assert not any("auto-mask" in str(part) for part in sections["best"][0].parts[:-1])


def test_published_metrics_say_nothing_about_other_images(store):
    metrics = {"abs_rel": 0.1, "rmse": 1.0, "delta1": 0.9}
    assert published_section(metrics, protocol=PROTOCOLS["indoor-10m"], store=store, split="val") == []
