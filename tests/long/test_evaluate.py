"""Evaluation over Ray: every sample once, the same metrics with any number of workers, and the report."""

import json
import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pytest

from depthflow.cluster.session import ray_session
from depthflow.errors import ProtocolError
from depthflow.evaluation.evaluate import Evaluation, Evaluator
from depthflow.evaluation.protocols import PROTOCOLS
from depthflow.metrics import METRIC_NAMES, boundary_metrics, image_metrics
from depthflow.reports.evaluation_images import PANELS_EACH, shown_rows
from depthflow.reports.evaluation_report import write_evaluation
from depthflow.reports.published import published_section
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import SampleStore, open_store
from tests.browser import opened

SAMPLES = {"indoors": 325, "outdoor": 446}
"""As many as in DIODE's val."""


@pytest.fixture(scope="module")
def store(run, write_triplet, tmp_path_factory) -> SampleStore:
    """Small frames at their own resolution."""
    folder = tmp_path_factory.mktemp("evaluate")
    for scene_type, count in SAMPLES.items():
        for k in range(count):
            write_triplet(folder / "tree", split="val", scene_type=scene_type, scene=k // 100, view=k, size=(24, 32))
    camera = {"width": 32, "height": 24, "fx_px": 28.0, "fy_px": 28.0, "cx_px": 16.0, "cy_px": 12.0}
    (folder / "tree" / "camera.json").write_text(json.dumps(camera))
    size = ("--height", 24, "--width", 32)
    options = ("--splits", "val", "--require-complete")  # To count as DIODE, whatever the scenes are called.
    done = run("preprocess", "--source", "tree", "--out", "store", *options, *size, cwd=folder)
    assert done.code == 0, done.stderr
    return open_store(str(folder / "store"))


def loaders() -> dict:
    """Two models without weights. The classes are local: Ray sends them to its workers by value."""

    class Bright:
        """Predicts brighter as farther, with a slope so that no map is flat; relative output has no metres."""

        def __init__(self, output: str, gain: float) -> None:
            self.output, self._gain = output, gain

        def __call__(self, rgb, focal=None):
            slope = np.linspace(0.9, 1.1, rgb.shape[2], dtype=np.float32)
            depth_m = (1.0 + self._gain * rgb.mean(axis=-1, dtype=np.float32) / 255) * slope
            return depth_m if self.output == "metres" else 0.3 / depth_m + 2.0

    return {
        "good": lambda: Bright("metres", 8.0),
        "poor": lambda: Bright("metres", 3.0),
        "relative": lambda: Bright("relative inverse depth", 8.0),
    }


def evaluated(store: SampleStore, protocol: str, *names: str, workers: int) -> dict[str, Evaluation]:
    models = {name: loaders()[name] for name in names}
    return Evaluator(
        models, store=store, split="val", protocol=PROTOCOLS[protocol], num_workers=workers, use_gpu=False
    ).evaluate()


@pytest.fixture(scope="module")
def alone(store) -> dict[str, Evaluation]:
    """With one worker."""
    return evaluated(store, "devkit", "good", "poor", workers=1)


def by_three_workers(root: str) -> dict[str, Evaluation]:
    """In a separate process, whose Ray has a CPU for each."""
    del os.environ["RAY_ADDRESS"]
    with ray_session(3):
        return evaluated(open_store(root), "devkit", "good", "poor", workers=3)


@pytest.mark.parametrize("workers", [2, 3])
def test_every_sample_once_and_the_same_metrics_with_any_number_of_workers(store, alone, workers):
    if workers == 3:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(by_three_workers, store.files.root).result()
    else:
        found = evaluated(store, "devkit", "good", "poor", workers=workers)
    for name, result in found.items():
        assert result.samples == 771
        assert Counter(image["scene_type"] for image in result.images) == SAMPLES
        assert len({image["sample_id"] for image in result.images}) == 771
        for group, metrics in result.metrics.items():
            assert metrics == pytest.approx(alone[name].metrics[group], rel=1e-9, abs=1e-12)
        for scene_type, breakdown in result.breakdowns.items():
            np.testing.assert_allclose(breakdown.by_depth, alone[name].breakdowns[scene_type].by_depth, rtol=1e-9)
        assert 0 < result.metrics["all"]["boundary_f1"] < 1 and result.metrics["all"]["edge_abs_rel"] > 0
    assert found["good"].metrics["all"]["abs_rel"] < found["poor"].metrics["all"]["abs_rel"]


def test_metrics_of_an_image_are_those_of_its_planes(store, alone):
    """Recomputed from the planes, for a few images."""
    model, reader = loaders()["good"](), SplitReader(store, "val")
    for image in alone["good"].images[::97]:
        batch = reader.read([image["row"]])
        assert batch.sample_ids[0] == image["sample_id"]
        planes = {
            "depth_pred": model(batch.rgb)[0],
            "depth_gt": np.exp(batch.log_depth[0]),
            "valid_mask": batch.valid_mask[0],
        }
        expected = image_metrics(**planes) | boundary_metrics(**planes)
        assert {name: image[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_latency_is_measured_beside_each_other(alone):
    for result in alone.values():
        assert result.image_ms is not None and 0 < result.image_ms < 1000


def test_relative_depth_is_evaluated_when_aligned(store):
    with pytest.raises(ProtocolError, match=r"relative predicts relative inverse depth.*--protocol affine"):
        evaluated(store, "devkit", "relative", workers=1)
    found = evaluated(store, "affine", "relative", "good", workers=2)
    assert found["relative"].metrics["all"]["abs_rel"] < 0.2
    assert found["relative"].problems == ()


def test_a_protocol_of_one_scene_type_evaluates_its_samples(store):
    result = evaluated(store, "indoor-10m", "good", workers=2)["good"]
    assert {image["scene_type"] for image in result.images} == {"indoors"} and result.samples == SAMPLES["indoors"]


# --- the report ---


@pytest.fixture(scope="module")
def written(store, alone, tmp_path_factory) -> Path:
    """The folder with the report on the good model, beside the poor one, its baseline."""
    folder = tmp_path_factory.mktemp("written")
    reader, model = SplitReader(store, "val"), loaders()["good"]()
    depth_m = {row: model(reader.read([row]).rgb)[0] for row in shown_rows(alone["good"])}
    files = write_evaluation(
        folder, alone, protocol=PROTOCOLS["devkit"], store=store, depth_m={"good": depth_m}, baseline="poor"
    )
    assert {*files} == {*folder.iterdir()}
    return folder


def test_report_says_what_was_measured(written, store, alone, parse_html):
    page = parse_html((written / "report.html").read_text())
    assert page.outside() == []
    assert page.text_of("h1") == ["Evaluation"]
    for words in ("under the protocol devkit", "771", store.fingerprint, PROTOCOLS["devkit"].meaning):
        assert words in page.text
    rows = page.table("", "model", "images", *METRIC_NAMES)
    assert [row[:3] for row in rows] == [
        [group, name, f"{count}"] for group, count in {"all": 771, **SAMPLES}.items() for name in ("good", "poor")
    ]
    assert rows[0][3 + METRIC_NAMES.index("abs_rel")] == f"{alone['good'].metrics['all']['abs_rel']:.4f}"
    tiles = dict(zip(page.text_of("dt"), page.text_of("dd"), strict=True))
    assert tiles["abs_rel"] == f"{alone['good'].metrics['all']['abs_rel']:.3f}"
    assert tiles["abs_rel of the baseline"] == f"{alone['poor'].metrics['all']['abs_rel']:.3f}"


def test_report_begins_with_what_most_need(written, parse_html):
    page = parse_html((written / "report.html").read_text())
    assert page.text_of("h2") == [
        "Overview",
        "Metrics",
        "Where it errs",
        "Worst images",
        "Scenes, the worst first",
        "Median images",
        "Best images",
        "Published metrics on DIODE",
    ]


def test_each_worst_image_has_a_page_with_truth_and_prediction_in_3d(written, alone, parse_html):
    page = parse_html((written / "report.html").read_text())
    pages = [f"worst-{k:02d}.html" for k in range(1, PANELS_EACH + 1)]
    assert [link for link in page.attributes("a", "href") if not link.startswith("#")] == pages
    assert sorted(path.name for path in written.glob("worst-*")) == pages
    errors = {image["sample_id"]: image["abs_rel"] for image in alone["good"].images}
    [shown] = parse_html((written / pages[0]).read_text()).text_of("h1")
    assert errors[shown] == max(errors.values())
    with opened(written / pages[0], width=1280, height=900) as tab:
        tab.picture_when(lambda picture: (np.ptp(picture[300:, 60:760].astype(int), axis=-1) > 60).mean() > 0.05)
        names = tab.run("[...document.querySelectorAll('.legendtext')].map((name) => name.textContent)")
        assert names == ["ground truth", "good"]
        assert tab.requests == [(written / pages[0]).as_uri()]


def test_published_metrics_are_listed_where_they_compare(written, store, alone, parse_html):
    page = parse_html((written / "report.html").read_text())
    assert "No published metrics were measured as devkit measures." in page.text
    assert "for --protocol indoor-10m, outdoor-80m, affine." in page.text
    metrics = alone["good"].metrics["all"]
    [section] = published_section(metrics, protocol=PROTOCOLS["indoor-10m"], store=store, split="val")
    rows = section.parts[-1].rows
    assert [row[0] for row in rows] == ["this model", "BTS", "ZoeD-M12-NK", "UniDepth-V", "UniDepthV2"]
    assert rows[0][1] == metrics["abs_rel"]


def test_report_lists_every_scene_the_worst_first(written, parse_html):
    page = parse_html((written / "report.html").read_text())
    rows = page.table("scene type", "scene", "images", "abs_rel", "rmse, m", "delta1")
    assert Counter({(row[0], row[1]): int(row[2]) for row in rows}) == {
        (kind, f"scene_{scene:05d}"): min(100, count - 100 * scene)
        for kind, count in SAMPLES.items()
        for scene in range(-(-count // 100))
    }
    errors = [float(row[3]) for row in rows]
    assert errors == sorted(errors, reverse=True)


def test_report_shows_the_best_median_and_worst(written, alone, parse_html):
    page = parse_html((written / "report.html").read_text())
    panels = [uri for uri in page.attributes("img", "src") if uri.startswith("data:image/jpeg")]
    assert len(panels) == 3 * PANELS_EACH
    best = min(alone["good"].images, key=lambda image: image["abs_rel"])
    assert f"{best['sample_id']}: good, abs_rel {best['abs_rel']:.3f}" in page.text
    assert all(page.attributes("img", "alt")), "for who cannot see them"


def test_images_are_a_table_for_other_programs(written, alone):
    table = pacsv.read_csv(written / "images.csv").to_pylist()
    assert len(table) == 2 * 771
    first = alone["good"].images[0]
    assert table[0]["model"] == "good" and table[0]["sample_id"] == first["sample_id"]
    assert table[0]["abs_rel"] == pytest.approx(first["abs_rel"])
