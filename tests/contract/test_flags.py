"""Each command's flags against a committed list: a flag that appears, goes or changes its name is seen in review.

Write the list anew with: python tests/contract/test_flags.py
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("flags.txt")
COMMANDS = {path.stem: [path.stem] for path in sorted((ROOT / "pipelines").glob("*.py"))}
COMMANDS["train"] = ["train", "tutorial"]  # Every recipe has the same flags.


def help_of(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, f"pipelines/{words[0]}.py", *words[1:], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "80"},
    )
    return done.stdout


def flags_of(words: list[str]) -> list[str]:
    found = re.findall(r"^[│ ]+(--[a-z0-9-]+(?:, --[a-z0-9-]+)*)", help_of(words), re.MULTILINE)
    return sorted({flag for line in found for flag in line.split(", ")})


def listed() -> dict[str, list[str]]:
    lines = [line.split(": ") for line in LIST.read_text().splitlines()]
    return {command: flags.split() for command, flags in lines}


def test_every_command_is_listed():
    assert sorted(listed()) == sorted(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_flags_are_those_listed(command):
    assert flags_of(COMMANDS[command]) == listed()[command]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_fits_eighty_columns_and_explains_every_flag(command):
    text = help_of(COMMANDS[command])
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"--[a-z-]+ [A-Z|{}\[\]a-z0-9 ]+ +\(default", text), "a flag without help"


if __name__ == "__main__":
    LIST.write_text("".join(f"{command}: {' '.join(flags_of(words))}\n" for command, words in COMMANDS.items()))
