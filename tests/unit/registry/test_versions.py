"""What a model URI names, on a registry of this test's own. Packaging is tested with whole commands."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from depthflow.errors import RegistryError
from depthflow.registry.versions import (
    BASELINE_TAG,
    CHAMPION,
    ModelVersion,
    ResolvedModel,
    resolve_model,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Absolute URI of a registry with the model depthflow: versions 1 and 2, of which 1 is champion."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri, uri)
    client.create_registered_model("depthflow")
    for version in ("1", "2"):
        client.create_model_version("depthflow", source=f"{folder}/absent", tags={BASELINE_TAG: f"{version}.5"})
    client.set_registered_model_alias("depthflow", CHAMPION, "1")
    return uri


@pytest.fixture(autouse=True)
def environment(registry, tmp_path, monkeypatch):
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry)
    monkeypatch.chdir(tmp_path)
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def test_alias_is_pinned_to_its_version(registry):
    model = resolve_model("models:/depthflow@champion")
    assert model.uri == "models:/depthflow/1"
    assert model.version == ModelVersion(name="depthflow", version="1")
    assert model.tracking_uri == registry
    assert model.baseline_depth_m == 1.5


def test_name_with_quotes_and_spaces(registry, tmp_path):
    name = """it's "my" model"""
    client = MlflowClient(registry, registry)
    client.create_registered_model(name)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "MLmodel").write_text("flavors: {}\n")
    client.create_model_version(name, source=str(tmp_path / "packed"))
    client.set_registered_model_alias(name, CHAMPION, "1")
    model = resolve_model(f"models:/{name}@champion")
    assert model.uri == f"models:/{name}/1"
    assert [path.name for path in Path(model.download()).iterdir()][:1] == ["MLmodel"]


def test_version_by_number():
    model = resolve_model("models:/depthflow/2")
    assert (model.uri, model.baseline_depth_m) == ("models:/depthflow/2", 2.5)


@pytest.mark.parametrize(
    "uri",
    [
        "models:/depthflow@nobody",
        "models:/depthflow/3",
        "models:/nothing@champion",
        "models:/nothing/1",
    ],
)
def test_what_is_not_there_is_named(registry, uri):
    with pytest.raises(RegistryError) as caught:
        resolve_model(uri)
    message = str(caught.value)
    assert message.startswith(f"There is no model {uri} at {registry}: ")
    assert "MLFLOW_TRACKING_URI" in message


@pytest.mark.parametrize(
    "uri",
    ["models:/depthflow", "models:/depthflow@", "models:/depthflow/latest", "models:/depthflow/Production", "models:/"],
)
def test_what_is_no_model_uri_is_refused(uri):
    with pytest.raises(RegistryError) as caught:
        resolve_model(uri)
    assert str(caught.value) == f"{uri} is not a model URI. Pass models:/NAME@ALIAS or models:/NAME/VERSION."


@pytest.mark.parametrize("uri", ["runs:/0123/model", "s3://bucket/model", "file:///some/model"])
def test_other_uris_are_left_to_mlflow(registry, uri):
    assert resolve_model(uri) == ResolvedModel(uri=uri, tracking_uri=registry, version=None, tags={})


def test_folder_is_made_absolute_and_its_baseline_is_unknown(tmp_path):
    (tmp_path / "packed").mkdir()
    model = resolve_model("packed")
    assert model.uri == str(tmp_path / "packed")
    assert model.baseline_depth_m is None


def test_folder_that_is_not_there_is_refused():
    with pytest.raises(RegistryError, match="no folder packed"):
        resolve_model("packed")


@pytest.mark.parametrize("uri", ["runs:/0123456789abcdef0123456789abcdef/model", "models:/depthflow/2"])
def test_download_of_what_is_not_there_names_it(registry, uri):
    model = resolve_model(uri)
    with pytest.raises(RegistryError) as caught:
        model.download()
    assert f"There is no model {model.uri} at {registry}" in str(caught.value)


def test_download_of_a_folder_is_the_folder(registry, tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "MLmodel").write_text("flavors: {}\n")
    folder = resolve_model(str(tmp_path / "packed")).download()
    assert [path.name for path in Path(folder).iterdir()] == ["MLmodel"]


def test_uri_of_a_version():
    assert ModelVersion(name="depthflow", version="12").uri == "models:/depthflow/12"
