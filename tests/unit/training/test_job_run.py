"""What a version says about where it comes from."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from depthflow.recipes import RECIPES
from depthflow.registry.versions import BASELINE_TAG
from depthflow.store.store import SampleStore
from depthflow.training.job_run import baseline_tags, describe
from depthflow.training.trainer import TrainingOutcome
from tests.stores import write_index


def text_of(metrics: dict[str, float], recipe: str = "smoke") -> str:
    """The description of a version with these metrics."""
    outcome = TrainingOutcome(network=cast(Any, None), metrics=metrics, epoch=3, checkpoint="")
    store = SimpleNamespace(files=SimpleNamespace(root="s3://mira:hunter2@bucket/store"), fingerprint="f00")
    return describe(outcome, RECIPES[recipe](), store=cast(SampleStore, store))


def test_a_version_of_unknown_scale_says_so():
    metrics = {"val/abs_rel": 0.1, "val/rmse": 1.0, "val/delta1": 0.9, "val/photometric": 0.08}
    text = text_of(metrics, recipe="video")
    assert "It predicts relative depth: metres up to one unknown factor. Evaluate it under the protocol median." in text
    assert "| all | 0.1 | 1 | 0.9 | 0.08 |" in text
    assert "relative depth" not in text_of(metrics)


def test_without_depth_to_validate_on_the_table_has_the_photometric_error():
    text = text_of({"val/photometric": 0.08, "val/indoors/photometric": 0.09, "train/loss": 0.2})
    assert text.splitlines()[:4] == ["| val | photometric |", "| --- | --- |", "| all | 0.08 |", "| indoors | 0.09 |"]


def store_of(root, *fractions: float) -> SampleStore:
    """Training samples with these fractions of valid pixels, at 2 m."""
    rows = [
        {"sample_id": f"id{k}", "split": "train", "scene_type": "indoors", "valid_fraction": fraction}
        | ({"log_depth_mean": math.log(2.0)} if fraction else {})
        for k, fraction in enumerate(fractions)
    ]
    return write_index(root, rows, height=4, width=6)


def test_the_mean_depth_is_tagged_where_there_is_depth_to_predict(tmp_path):
    assert float(baseline_tags(store_of(tmp_path, 0.5, 0.5), "metres")[BASELINE_TAG]) == pytest.approx(2.0)
    assert baseline_tags(store_of(tmp_path, 0.5, 0.5), "relative depth") == {}
    assert baseline_tags(store_of(tmp_path / "b", 0.0, 0.0), "metres") == {}


def test_the_description_is_a_table_of_the_groups_that_were_validated():
    groups = ("", "indoors/", "dataset tum/")
    metrics = {f"val/{group}{name}": 0.123456 for group in groups for name in ("abs_rel", "rmse", "delta1")}
    text = text_of(metrics)
    assert text.splitlines()[:5] == [
        "| val | abs_rel | rmse | delta1 |",
        "| --- | --- | --- | --- |",
        "| all | 0.1235 | 0.1235 | 0.1235 |",
        "| indoors | 0.1235 | 0.1235 | 0.1235 |",
        "| dataset tum | 0.1235 | 0.1235 | 0.1235 |",
    ]
    assert "Recipe smoke, epoch 3 of " in text and "trained on s3://***@bucket/store (fingerprint f00)" in text
