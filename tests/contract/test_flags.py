"""Compares each command's flags with a committed list, so that review sees added, removed and renamed flags.

Write the list again with: python tests/contract/test_flags.py
"""

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("flags.txt")
COMMANDS = {path.stem: [path.stem] for path in sorted((ROOT / "pipelines").glob("*.py"))}
COMMANDS["train"] = ["train", "tutorial"]  # Every recipe has the same flags.

LIGHT = {
    "PIL",
    "cloudpickle",
    "cv2",
    "depthflow",
    "docstring_parser",
    "numpy",
    "pyarrow",
    "tyro",
    "typeguard",
    "typing_extensions",
}
"""Installed packages that --help may import: all of them together take less than a second."""


@pytest.fixture(scope="module")
def helps(command_server):
    """Output of --help by command."""
    done = {
        command: command_server.run(*words, "--help", cwd=ROOT, env={**os.environ, "COLUMNS": "80"})
        for command, words in COMMANDS.items()
    }
    assert {command: run.returncode for command, run in done.items()} == dict.fromkeys(COMMANDS, 0)
    return {command: run.stdout for command, run in done.items()}


def flags_of(text: str) -> list[str]:
    found = re.findall(r"^[│ ]+(--[a-z0-9-]+(?:(?: STR)?, --[a-z0-9-]+)*)", text, re.MULTILINE)
    return sorted({flag for line in found for flag in re.findall(r"--[a-z0-9-]+", line)})


def listed() -> dict[str, list[str]]:
    lines = [line.split(": ") for line in LIST.read_text().splitlines()]
    return {command: flags.split() for command, flags in lines}


def test_every_command_is_listed():
    assert sorted(listed()) == sorted(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_flags_are_those_listed(helps, command):
    assert flags_of(helps[command]) == listed()[command]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_fits_eighty_columns_and_explains_every_flag(helps, command):
    text = helps[command]
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"--[a-z-]+ [A-Z|{}\[\]a-z0-9 ]+ +\(default", text), "a flag without help"


def test_help_describes_a_command_once(helps):
    """A rule closes the description of a group of flags: only train.py has groups, the job's and the recipe's."""
    assert {command for command, text in helps.items() if "│ ───" in text} <= {"train"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_imports_nothing_that_takes_seconds(command):
    """Reads the interpreter's own list of imports, so that a slow machine cannot fail it."""
    words = COMMANDS[command]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", f"pipelines/{words[0]}.py", *words[1:], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    imported = {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)}
    installed = {name for name in packages_distributions() if not name.startswith("_")}
    assert {"depthflow", "tyro"} <= imported
    assert imported & installed <= LIGHT


def help_of(words: list[str]) -> str:
    return subprocess.run(
        [sys.executable, f"pipelines/{words[0]}.py", *words[1:], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "80"},
    ).stdout


if __name__ == "__main__":
    lines = [f"{command}: {' '.join(flags_of(help_of(words)))}\n" for command, words in COMMANDS.items()]
    LIST.write_text("".join(lines))
