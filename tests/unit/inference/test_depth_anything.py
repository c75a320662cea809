"""Depth Anything as a predictor: its names, the size it looks at, and transformers' own pipeline."""

import numpy as np
import pytest

from depthflow.errors import WeightsError
from depthflow.inference import depth_anything
from depthflow.inference.depth_anything import DepthAnythingPredictor, open_depth_anything
from depthflow.models.transformers_config import network_size
from depthflow.models.transformers_folder import open_transformers
from tests.reference.transformers_outputs import FILE, PHOTOGRAPHS, PIPELINE_MODEL, key
from tests.transformers_models import random_image, write_model


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


def test_where_its_weights_are(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model", "metric")
    assert open_depth_anything(f"depth-anything:{folder}").folder == folder
    monkeypatch.chdir(tmp_path)
    assert open_depth_anything("depth-anything:model").config == open_transformers(str(folder)).config


@pytest.mark.parametrize("place", ["nowhere", "./nowhere", "/no/where", "a/b/c"])
def test_a_place_that_is_not_there_is_told(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=f"There is no folder {place}. Pass one, or OWNER/NAME"):
        open_depth_anything(f"depth-anything:{place}")


def test_another_model_is_told_before_anything_starts(tmp_path):
    with pytest.raises(WeightsError, match="is not a Depth Anything, but of the type dinov2"):
        open_depth_anything(f"depth-anything:{write_model(tmp_path, 'dinov2')}")


@pytest.mark.parametrize(("name", "output"), [("relative", "relative inverse depth"), ("metric", "metres")])
def test_what_it_predicts_is_in_its_config(tmp_path, name, output):
    assert DepthAnythingPredictor(open_transformers(str(write_model(tmp_path, name)))).output == output


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((518, 518), (518, 518)),
        ((480, 640), (518, 686)),  # Neither 1.08 nor 0.81 times: 1.08 is nearer to 1; 690.7 is 49.3 patches.
        ((1920, 1080), (924, 518)),  # 0.48 is nearer to 1 than 0.27; 920.9 is 65.8 patches.
        ((192, 256), (392, 518)),  # 2.02 is nearer to 1 than 2.7; 388.5 is 27.75 patches.
        ((10, 4000), (14, 518)),
    ],
)
def test_the_size_that_the_network_looks_at(tmp_path, image, expected):
    """By hand, after transformers' rule: the scale nearer to 1, then the nearest multiples of 14."""
    folder = open_transformers(str(write_model(tmp_path, "relative")))
    assert network_size(folder, height=image[0], width=image[1]) == expected


def test_it_predicts_as_the_pipeline_of_transformers(tmp_path):
    predictor = DepthAnythingPredictor(open_transformers(str(write_model(tmp_path, PIPELINE_MODEL))))
    for height, width in PHOTOGRAPHS:
        rgb = random_image(height, width)
        found = predictor(np.stack([rgb, rgb[::-1]]))
        assert found.shape == (2, height, width) and found.dtype == np.float32
        step = max(1, height // 45)
        expected = np.load(FILE)[key("pipeline", height, width)]
        np.testing.assert_allclose(found[0, ::step, ::step], expected, rtol=1e-5)
        assert np.ptp(expected) > 1 and not np.allclose(found[1], found[0])
