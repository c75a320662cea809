"""Running a command: flags in, one JSON line out, and the exit code."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from depthflow.command import (
    EXIT_REJECTS,
    Interrupted,
    last_json_line,
    parse_command,
    preserve_signal_handlers,
    run_command,
)
from depthflow.errors import ClusterError, SourceError


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """A command's flags."""

    out: str
    """Where to write."""
    outcome: str = "ok"
    """How the command ends."""
    count: int = 3
    """Number of things."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--count must be at least 1. Received: {self.count}")


SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
RESULTS = {
    "ok": {"samples": 3},
    "rejects": {"samples": 3, "rejects": 1},
    "no rejects": {"samples": 3, "rejects": 0},
    "numbers": {
        "metrics": {"all": {"mae": math.nan, "rmse": math.inf, "ok": 0.5}},
        "list": [1, -math.inf, (math.nan, "x")],
        7: None,
    },
}


def main(config: TinyConfig) -> dict:
    """Ends as `outcome` says."""
    print("something on the way")
    if config.outcome == "failed":
        raise SourceError("There is no source. Pass --source.")
    if config.outcome == "detailed":
        raise ClusterError("It broke.", details={"job": "b"}, exit_code=75)
    if config.outcome == "defect":
        raise KeyError("a defect")
    if config.outcome == "exit":
        sys.exit(2)
    if config.outcome in SIGNALS:
        os.kill(os.getpid(), SIGNALS[config.outcome])
        time.sleep(60)
    if config.outcome == "resumable":
        raise Interrupted("--resume")
    if config.outcome == "left":
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            raise ClusterError("The job goes on.", details={"job": "b"}, exit_code=130) from None
    return {**RESULTS[config.outcome], "count": config.count}


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command: (exit code, what it printed on stdout, on stderr)."""

    def run(*flags: str):
        monkeypatch.setattr(sys, "argv", ["tiny.py", *flags])
        code = run_command(main, "A tiny command.")
        return code, *capsys.readouterr()

    return run


def last_line(stdout: str) -> dict:
    return json.loads(stdout.splitlines()[-1])


def test_success(run):
    code, stdout, _ = run("--out", "o", "--count", "5")
    assert code == 0
    assert stdout.splitlines()[0] == "something on the way"
    assert last_line(stdout) == {"status": "ok", "samples": 3, "count": 5}
    assert len(stdout.splitlines()) == 2 and stdout.endswith("\n")


@pytest.mark.parametrize(("outcome", "code", "status"), [("rejects", 3, "rejects"), ("no rejects", 0, "ok")])
def test_rejects_have_their_own_exit_code(run, outcome, code, status):
    found, stdout, _ = run("--out", "o", "--outcome", outcome)
    assert found == code
    assert last_line(stdout)["status"] == status
    assert EXIT_REJECTS == 3


def test_a_users_error_is_reported_in_one_line(run):
    code, stdout, stderr = run("--out", "o", "--outcome", "failed")
    assert code == 1
    assert last_line(stdout) == {"status": "failed", "error": "There is no source. Pass --source."}
    assert stderr == "error: There is no source. Pass --source.\n"


def test_an_error_has_details_and_its_own_exit_code(run):
    code, stdout, _ = run("--out", "o", "--outcome", "detailed")
    assert code == 75
    assert last_line(stdout) == {"status": "failed", "error": "It broke.", "job": "b"}


def test_arguments_may_be_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tiny.py", "--wrong"])
    assert run_command(main, "A tiny command.", ["--out", "o", "--count", "7"]) == 0
    assert last_line(capsys.readouterr().out)["count"] == 7


def test_a_command_line_is_parsed_without_running_it(tmp_path, capsys):
    script = tmp_path / "tiny.py"
    script.write_text(
        '"""A tiny command."""\n'
        "from depthflow.synthetic.config import SynthesizeConfig\n"
        "def main(config: SynthesizeConfig) -> dict:\n    raise AssertionError('it ran')\n"
    )
    assert parse_command(script, ["--out", "o", "--scans", "3"])["config"].scans == 3
    with pytest.raises(SystemExit) as caught:
        parse_command(script, ["--out", "o", "--scans", "many"])
    assert caught.value.code == 2
    assert "--scans" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(run):
    code, stdout, stderr = run("--out", "o", "--outcome", "defect")
    assert code == 1
    assert last_line(stdout)["status"] == "failed"
    assert "a defect" in last_line(stdout)["error"]
    assert "Traceback" in stderr and 'raise KeyError("a defect")' in stderr


@pytest.mark.parametrize(("line", "code"), [(["--help"], 0), (["--out", "o"], 0), (["--wrong"], 2)])
def test_a_command_line_within_the_command_line(tmp_path, capsys, line, code):
    """As submit.py takes it."""
    script = tmp_path / "inner.py"
    script.write_text(
        '"""An inner command."""\n'
        "from depthflow.synthetic.config import SynthesizeConfig\n"
        "def main(config: SynthesizeConfig) -> dict: ...\n"
    )

    def outer(config: TinyConfig) -> dict:
        return {"out": parse_command(script, line)["config"].out}

    assert run_command(outer, "An outer command.", ["--out", "p"]) == code
    stdout, stderr = capsys.readouterr()
    if code:
        assert "--wrong" in stderr and "not understood" in last_line(stdout)["error"]
    else:
        assert "An inner command." in stdout if line == ["--help"] else last_line(stdout)["out"] == "o"


