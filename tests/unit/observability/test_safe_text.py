"""What is shown of text from elsewhere."""

import json
import logging
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.command import run_command
from depthflow.errors import SourceError
from depthflow.observability.logs import LOG_FORMAT, tell
from depthflow.observability.safe_text import escape_controls, without_credentials
from depthflow.synthetic.config import SynthesizeConfig

SECRET = "hunter2"
URI = f"http://mira:{SECRET}@mlflow.example:5000/api"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (URI, "http://***@mlflow.example:5000/api"),
        (f"postgresql://{SECRET}@db/x and s3://key:{SECRET}@bucket", "postgresql://***@db/x and s3://***@bucket"),
        (f"http://mira:p@{SECRET}@host", "http://***@host"),
        (f"http://:{SECRET}@[::1]:80/?q=a@b", "http://***@[::1]:80/?q=a@b"),
        (f'{{"error": "no answer from {URI}"}}', '{"error": "no answer from http://***@mlflow.example:5000/api"}'),
        ("models:/depthflow@champion", "models:/depthflow@champion"),
        ("s3://bucket/mira@home/1.png gs://b?x=@ http://h#@", "s3://bucket/mira@home/1.png gs://b?x=@ http://h#@"),
        ("mail mira@home, see http://host", "mail mira@home, see http://host"),
        ("", ""),
    ],
)
def test_credentials_are_hidden_and_nothing_else(text, expected):
    assert without_credentials(text) == expected


@given(st.text())
def test_hiding_twice_changes_nothing_more(text):
    assert without_credentials(without_credentials(text)) == without_credentials(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mred\x1b[0m.png", r"a\x1b[31mred\x1b[0m.png"),
        ("two\nlines\r\tof\x00text\x7f\x9b", r"two\nlines\r\tof\x00text\x7f\x9b"),
        ("gpj.\u202eexe\u2028", r"gpj.\u202eexe\u2028"),
        ("plain, Grüße 深度 \\n", "plain, Grüße 深度 \\n"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text, expected):
    assert escape_controls(text) == expected


@given(st.text())
def test_what_is_escaped_is_one_line(text):
    assert len(escape_controls(text).splitlines()) <= 1


def test_a_message_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv(LOG_FORMAT, raising=False)
    tell("rejected \x1b]0;title\x07 a\nb.png")
    assert capsys.readouterr().err == "rejected \\x1b]0;title\\x07 a\\nb.png\n"


@pytest.fixture
def own_handlers():
    """Logging as it was, afterwards."""
    root = logging.getLogger()
    before = [*root.handlers]
    yield
    root.handlers[:] = before


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("kind", ["result", "error", "defect", "flag", "print", "log", "warning"])
def test_no_command_shows_a_password(kind, log_format, capsys, monkeypatch):
    def main(config: SynthesizeConfig) -> dict:
        match kind:
            case "error":
                raise SourceError(f"No answer from {config.out}.", details={"uri": config.out})
            case "defect":
                raise KeyError(config.out)
            case "print":
                print(config.out)
                print(config.out, file=sys.stderr)
            case "log":
                logging.getLogger("elsewhere").warning("no answer from %s", config.out)
            case "warning":
                warnings.warn(config.out, stacklevel=1)
        return {"out": config.out, "list": [config.out]}

    monkeypatch.setenv(LOG_FORMAT, log_format)
    monkeypatch.setattr(sys, "argv", ["tiny.py"])
    scans = ["--scans", f"https://mira:{SECRET}@host"] if kind == "flag" else []
    before = sys.stdout, sys.stderr
    run_command(main, "A tiny command.", ["--out", URI, *scans])
    assert (sys.stdout, sys.stderr) == before
    stdout, stderr = capsys.readouterr()
    assert SECRET not in stdout + stderr
    assert "***@" in stdout + stderr or kind == "flag"
    assert json.loads(stdout.splitlines()[-1])["status"] in ("ok", "failed")
