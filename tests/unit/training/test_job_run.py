"""What a version says about where it comes from."""

from types import SimpleNamespace
from typing import Any, cast

from depthflow.recipes import RECIPES
from depthflow.store.store import SampleStore
from depthflow.training.job_run import describe
from depthflow.training.trainer import TrainingOutcome


def test_the_description_is_a_table_of_the_groups_that_were_validated():
    groups = ("", "indoors/", "dataset tum/")
    metrics = {f"val/{group}{name}": 0.123456 for group in groups for name in ("abs_rel", "rmse", "delta1")}
    outcome = TrainingOutcome(network=cast(Any, None), metrics=metrics, epoch=3, checkpoint="")
    store = SimpleNamespace(files=SimpleNamespace(root="s3://mira:hunter2@bucket/store"), fingerprint="f00")
    text = describe(outcome, RECIPES["smoke"](), store=cast(SampleStore, store))
    assert text.splitlines()[:5] == [
        "| val | abs_rel | rmse | delta1 |",
        "| --- | --- | --- | --- |",
        "| all | 0.1235 | 0.1235 | 0.1235 |",
        "| indoors | 0.1235 | 0.1235 | 0.1235 |",
        "| dataset tum | 0.1235 | 0.1235 | 0.1235 |",
    ]
    assert "Recipe smoke, epoch 3 of " in text and "trained on s3://***@bucket/store (fingerprint f00)" in text
