"""The source that the demo takes, and the commands that it runs, which are shown before they run."""

import pytest

from depthflow.demo.chain import _run, list_source
from depthflow.errors import DepthflowError
from tests.commands import ROOT


def test_a_command_is_shown_on_one_line(tmp_path, capsys):
    source = "/nowhere/\x1b[31m\nred"
    with pytest.raises(DepthflowError):
        _run(ROOT / "pipelines", "preprocess", "--source", source, "--out", str(tmp_path / "out"), "--dry-run")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith(r"$ python pipelines/preprocess.py --source '/nowhere/\x1b[31m\nred' --out ")


def test_a_source_is_listed_by_its_whole_path(tmp_path, write_triplet, monkeypatch):
    write_triplet(tmp_path / "tree")
    monkeypatch.chdir(tmp_path)
    source = list_source("tree", tmp_path / "out")
    assert (source.location, source.layout, source.frames.num_rows) == (str(tmp_path / "tree"), "diode", 1)


def test_a_source_that_the_demo_cannot_take(tmp_path, write_triplet):
    write_triplet(tmp_path / "out" / "tree")
    with pytest.raises(DepthflowError, match="lies in the demo's own folder"):
        list_source(str(tmp_path / "out" / "tree"), tmp_path / "out")
    for source in ("s3://bucket/tree", "val.tar.gz"):
        with pytest.raises(DepthflowError, match=f"needs a folder on a disk. Received: {source}"):
            list_source(source, tmp_path / "out")
