"""A field's docstring becomes the help of its flag, without its line breaks."""

from dataclasses import FrozenInstanceError
from typing import Annotated

import pytest
import tyro

from depthflow.flags import explained, flag_help, flags


@flags
class Base:
    """Shared flags."""

    first: int | None = None
    """How many
    there are. Default: as many as there are."""


@flags
class Example(Base):
    """An example."""

    second: str
    """What it is."""
    third: Annotated[str, flag_help("Its own help.")] = "c"
    """For readers of the code."""
    fourth: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Nothing to check."""


@pytest.fixture
def help_of(monkeypatch, capsys):
    """Returns the --help of a configuration on one line."""

    def said(config):
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit):
            tyro.cli(config, args=["--help"])
        return " ".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())

    return said


def test_it_is_a_frozen_dataclass():
    example = Example(first=1, second="b")
    with pytest.raises(FrozenInstanceError):
        example.second = "c"
    with pytest.raises(TypeError):
        Example(1, "b")


def test_help_is_the_docstring_on_one_line(help_of):
    said = help_of(Example)
    assert "How many there are. Default: as many as there are." in said
    assert "What it is. (required)" in said


def test_help_in_the_annotation_takes_precedence(help_of):
    said = help_of(Example)
    assert "Its own help. (default: c)" in said and "For readers" not in said


def test_a_default_of_none_is_not_shown(help_of):
    assert "default: None" not in help_of(Example)


def test_a_table_explains_its_names(help_of):
    @flags
    class Choice:
        """An option from a table."""

        name: Annotated[str, explained("Which.", {"one": "the only one"})] = "one"

    assert "Which. one: the only one. (default: one)" in help_of(Choice)
