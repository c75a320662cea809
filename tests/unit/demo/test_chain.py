"""The commands that the demo runs are shown before they run."""

import pytest

from depthflow.demo.chain import _run
from depthflow.errors import DepthflowError
from tests.commands import ROOT


def test_a_command_is_shown_on_one_line(tmp_path, capsys):
    source = "/nowhere/\x1b[31m\nred"
    with pytest.raises(DepthflowError):
        _run(ROOT / "pipelines", "preprocess", "--source", source, "--out", str(tmp_path / "out"), "--dry-run")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith(r"$ python pipelines/preprocess.py --source '/nowhere/\x1b[31m\nred' --out ")
