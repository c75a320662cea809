"""What a node is asked, asked of this process; what needs a node of Ray's is in tests/integration/test_submit.py."""

import platform

import pytest
from mlflow.exceptions import MlflowException

from depthflow.cluster.looks import is_there, mlflow_answers, proxies, read_marks, remove_marks, versions


def test_marks_are_read_and_removed(tmp_path):
    location = tmp_path / "shared"
    (location / "marks").mkdir(parents=True)
    (location / "marks" / "a").write_text("a")
    (location / "marks" / "b").write_text("another writer's")
    assert read_marks(str(location), "marks", ["a", "b", "c"]) == ["a"]
    remove_marks(str(location), "marks", False)
    assert list(location.iterdir()) == []
    remove_marks(str(location), "marks", True)
    assert not location.exists()


def test_a_location_that_was_made_stays_once_it_holds_something(tmp_path):
    (tmp_path / "file").touch()
    remove_marks(str(tmp_path), "marks", True)
    assert is_there(str(tmp_path / "file"))
    assert not is_there(str(tmp_path / "no file"))


def test_versions_name_what_runs():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["ray"][0].isdigit() and found["depthflow"].startswith("code ")


def test_proxies_are_read_in_either_case(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("no_proxy", "h")
    assert proxies() == {"https_proxy": "http://p:1", "no_proxy": "h"}


def test_an_mlflow_that_is_away_raises():
    with pytest.raises(MlflowException):
        mlflow_answers("http://127.0.0.1:9")
