"""Which names are Depth Anything's, what they predict, where it runs. The model itself: tests/long/test_champion.py."""

import json
import sys

import pytest

from depthflow.errors import RegistryError
from depthflow.inference import depth_anything


@pytest.fixture
def folder(tmp_path):
    """A folder as transformers leaves one, without its weights."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("depth-anything-v2-small", True),
        ("depth-anything:somewhere", True),
        ("models:/depth-anything@champion", False),
        ("depth-anything", False),
    ],
)
def test_its_names(model, expected):
    assert depth_anything.is_depth_anything(model) is expected


def test_where_its_weights_are(folder, monkeypatch):
    assert depth_anything.location("depth-anything-v2-small") == "depth-anything/Depth-Anything-V2-Small-hf"
    assert depth_anything.location("depth-anything:owner/name") == "owner/name"
    assert depth_anything.location(f"depth-anything:{folder}") == str(folder)
    monkeypatch.chdir(folder.parent)
    assert depth_anything.location(f"depth-anything:{folder.name}") == str(folder)


@pytest.mark.parametrize("place", ["nowhere", "./nowhere", "/no/where", "a/b/c", ""])
def test_a_place_that_is_not_there_is_told(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=r"Pass depth-anything:FOLDER|no config\.json"):
        depth_anything.location(f"depth-anything:{place}")


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(RegistryError, match=r"no config\.json"):
        depth_anything.location(f"depth-anything:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "output"),
    [
        ({}, "relative inverse depth"),
        ({"depth_estimation_type": "relative"}, "relative inverse depth"),
        ({"depth_estimation_type": "metric", "max_depth": 20}, "metres"),
    ],
)
def test_what_it_predicts_is_in_its_config(folder, config, output):
    (folder / "config.json").write_text(json.dumps(config))
    assert depth_anything.output_of(f"depth-anything:{folder}") == output


def test_what_it_predicts_is_in_its_name():
    assert depth_anything.output_of("depth-anything-v2-small") == "relative inverse depth"
    metric = "depth-anything:depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
    assert depth_anything.output_of(metric) == "metres"


def test_it_runs_where_its_packages_are(monkeypatch, tmp_path):
    monkeypatch.setattr(depth_anything, "find_spec", lambda package: None)
    monkeypatch.setenv("DEPTHFLOW_DEPTH_ANYTHING_PYTHON", str(tmp_path / "absent"))
    with pytest.raises(RegistryError, match="make depth-anything"):
        depth_anything.python()
    (tmp_path / "python").touch()
    monkeypatch.setenv("DEPTHFLOW_DEPTH_ANYTHING_PYTHON", str(tmp_path / "python"))
    assert depth_anything.python() == str(tmp_path / "python")
    monkeypatch.setattr(depth_anything, "find_spec", lambda package: object())
    assert depth_anything.python() == sys.executable
