"""Commands as jobs on a Ray that requires a token: submitted, attached to, rejected and failed."""

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import Popen

import pytest

from depthflow.command import last_json_line
from tests.ray_nodes import RayNodes

ROOT = Path(__file__).resolve().parents[2]
START_S = 250
"""Time limit of steps that take 15 s on an idle machine."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    """A head node; the client's environment has its token."""
    cluster = RayNodes({})
    try:
        cluster.start("head", num_cpus=2, role="head")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def submit(nodes, command_server, tmp_path_factory):
    """Runs submit.py and returns (exit code, parsed last line, stderr)."""
    cwd = tmp_path_factory.mktemp("laptop")

    def run(*arguments: object, **env: str) -> tuple[int, dict, str]:
        done = command_server.run("submit", *arguments, cwd=cwd, env={**client_env(nodes), **env})
        result = last_json_line(done.stdout.strip().splitlines()[-1])
        assert result is not None
        return done.returncode, result, done.stderr

    return run


def client_env(nodes: RayNodes) -> dict[str, str]:
    return {name: value for name, value in nodes.env.items() if name != "MLFLOW_TRACKING_URI"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write_triplet):
    """A tree with two splits and one triplet without depth."""
    root = tmp_path_factory.mktemp("tree")
    for split, scene in (("train", 0), ("val", 1)):
        for view in range(2):
            write_triplet(root, split=split, scene=scene, view=view, size=(32, 32))
    image = write_triplet(root, split="val", scene=1, view=2, size=(32, 32))
    image.with_name(image.name.replace(".png", "_depth.npy")).unlink()
    return root


def test_a_job_survives_ctrl_c_and_can_be_attached_to(nodes, submit, tree, tmp_path):
    """Ctrl-C only stops following the log; the same command attaches to the job and ends with its result."""
    size = ["--height", "32", "--width", "32"]
    line = ["preprocess", "--source", str(tree), "--out", str(tmp_path / "store"), *size]
    first = Popen(
        [sys.executable, str(ROOT / "pipelines" / "submit.py"), *line],
        cwd=tmp_path,
        env=client_env(nodes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = read_until(first, "checking plan")
    first.send_signal(signal.SIGINT)
    stdout, stderr = first.communicate(timeout=60)
    left = last_json_line(stdout)
    assert first.returncode == 130, seen + stderr
    assert left["job_status"] == "RUNNING" and left["action"] == "submit"
    assert f"ray job stop --address {nodes.api} {left['submission_id']}" in left["error"]

    code, result, stderr = submit(*line)
    assert result["submission_id"] == left["submission_id"]
    assert result["action"] == "attach", stderr
    assert code == 3 and result["status"] == "rejects"
    assert (result["samples"], result["rejects_by_reason"]) == (4, {"missing_member": 1})
    assert (tmp_path / "store" / "manifest.json").is_file()
    for word in ("versions", "disk", "storage"):
        assert f"\n{word:<12}ok" in stderr or f"\n{word:<12}warning" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"], "the preflight left a mark"


def read_until(process: Popen, words: str) -> str:
    """Reads stderr up to these words, unbuffered, so that communicate() returns the rest."""
    assert process.stderr is not None
    seen, deadline = b"", time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while words.encode() not in seen:
            assert selector.select(max(0.0, deadline - time.monotonic())), seen.decode()
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, seen.decode()
            seen += piece
    return seen.decode()


def test_bad_data_determines_the_last_line_and_exit_code(submit, tmp_path):
    (tmp_path / "empty").mkdir()
    code, result, _ = submit("preprocess", "--source", tmp_path / "empty", "--out", tmp_path / "store")
    assert code == 1
    assert result["status"] == "failed" and result["job_status"] == "FAILED"
    assert "no sample" in result["error"] and "DIODE's layout" in result["error"]


def test_a_failed_preflight_ends_the_job(submit, tmp_path):
    """A training that can never be placed fails within a minute, before anything else is checked."""
    line = ["train", "smoke", "--samples", tmp_path, "--storage", tmp_path, "--num-workers", 64]
    code, result, stderr = submit(*line, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 1
    assert result["seconds"] < 60
    assert "64 workers need one CPU each; Ray has 2 CPUs" in result["error"]
    assert list(result["checks"]) == ["plan"]
    assert "pipelines/train.py" in stderr and "mlflow" not in [line.split(" ")[0] for line in stderr.splitlines()]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "Missing"),
        ({"RAY_AUTH_TOKEN": "not the token of this cluster, at all"}, "Invalid"),
    ],
)
def test_a_request_without_the_token_is_rejected(submit, tmp_path, env, words):
    code, result, _ = submit("synthesize", "--out", tmp_path / "mini", **env)
    assert code == 1
    assert "rejected the token" in result["error"] and words in result["error"] and "RAY_AUTH_TOKEN" in result["error"]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["synthesize", "--out", "/shared/mini", "--scans", "many"], 2, "--scans"),
        (["synthesise", "--out", "/shared/mini"], 2, "--out"),
        (["synthesize", "--out", "mini"], 1, "--out is relative"),
        (["promote", "--samples", "/shared/store"], 1, "MLFLOW_TRACKING_URI"),
        (["--env", "NOT_SET_ANYWHERE", "synthesize", "--out", "/shared/mini"], 1, "NOT_SET_ANYWHERE"),
    ],
)
def test_a_command_that_cannot_work_is_rejected_locally(submit, line, code, words):
    """There is no cluster at this address."""
    found, result, stderr = submit(*line, RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert found == code
    assert words in " ".join((stderr + result["error"]).replace("│", " ").split())


def test_an_unreachable_cluster(submit):
    code, result, _ = submit("synthesize", "--out", "/shared/mini", RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert code == 1
    assert "No job server answers at http://127.0.0.1:9" in result["error"]


def test_doctor_runs_an_all_reduce(submit):
    code, result, _ = submit("doctor", "--checks", "all-reduce", "--timeout-s", START_S)
    assert code == 0, result
    assert result["checks"]["all-reduce"]["status"] == "ok"
    assert "67 MB between 2 workers" in result["checks"]["all-reduce"]["message"]


@pytest.mark.nodes
def test_doctor_checks_every_node(nodes, submit, tmp_path):
    """The second node claims a GPU that it lacks, and MLflow is a local file."""
    nodes.start("second", num_cpus=1, num_gpus=1, role="train")
    checks = ["plan", "storage", "disk", "mlflow", "proxies", "gpus"]
    line = ["doctor", "--checks", *checks, "--storage", tmp_path / "shared", "--timeout-s", START_S]
    code, result, _ = submit(*line, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    assert code == 1
    assert result["nodes"] == 2
    found = {name: check["status"] for name, check in result["checks"].items()}
    assert list(found) == checks
    assert (found["storage"], found["mlflow"], found["gpus"]) == ("ok", "failed", "failed"), result["checks"]
    assert "all 2 nodes" in result["checks"]["storage"]["message"]
    assert "2 nodes" in result["checks"]["mlflow"]["message"]
    assert "has 1 for Ray, TensorFlow sees 0" in result["checks"]["gpus"]["message"]
    assert "mlflow:" in result["error"] and "gpus:" in result["error"] and "storage:" not in result["error"]
    assert list(tmp_path.iterdir()) == []
