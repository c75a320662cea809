"""Probes, run in this process; tests/long/test_submit.py runs them on nodes."""

import platform

import pytest
from mlflow.exceptions import MlflowException

from depthflow.cluster.probes import exists, mlflow_answers, named_nodes, proxies, read_marks, remove_marks, versions


def test_marks_are_read_and_removed(tmp_path):
    location = tmp_path / "shared"
    (location / "marks").mkdir(parents=True)
    (location / "marks" / "a").write_text("a")
    (location / "marks" / "b").write_text("not b")
    assert read_marks(str(location), "marks", {"a": "node a", "b": "node b", "c": "node c"}) == ["node a"]
    remove_marks(str(location), "marks", False)
    assert list(location.iterdir()) == []
    remove_marks(str(location), "marks", True)
    assert not location.exists()


def test_a_created_location_stays_if_it_is_not_empty(tmp_path):
    (tmp_path / "file").touch()
    remove_marks(str(tmp_path), "marks", True)
    assert exists(str(tmp_path / "file"))
    assert not exists(str(tmp_path / "no file"))


def test_versions_name_packages_and_code():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["ray"][0].isdigit() and found["depthflow"].startswith("code ")


def test_proxies_are_read_in_both_cases(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("no_proxy", "h")
    assert proxies() == {"https_proxy": "http://p:1", "no_proxy": "h"}


def test_an_unreachable_mlflow_raises():
    with pytest.raises(MlflowException):
        mlflow_answers("http://127.0.0.1:9")


def test_node_names_are_unique():
    nodes = [
        {"NodeID": "aaaaaaaa", "NodeManagerAddress": "10.0.0.1", "Resources": {"GPU": 2.0}},
        {"NodeID": "bbbbbbbb", "NodeManagerAddress": "10.0.0.2", "Resources": {}},
        {"NodeID": "cccccccc", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1}},
    ]
    found = named_nodes(nodes)
    assert [n.name for n in found] == ["10.0.0.1/aaaaaa", "10.0.0.2", "10.0.0.1/cccccc"]
    assert [n.gpus for n in found] == [2, 0, 0]
    assert [n.cpus for n in found] == [0, 0, 1]