def test_a_wrong_log_format_is_reported_in_one_line(run, monkeypatch):
    monkeypatch.setenv("DEPTHFLOW_LOG_FORMAT", "xml")
    code, stdout, stderr = run("--out", "o")
    assert code == 1 and "xml" in last_line(stdout)["error"] and "Traceback" not in stderr


def test_an_exit_within_the_command_is_a_defect(run):
    code, stdout, stderr = run("--out", "o", "--outcome", "exit")
    assert code == 1
    assert last_line(stdout) == {"status": "failed", "error": "SystemExit: 2"}
    assert "Traceback" in stderr


def test_a_notebooks_matplotlib_backend_does_no_harm():
    script = "import sys; from depthflow.command import run_command; from depthflow.synthetic.config import *\n"
    script += "def main(config: SynthesizeConfig) -> dict:\n"
    script += "    import matplotlib.pyplot as plt\n    plt.figure()\n    return {'backend': plt.get_backend()}\n"
    script += "sys.exit(run_command(main, '', ['--out', 'o']))"
    env = {**os.environ, "MPLBACKEND": "module://a_notebook.backend"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout)["backend"] == "agg"


# --- signals ---


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_command_names_the_line_that_continues(run, name, code):
    handlers = [signal.getsignal(number) for number in SIGNALS.values()]
    found, stdout, stderr = run("--out", "my folder", "--outcome", name)
    assert found == code
    line = f"python tiny.py --out 'my folder' --outcome {name}"
    assert last_line(stdout) == {"status": "failed", "error": f"Interrupted. To continue: {line}"}
    assert "Traceback" not in stderr
    assert [signal.getsignal(number) for number in SIGNALS.values()] == handlers


@pytest.mark.parametrize("given", [(), ("--resume",)])
def test_the_flag_that_continues_is_added_once(run, monkeypatch, given, capsys):
    monkeypatch.setattr(sys, "argv", ["tiny.py", *given])
    assert run_command(main, "A tiny command.", ["--out", "o", "--outcome", "resumable"]) == 130
    assert last_line(capsys.readouterr().out)["error"] == "Interrupted. To continue: python tiny.py --resume"


def test_a_command_may_say_itself_what_an_interruption_leaves(run):
    code, stdout, _ = run("--out", "o", "--outcome", "left")
    assert code == 143
    assert last_line(stdout) == {"status": "failed", "error": "The job goes on.", "job": "b"}


def test_an_ignored_signal_stays_ignored(capsys):
    def is_ignored(config: TinyConfig) -> dict:
        return {"ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN}

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_command(is_ignored, "A tiny command.", ["--out", "o"]) == 0
        assert last_line(capsys.readouterr().out)["ignored"]
    finally:
        signal.signal(signal.SIGINT, before)


# --- flags ---


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "--out"),
        (("--out", "o", "--colour", "red"), "--colour"),
        (("--out", "o", "--count", "many"), "--count"),
        (("--out", "o", "--count", "0"), "--count must be at least 1. Received: 0"),
    ],
)
def test_a_wrong_flag_is_named_and_exits_with_2(run, flags, named):
    code, stdout, stderr = run(*flags)
    assert code == 2
    assert last_line(stdout)["status"] == "failed"
    assert named in " ".join(stderr.replace("│", " ").split())


def test_help_exits_with_0_and_explains_every_flag(run):
    code, stdout, _ = run("--help")
    assert code == 0
    for text in ("A tiny command.", "--out", "Where to write.", "--count", "Number of things."):
        assert text in stdout


def test_values_that_json_cannot_hold_are_null(run):
    code, stdout, _ = run("--out", "o", "--outcome", "numbers")
    assert code == 0
    assert last_line(stdout) == {
        "status": "ok",
        "metrics": {"all": {"mae": None, "rmse": None, "ok": 0.5}},
        "list": [1, None, [None, "x"]],
        "7": None,
        "count": 3,
    }


# --- finding the result line ---


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('noise\n{"status": "ok"}\n', {"status": "ok"}),
        ('{"status": "ok"}\n{"status": "failed"}\n', {"status": "failed"}),
        ('{"status": "ok"}\n(raylet) noise after\n[1, 2]\n3\nnull\n', {"status": "ok"}),
        ('{"status": "ok"}\n{"level": "WARNING", "message": "a record"}\n', {"status": "ok"}),
        ("", None),
        ("no json at all\n{broken\n", None),
    ],
)
def test_last_json_line(output, expected):
    assert last_json_line(output) == expected


def test_signal_handlers_are_restored():
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    with preserve_signal_handlers():
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
    assert [signal.getsignal(number) for number in numbers] == before
