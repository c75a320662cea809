"""What a run records of the weights that it starts from."""

from dataclasses import replace
from hashlib import sha256

import pytest

from depthflow.errors import WeightsError
from depthflow.recipes import smoke
from depthflow.training.pretrained import licence_tags, open_pretrained, weights_tags
from tests.transformers_models import write_model

VIT = replace(smoke(), encoder="dinov2_tiny", height=70, width=70)


@pytest.mark.parametrize("recipe", [smoke(), VIT, replace(smoke(), encoder="resnet50", weights="imagenet")])
def test_without_a_file_there_is_nothing_to_record(recipe):
    assert open_pretrained(recipe) is None
    assert weights_tags(recipe) == licence_tags(recipe) == {}


def test_a_files_checksum(tmp_path):
    (tmp_path / "w.weights.h5").write_bytes(b"weights")
    recipe = replace(smoke(), weights=str(tmp_path / "w.weights.h5"))
    assert weights_tags(recipe) == {"weights.sha256": sha256(b"weights").hexdigest()}


def test_a_transformers_checksum(tmp_path):
    recipe = replace(VIT, weights=str(write_model(tmp_path, "tiny")))
    assert weights_tags(recipe) == {"weights.sha256": sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()}
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="is damaged"):
        open_pretrained(recipe)


def test_a_known_licence():
    recipe = replace(VIT, weights="depth-anything/Depth-Anything-V2-Large-hf")
    assert licence_tags(recipe) == {"weights.licence": "CC-BY-NC-4.0: no commercial use"}
