"""CONTRIBUTING.md names the file of six things: each is in that file, and in no other of the library."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()

# What a reader looks for, and code that only its file contains.
SOUGHT = {
    "a reject reason": "CHECKS: dict[",
    "a new encoder": "applications.ResNet50,",
    "a new decoder": '"fcrn": fcrn',
    "the all-reduce": ".all_reduce(tf.distribute.ReduceOp",
    "the commit of a shard": ".commit(plan.path)",
    "the text of the promotion's refusal": "not lower by the margin",
    "a new data set layout": "LAYOUTS: dict[str, Layout]",
}


def answers() -> dict[str, str]:
    part = GUIDE.split("Where would you look for it?")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", part, re.MULTILINE)[1:])


def test_every_question_has_an_answer():
    assert [what for what in answers() if not what.startswith("-")] == list(SOUGHT)


@pytest.mark.parametrize(("what", "code"), SOUGHT.items())
def test_the_answer_names_the_file_of_the_code(what, code):
    holders = [str(path.relative_to(ROOT)) for path in (ROOT / "depthflow").rglob("*.py") if code in path.read_text()]
    assert len(holders) == 1, holders
    place = re.findall(r"`([^`]+)`", answers()[what])[0]
    assert holders[0] == place or (place.endswith("/") and holders[0].startswith(place))
