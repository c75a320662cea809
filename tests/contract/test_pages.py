"""Every command on every page is run by the tutorial's test or parsed by the command's dataclasses.

tests/long/test_tutorial.py runs docs/tutorial.md and the Python programs of the other pages.
"""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from depthflow.command import parse_command
from depthflow.datasets.camera import parse_camera
from tests.pages import PAGES, ROOT, Block, blocks_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
LINES = [(block, line) for block in SHELL for line in block.lines]
SCRIPTS = [(block, line) for block, line in LINES if re.search(r"\b(pipelines|benchmarks)/\w+\.py", line)]
COMMANDS = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))
NEEDS = {
    "AWS",
    "Kubernetes",
    "a network",
    "a GPU cluster",
    "a network, for the weights",
    "another terminal",
    "minutes of a quiet machine",
    "real photos",
    "stereo pairs",
    "the DIODE archives",
    "your photos",
    "your video",
}
"""What a block of commands may need."""
OTHERS_FLAGS = {"--allowed-hosts", "--directory", "--help"}
"""Flags in running text that are not flags of depthflow."""


def named(found: list[tuple[Block, str]]) -> list[object]:
    return [pytest.param(line, id=f"{block.where} {line.strip()[:60]}") for block, line in found]


def test_pages_are_found():
    assert len(PAGES) > 20
    assert len(SCRIPTS) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_has_a_language_and_names_its_needs(page):
    blocks = blocks_of(page)
    fences = re.findall(r"^ *(?:```|~~~)", page.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks), "a fence is indented or not closed"
    for block in blocks:
        assert block.language in ("sh", "python", "text", "json"), block.where
        title = f' title="needs {block.needs}"' if block.needs and block.language in ("sh", "python") else ""
        assert block.info == block.language + title, block.where
        assert block.needs is None or block.needs in NEEDS, block.where
        if block.language != "sh":
            commands = re.search(r"^\$ |^(python|make|mlflow|ray|aws|kubectl|pip|uv) ", block.text, re.MULTILINE)
            assert not commands, f"{block.where}: commands belong in a block of sh"


@pytest.mark.parametrize("line", named(SCRIPTS))
def test_scripts_accept_their_flags(line, monkeypatch):
    words = shlex.split(line, comments=True)
    at = next(k for k, word in enumerate(words) if re.fullmatch(r"(pipelines|benchmarks)/\w+\.py", word))
    script, arguments = ROOT / words[at], words[at + 1 :]
    if script.stem == "submit" and "--" not in arguments:
        at = next(k for k, word in enumerate(arguments) if word in COMMANDS)
        own, (name, *its) = arguments[:at], arguments[at:]
        parse_command(script, [*own, "--", name, *its])
        parse_command(ROOT / "pipelines" / f"{name}.py", its)
    elif script.parent.name == "pipelines":
        parse_command(script, arguments)
    else:
        monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
        tyro.cli(runpy.run_path(str(script), run_name=script.stem)["Benchmark"], args=arguments)


@pytest.mark.parametrize("flag", ["--no-such-flag", "--num-workers none"])
def test_a_wrong_flag_is_detected(flag):
    with pytest.raises(SystemExit):
        parse_command(ROOT / "pipelines" / "promote.py", ["--samples", "STORE", *flag.split()])


def test_other_commands_are_in_the_tutorial_or_name_their_needs():
    makefile = (ROOT / "Makefile").read_text()
    for block, line in LINES:
        if (target := re.match(r"make ([a-z-]+)", line)) is not None:
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), f"{block.where}: {line}"
        elif block.needs is None and block.page != "docs/tutorial.md":
            assert re.match(r"python (pipelines|benchmarks)/\w+\.py ", line), f"{block.where}: {line}"


def test_flags_in_running_text_are_flags():
    listed = Path(__file__).with_name("flags.txt").read_text()
    known = {*re.findall(r"--[a-z0-9-]+", listed), *OTHERS_FLAGS}
    for page in PAGES:
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text()):
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)) <= known, f"{page.name}: {code}"


def test_json_is_accepted_by_the_code():
    cameras = [block for block in BLOCKS if block.language == "json"]
    assert [block.page for block in cameras] == ["docs/how-to/own-data.md"]
    assert parse_camera(cameras[0].text.encode(), where="docs").width == json.loads(cameras[0].text)["width"]


def test_folders_of_the_reference_exist():
    table = (ROOT / "docs" / "reference" / "index.md").read_text().split("## Where things are")[1]
    folders = re.findall(r"^\| `([a-z/]+)`", table, re.MULTILINE)
    assert len(folders) > 5
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder


def test_no_placeholder_remains():
    for page in PAGES:
        assert not re.search(r"@[A-Z]+@", page.read_text()), page


def test_files_that_pages_name_exist():
    file = re.compile(r"(?<![~/\w])(?:tests|benchmarks|deploy|pipelines|depthflow)/[a-z_/]+\.(?:py|sh|yaml|json)")
    found = {(page.name, name) for page in PAGES for name in file.findall(page.read_text())}
    assert len(found) > 20
    assert [(page, name) for page, name in found if not (ROOT / name).is_file()] == []
