"""Real signals: Ctrl-C and SIGTERM end every command with its JSON line, its exit code and the command that continues.

tests/unit/datasets/test_download.py interrupts download.py, tests/integration/test_submit.py interrupts submit.py.
"""

import shlex
import signal
import subprocess
import sys

import pytest

from depthflow.command import last_json_line
from tests.commands import ROOT, TIMEOUT_S, read_until

SIZE = ("--height", 64, "--width", 64)
IMAGES = 400


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """A folder with a tree, a store of it, and images enough to be interrupted."""
    folder = tmp_path_factory.mktemp("interrupted")
    assert run("synthesize", "--out", "tree", "--scans", 2, "--samples-per-scan", 8, *SIZE, cwd=folder).code == 0
    assert run("preprocess", "--source", "tree", "--out", "store", *SIZE, cwd=folder).code == 0
    image = next((folder / "tree").rglob("*_000.png"))
    (folder / "images").mkdir()
    for k in range(IMAGES):
        (folder / "images" / f"{k}.png").hardlink_to(image)
    return folder


@pytest.fixture
def interrupt(shared_ray, folder):
    """Interrupts a command once it has printed some words; returns the command line that continues it."""

    def interrupt(sent: signal.Signals, words: str, command: str, *arguments: object) -> list[str]:
        line = [str(ROOT / "pipelines" / f"{command}.py"), *map(str, arguments)]
        with subprocess.Popen(
            [sys.executable, *line], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            seen = read_until(process, words, timeout_s=TIMEOUT_S)
            process.send_signal(sent)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        result = last_json_line(stdout)
        assert process.returncode == 128 + sent, seen + stderr
        assert result is not None and result["status"] == "failed"
        before, _, shown = result["error"].partition("To continue: ")
        assert before == "Interrupted. "
        python, *continued = shlex.split(shown)
        assert python == "python" and continued[: len(line)] == line
        return continued

    return interrupt


def finish(line, folder):
    """Runs the command line that an interrupted command named."""
    done = subprocess.run([sys.executable, *line], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    result = last_json_line(done.stdout)
    assert done.returncode == 0 and result is not None, done.stderr
    return result


def test_synthesize(interrupt):
    interrupt(signal.SIGTERM, "views: ", "synthesize", "--out", "large", "--scans", 20, "--samples-per-scan", 100)


def test_preprocess_continues(interrupt, run, folder):
    run(
        "synthesize",
        "--out",
        "wide",
        "--scans",
        8,
        "--samples-per-scan",
        8,
        "--height",
        384,
        "--width",
        512,
        cwd=folder,
    )
    line = interrupt(signal.SIGINT, "inputs: ", "preprocess", "--source", "wide", "--out", "continued", *SIZE)
    assert finish(line, folder)["samples"] == 64


def test_doctor(interrupt):
    interrupt(signal.SIGTERM, "versions", "doctor", "--num-workers", 2)


@pytest.mark.timeout(900)
def test_train_continues_and_its_model_is_used(interrupt, folder):
    """One test: the commands that use a model need the one that train makes."""
    job = ("--samples", "store", "--storage", "runs", "--num-workers", 2, "--epochs", 12)
    line = interrupt(signal.SIGTERM, "epoch 1/", "train", "smoke", *job)
    assert line[-1] == "--resume"
    model = finish(line, folder)["model_uri"]

    tested = ("--samples", "store", "--protocol", "stored")
    interrupt(signal.SIGINT, "samples evaluated: ", "evaluate", "--model", model, *tested)
    interrupt(signal.SIGTERM, "samples evaluated: ", "promote", *tested)
    line = interrupt(signal.SIGINT, "images: ", "predict", "--model", model, "--images", "images", "--out", "out")
    result = finish([*line, "--files", "npy"], folder)
    assert result["images"] == IMAGES


def test_demo_after_its_training(interrupt):
    """Ray Train's own handler of Ctrl-C must not outlive the training."""
    line = interrupt(signal.SIGINT, "samples evaluated: ", "demo", "--out", "demo-out", "--epochs", 1)
    assert "--resume" not in line
