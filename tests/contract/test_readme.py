"""Every command of the README, in its order, in one folder: each does what the README says it prints."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from depthflow.command import last_json_line

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands_and_results() -> list[tuple[str, str]]:
    """Each command line with the JSON line shown under it, or an empty one."""
    found = []
    for block in BLOCKS:
        lines = block.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("python pipelines/"):
                found.append((line, after if after.startswith("{") else ""))
    return found


@pytest.mark.slow
def test_every_command_does_what_the_readme_says(shared_ray, command_server, tmp_path):
    """On a Ray that runs, as on a cluster: that each command starts one of its own is tested elsewhere."""
    ran = commands_and_results()
    assert len(ran) >= 7
    for command, shown in ran:
        _, script, *arguments = shlex.split(command)
        done = command_server.run(Path(script).stem, *arguments, cwd=tmp_path, env=without_mlflow_server())
        result = last_json_line(done.stdout)
        assert done.returncode == 0, f"{command}\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"
        assert result is not None
        for key, value in re.findall(r'"(\w+)": ("[^"/.]+"|\d+|null|\{\}|(?=[\[{"]))', shown):
            assert key in all_keys(result), f"{command} prints no {key}"
            if value and key in result:
                assert result[key] == json.loads(value), f"{command}: {key} is {result[key]}, the README says {value}"


def all_keys(result: dict) -> set[str]:
    """Keys at any depth."""
    inner = [all_keys(value) for value in result.values() if isinstance(value, dict)]
    return set(result).union(*inner)


def test_no_placeholder_is_left():
    assert not re.search(r"@[A-Z]+@", README)


def without_mlflow_server() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_folders_of_the_readme_exist():
    table = README.split("## Where things are")[1]
    folders = re.findall(r"^\| `([a-z/]+)`", table, re.MULTILINE)
    assert len(folders) > 5
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder
