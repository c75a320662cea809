"""Gauges: what is set, how often, and that they never stand in a job's way. No Ray runs here."""

import json
import subprocess
import sys
import time

import pytest

from depthflow.observability.gauges import GAUGES, Gauges, Rate, StageGauges


@pytest.fixture
def settings(monkeypatch):
    """What would go to Ray: (values, tags) of each setting, whose names are looked up as always."""
    made = []

    def note(self, values):
        assert values.keys() <= GAUGES.keys()
        made.append(dict(values))

    monkeypatch.setattr(Gauges, "set", note)
    return made


def test_names_are_prometheus_names():
    for name, kind in GAUGES.items():
        assert name.startswith("depthflow_") and name.isidentifier() and name == name.lower()
        assert kind.description.endswith(".") and kind.tags[0] == "run"


def test_a_stage_is_shown_once_a_while_and_at_its_end(settings):
    gauges = StageGauges("shards", total=100, every_s=1000.0)
    for done in range(1, 101):
        gauges(done, rejects=done // 50)
    first, last = settings
    assert (first["depthflow_samples_done"], first["depthflow_rejects"]) == (1, 0)
    assert (last["depthflow_samples_done"], last["depthflow_rejects"]) == (100, 2)
    assert last["depthflow_samples_total"] == 100 and last["depthflow_samples_per_s"] > 0


def test_what_was_done_before_is_no_merit(settings):
    gauges = StageGauges("prediction", total=1000, done_before=900, every_s=0.0)
    time.sleep(0.05)
    gauges(901, rejects=0)
    assert 0 < settings[0]["depthflow_samples_per_s"] <= 1 / 0.05


def test_work_begun_anew_has_no_negative_rate():
    rate = Rate(10)
    assert rate.at(4) == 0.0
    time.sleep(0.01)
    assert 0 < rate.at(5) <= 1 / 0.01


def test_an_unknown_gauge_is_a_defect():
    with pytest.raises(KeyError, match="depthflow_sampels"):
        Gauges({"run": "r"}).set({"depthflow_sampels": 1})


def test_ray_may_refuse_and_the_job_goes_on(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("no such tag")

    monkeypatch.setattr("ray.util.metrics.Gauge", refuse)
    gauges = Gauges({"run": "r", "stage": "shards"})
    gauges.set({"depthflow_rejects": 1})
    gauges.set({"depthflow_rejects": 2})


def test_without_a_running_ray_there_is_no_job_and_no_error():
    # In a process of its own: other tests of this one may share a Ray.
    script = """
from depthflow.observability.gauges import StageGauges, ray_job
StageGauges("evaluation", total=2)(2, rejects=0)
print(repr(ray_job()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "''\n"


def test_importing_it_does_not_import_ray():
    script = "import sys, json, depthflow.observability.gauges; print(json.dumps('ray' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) is False
