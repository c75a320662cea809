"""The Grafana dashboard shows exactly the gauges that the code sets."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from depthflow.observability.gauges import GAUGES

PATH = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "depthflow.json"


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads(PATH.read_text())


@pytest.fixture(scope="module")
def targets(dashboard) -> list[dict[str, Any]]:
    return [target for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_shows_the_gauges_of_the_code(targets):
    shown = {name for target in targets for name in re.findall(r"\bray_(\w+)\{", target["expr"])}
    assert shown == set(GAUGES)


def test_legends_and_filters_are_tags_of_the_gauges(targets):
    for target in targets:
        for name, labels in re.findall(r"\bray_(\w+)\{([^}]*)\}", target["expr"]):
            wanted = {*re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]), *re.findall(r"(\w+)=~", labels)}
            assert wanted <= set(GAUGES[name].tags), name


def test_the_data_source_is_a_variable(dashboard, targets):
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) >= 9
    assert all(one["datasource"] == wanted for one in [*panels, *targets, variables["run"]])
    assert "__inputs" not in dashboard, "an export from one Grafana, which another cannot provision"


def test_panels_are_complete_and_do_not_overlap(dashboard):
    assert dashboard["schemaVersion"] >= 36 and dashboard["uid"] and dashboard["title"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0, panel["title"]
        assert panel["type"] == "row" or panel["description"], panel["title"]
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])
