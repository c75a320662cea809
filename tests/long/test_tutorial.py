"""Runs every command of docs/tutorial.md verbatim and in order, and compares its result with the page. The
commands of docs/how-to/own-data.md run likewise, DIR and OTHER being real frames of 7-Scenes and of Redwood.

Commands that need something a laptop may lack are parsed in tests/contract/test_pages.py. The Python programs of the
other pages run in the tutorial's folder too, since they read its files.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from depthflow.command import last_json_line
from tests.layout_trees import real
from tests.pages import PAGES, ROOT, Block, blocks_of

TUTORIAL = ROOT / "docs" / "tutorial.md"
OWN_DATA = ROOT / "docs" / "how-to" / "own-data.md"


def steps() -> list[tuple[Block, str]]:
    """Returns each block that runs anywhere, with the output that the page shows below it."""
    blocks = blocks_of(TUTORIAL)
    return [
        (block, after.text if after is not None and after.language == "text" else "")
        for block, after in zip(blocks, [*blocks[1:], None], strict=True)
        if block.language in ("sh", "python") and block.needs is None
    ]


def test_the_tutorial_does_what_it_says(shared_ray, command_server, tmp_path):
    """Uses a running Ray, as on a cluster; other tests let each command start its own."""
    ran = []
    for block, shown in steps():
        if block.language == "python":
            run_program(block, tmp_path)
            continue
        for line in block.lines:
            if line.startswith("python pipelines/"):
                ran.append(line)
                assert shown or line != block.lines[-1], f"{block.where}: the page does not show what it prints"
                run_command(block, line, shown if line == block.lines[-1] else "", command_server, tmp_path)
            else:
                done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
                assert done.stdout == shown, f"{block.where}: {line}"
    assert len(ran) >= 9
    pages = [blocks_of(page) for page in PAGES if page != TUTORIAL]
    others = [block for page in pages for block in page if block.language == "python" and block.needs is None]
    assert len(others) >= 4
    for block in others:
        run_program(block, tmp_path)
    depths_m = [np.load(path) for path in (tmp_path / "tutorial-out" / "depth").glob("*.depth.npy")]
    assert [depth_m.shape for depth_m in depths_m] == [(96, 128)] * 32
    for report in ("samples", "evaluation"):
        assert (tmp_path / "tutorial-out" / report / "report.html").is_file()


def test_own_data_ends_in_a_promoted_model(shared_ray, command_server, tmp_path, shared):
    for name, layout in (("DIR", "seven_scenes"), ("OTHER", "redwood")):
        (tmp_path / name).symlink_to(real(shared, layout), target_is_directory=True)
    blocks = [block for block in blocks_of(OWN_DATA) if block.language == "sh" and block.needs is None]
    results = [run_command(block, line, "", command_server, tmp_path) for block in blocks for line in block.lines]
    trained = [result["model_uri"] for result in results if "model_uri" in result]
    assert trained == ["models:/depthflow/1", "models:/depthflow/2"]
    assert [result["decision"] for result in results if "decision" in result] == ["promoted"]
    stores = [result for result in results if "fingerprint" in result and "shards" in result]
    assert [store["samples"] + store["rejects"] for store in stores] == [200, 40, 205]
    assert {reason for store in stores for reason in store["rejects_by_reason"]} == {"split_gap"}
    assert [np.load(path).shape for path in sorted((tmp_path / "own-depth").glob("*.npy"))] == [(480, 640)]


def run_command(block: Block, line: str, shown: str, command_server, folder: Path) -> dict[str, Any]:
    """Runs a command, which must succeed and print what the page shows; returns its result."""
    assert not set(line) & set("$*?|<>`;&"), f"{block.where}: this needs a shell: {line}"
    _, script, *arguments = shlex.split(line)
    done = command_server.run(Path(script).stem, *arguments, cwd=folder, env=without_mlflow_server())
    result = last_json_line(done.stdout)
    assert done.returncode == 0, f"{block.where}: {line}\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    assert result is not None
    for key, value in re.findall(r'"([\w/]+)": ("[^"/.]+"|\d+(?![.\d])|null|\{\}|(?=[\[{"\d]))', shown):
        assert key in all_keys(result), f"{line} prints no {key}"
        if value and key in result:
            assert result[key] == json.loads(value), f"{line}: {key} is {result[key]}, the page says {value}"
    return result


def run_program(block: Block, folder: Path) -> None:
    """Runs a Python program of a page, which must succeed and print something."""
    program = [sys.executable, "-W", "error::SyntaxWarning", "-c", block.text]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=without_mlflow_server(), timeout=300)
    assert done.returncode == 0, f"{block.where}\n{done.stderr[-3000:]}"
    assert done.stdout, block.where


def all_keys(result: dict) -> set[str]:
    """Returns the keys at any depth."""
    inner = [all_keys(value) for value in result.values() if isinstance(value, dict)]
    return set(result).union(*inner)


def without_mlflow_server() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
