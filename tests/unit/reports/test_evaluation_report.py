"""The evaluation report on a store of several data sets, evaluated in this process."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.csv as pacsv
import pytest

from depthflow.evaluation.breakdown import total
from depthflow.evaluation.evaluate import Evaluation, image_groups
from depthflow.evaluation.protocols import PROTOCOLS
from depthflow.evaluation.worker import EvaluationWorker
from depthflow.metrics import BOUNDARY_NAMES, METRIC_NAMES
from depthflow.reports.evaluation_images import shown_rows
from depthflow.reports.evaluation_report import write_evaluation


class Constant:
    """Predicts 2 m everywhere."""

    output = "metres"

    def __call__(self, rgb, focal):
        return np.full(rgb.shape[:3], 2.0, np.float32)


@pytest.fixture(scope="module")
def written(mixed, tmp_path_factory):
    """The evaluation of val, four images of diode and three of tum, and the folder of its report."""
    protocol = PROTOCOLS["stored"]
    worker = EvaluationWorker({"model": Constant}, protocol, mixed, "val")
    found = worker.evaluate([*range(7)])["model"].images
    images = tuple(image for image, _ in found)
    groups = image_groups(images)
    breakdowns = {name: total(found[place][1] for place in places) for name, places in groups.items()}
    evaluation = Evaluation(
        protocol=protocol.name, fingerprint=mixed.fingerprint, split="val", images=images, breakdowns=breakdowns
    )
    folder: Path = tmp_path_factory.mktemp("written")
    depth_m = {"model": worker.depth_m(shown_rows(evaluation))["model"]}
    write_evaluation(folder, {"model": evaluation}, protocol=protocol, store=mixed, depth_m=depth_m)
    return SimpleNamespace(evaluation=evaluation, folder=folder)


def test_each_data_set_is_shown_apart(written, parse_html):
    page = parse_html((written.folder / "report.html").read_text())
    rows = page.table("", "model", "images", *METRIC_NAMES)
    assert [row[:3] for row in rows] == [
        ["all", "model", "7"],
        ["indoors", "model", "7"],
        ["dataset diode", "model", "4"],
        ["dataset tum", "model", "3"],
    ]
    of_tum = written.evaluation.metrics["dataset tum"]
    assert rows[3][3:] == [f"{of_tum[name]:.4f}" for name in METRIC_NAMES]
    rows = page.table("", "model", "images", *BOUNDARY_NAMES)
    assert [row[:3] for row in rows][2:] == [["dataset diode", "model", "4"], ["dataset tum", "model", "3"]]
    assert rows[3][3:5] == [f"{of_tum[name]:.4f}" for name in BOUNDARY_NAMES[:2]] == ["0.0000", "0.0000"]
    assert rows[3][6] == f"{of_tum['edge_abs_rel']:.4f}" != "nan"
    headings = page.text_of("h2")
    assert headings[headings.index("Where it errs") + 1] == "Where it errs, by data set"
    by_dataset = page.table("data set", "by", "range", "pixels", "relative error", "signed")
    assert {row[0] for row in by_dataset} == {"dataset diode", "dataset tum"}
    whole = page.table("scene type", "by", "range", "pixels", "relative error", "signed")
    assert sum(int(row[3].replace(",", "")) for row in by_dataset) == sum(int(row[3].replace(",", "")) for row in whole)


def test_scenes_of_one_name_are_told_apart_by_their_data_set(written, parse_html):
    page = parse_html((written.folder / "report.html").read_text())
    rows = page.table("data set", "scene type", "scene", "images", "abs_rel", "rmse, m", "delta1")
    assert sorted(row[:4] for row in rows) == [
        ["diode", "indoors", "scene_00003", "4"],
        ["tum", "indoors", "scene_00003", "3"],
    ]


def test_the_table_names_each_images_data_set_and_no_file_is_called_by_an_id(written):
    table = pacsv.read_csv(written.folder / "images.csv").to_pylist()
    assert all((row["dataset"] == "tum") == row["sample_id"].startswith("tum/") for row in table)
    assert sorted(path.name for path in written.folder.rglob("*")) == ["images.csv", "report.html"]
