"""Records on stderr: one JSON object a line where the environment asks for them; lines as ever where it does not."""

import json
import logging
import math
import os
import subprocess
import sys

import pytest

from depthflow.errors import DepthflowError, SourceError
from depthflow.observability.logs import (
    LOG_FORMAT,
    JsonFormatter,
    configure_logging,
    fields,
    has_run,
    tell,
)
from depthflow.observability.progress import ProgressLine


@pytest.fixture
def logging_restored():
    """What a test configures is undone."""
    root, ours, rays = logging.getLogger(), logging.getLogger("depthflow"), logging.getLogger("ray")
    before = root.handlers[:], ours.level, rays.handlers[:], rays.propagate
    yield
    root.handlers[:], ours.level, rays.handlers[:], rays.propagate = before
    ours.setLevel(before[1])


@pytest.fixture
def as_json(monkeypatch, logging_restored):
    monkeypatch.setenv(LOG_FORMAT, "json")


@pytest.fixture
def records(capsys):
    """The records written to stderr so far; every line must be one."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def format_of(message, /, *args, run_id=None, level=logging.INFO, **values):
    record = logging.LogRecord("depthflow.x", level, __file__, 1, message, args, None)
    vars(record).update(fields(**values))
    return json.loads(JsonFormatter(run_id).format(record))


def test_a_record_has_all_that_is_known():
    line = format_of("refused: %s", "it is empty", run_id="r1", sample_id="00000_00000", reason="empty_file")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "depthflow.x",
        "message": "refused: it is empty",
        "run_id": "r1",
        "sample_id": "00000_00000",
        "reason": "empty_file",
    }


def test_fields_do_not_displace_the_record():
    line = format_of("said", message="other", time="never", run_id="r1")
    assert (line["message"], line["run_id"]) == ("said", "r1") and line["time"] != "never"


def test_a_message_of_many_lines_is_one_line():
    assert "\n" not in JsonFormatter().format(logging.LogRecord("x", 20, "", 1, "a\nb", (), None))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null(value):
    assert format_of("loss", loss=value)["loss"] is None


def test_an_error_has_its_traceback(as_json, records):
    configure_logging()
    try:
        raise SourceError("no source")
    except SourceError:
        logging.getLogger("depthflow.store").exception("it ended")
    [line] = records()
    assert line["level"] == "ERROR" and "SourceError: no source" in line["traceback"]


def test_the_run_is_kept_until_another_is_named(as_json, records):
    configure_logging()
    assert not has_run()
    tell("before")
    configure_logging("r1")
    assert has_run()
    configure_logging()
    tell("in it", {"sample_id": "s"}, logger="depthflow.x", level=logging.WARNING)
    configure_logging("r2")
    tell("in another")
    first, second, third = records()
    assert "run_id" not in first
    assert (second["run_id"], second["sample_id"], second["level"]) == ("r1", "s", "WARNING")
    assert third["run_id"] == "r2"


def test_progress_is_a_record(as_json, records):
    configure_logging("r1")
    ProgressLine("inputs")(40, 40)
    [line] = records()
    assert line["message"].startswith("inputs: 40/40, ")
    assert (line["stage"], line["done"], line["total"], line["run_id"]) == ("inputs", 40, 40, "r1")


def test_text_is_as_ever_and_configures_nothing(monkeypatch, capsys, logging_restored):
    monkeypatch.delenv(LOG_FORMAT, raising=False)
    before = logging.getLogger().handlers[:], logging.getLogger("depthflow").level
    configure_logging("r1")
    tell("said", {"sample_id": "s"})
    logging.getLogger("depthflow.store.write.preprocess").info("not for people")
    assert (logging.getLogger().handlers, logging.getLogger("depthflow").level) == before
    assert capsys.readouterr().err == "said\n"


def test_an_unknown_format_is_refused(monkeypatch):
    monkeypatch.setenv(LOG_FORMAT, "yaml")
    with pytest.raises(DepthflowError, match=r"text or json. Received: yaml"):
        configure_logging()


@pytest.mark.parametrize("outcome", ["refused", "defect"])
def test_a_commands_stderr_is_records_alone(tmp_path, outcome):
    """A whole process; its result is the last line of stdout still."""
    script = tmp_path / "tiny.py"
    script.write_text(
        "import sys\n"
        "from depthflow.command import run_command\n"
        "from depthflow.errors import StoreError\n"
        "def main():\n"
        f"    if {outcome == 'refused'}:\n"
        "        raise StoreError('It is full.\\nReally.', details={'sample_id': ['a', 'b']})\n"
        "    return {}['x']\n"
        "sys.exit(run_command(main, 'Tiny.'))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, LOG_FORMAT: "json"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "ERROR"
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "failed"
    if outcome == "refused":
        assert line["message"] == "error: It is full.\nReally." and line["sample_id"] == ["a", "b"]
    else:
        assert line["message"] == "KeyError: 'x'" and "Traceback" in line["traceback"]
