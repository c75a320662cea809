"""Commands as jobs of a Ray of their own, with tokens: submitted, attached to, refused, failed, and looked at."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
import requests

from depthflow.command import last_json_line

ROOT = Path(__file__).resolve().parents[2]
START_S = 120
ATTEMPTS = 3
TOKEN = "a token of this test alone, 32 characters at least"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Head:
    """A head node: its job server, its Ray, and the environment of who may use them."""

    address: str
    gcs: str
    env: dict[str, str]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start_ray(make_flags: Callable[[], list[str]], is_up: Callable[[], bool], *, env: dict[str, str]) -> Popen:
    """`ray start`, which stays and watches what it started; tried again where a port that was free is taken by now."""
    ray = Path(sys.executable).with_name("ray")
    for _ in range(ATTEMPTS):
        metrics, agent = free_ports(2)
        ports = [f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}"]
        process = Popen(
            [ray, "start", "--block", "--disable-usage-stats", *ports, *make_flags()],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if is_up():
                    return process
            time.sleep(0.5)
        stop(process)
    raise AssertionError("ray start did not come up")


def stop(process: Popen) -> None:
    """Ends a node with all that it started; no other Ray of this machine."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.wait()


def ask(address: str, path: str) -> requests.Response:
    return requests.get(f"{address}/{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)


@pytest.fixture(scope="module")
def head():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    env |= {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ports = {}

    def flags() -> list[str]:
        ports.update(zip(("port", "dashboard-port", "ray-client-server-port"), free_ports(3), strict=True))
        return ["--head", "--num-cpus=2", f"--temp-dir={folder}", *(f"--{flag}={port}" for flag, port in ports.items())]

    def takes_jobs() -> bool:
        return ask(f"http://127.0.0.1:{ports['dashboard-port']}", "api/jobs/").ok

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # Paths of sockets have 107 bytes at most.
        process = start_ray(flags, takes_jobs, env=env)
        try:
            address = f"http://127.0.0.1:{ports['dashboard-port']}"
            yield Head(address, f"127.0.0.1:{ports['port']}", {**env, "RAY_API_SERVER_ADDRESS": address})
        finally:
            stop(process)


@pytest.fixture(scope="module")
def submit(head, command_server, tmp_path_factory):
    """Runs submit.py: (exit code, the JSON of its last line, its stderr)."""
    cwd = tmp_path_factory.mktemp("laptop")

    def run(*arguments: object, **env: str) -> tuple[int, dict, str]:
        done = command_server.run("submit", *arguments, cwd=cwd, env={**head.env, **env})
        result = last_json_line(done.stdout.strip().splitlines()[-1])
        assert result is not None
        return done.returncode, result, done.stderr

    return run


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write_triplet):
    """Two splits, and one triplet without its depth."""
    root = tmp_path_factory.mktemp("tree")
    for split, scene in (("train", 0), ("val", 1)):
        for view in range(2):
            write_triplet(root, split=split, scene=scene, view=view, size=(32, 32))
    image = write_triplet(root, split="val", scene=1, view=2, size=(32, 32))
    image.with_name(image.name.replace(".png", "_depth.npy")).unlink()
    return root


def test_a_job_outlives_who_follows_it_and_is_attached_to(head, submit, tree, tmp_path):
    """Ctrl-C ends the following alone; the same again finds the job, and has its result and its exit code."""
    size = ["--height", "32", "--width", "32"]
    line = ["preprocess", "--source", str(tree), "--out", str(tmp_path / "store"), *size]
    first = Popen(
        [sys.executable, str(ROOT / "pipelines" / "submit.py"), *line],
        cwd=tmp_path,
        env=head.env,
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
    assert f"ray job stop --address {head.address} {left['submission_id']}" in left["error"]

    code, result, stderr = submit(*line)
    assert result["submission_id"] == left["submission_id"]
    assert result["action"] == "attach", stderr
    assert code == 3 and result["status"] == "rejects"
    assert (result["samples"], result["rejects_by_reason"]) == (4, {"missing_member": 1})
    assert (tmp_path / "store" / "manifest.json").is_file()
    for word in ("versions", "disk", "storage"):
        assert f"\n{word:<12}ok" in stderr or f"\n{word:<12}warning" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"], "no mark of the preflight is left"


def read_until(process: Popen, words: str) -> str:
    """Its stderr up to these words, unbuffered, so that communicate() finds the rest."""
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


def test_bad_data_is_the_last_line_and_the_exit_code(submit, tmp_path):
    (tmp_path / "empty").mkdir()
    code, result, _ = submit("preprocess", "--source", tmp_path / "empty", "--out", tmp_path / "store")
    assert code == 1
    assert result["status"] == "failed" and result["job_status"] == "FAILED"
    assert "no sample" in result["error"] and "DIODE's layout" in result["error"]


def test_a_preflight_that_fails_ends_the_job(submit, tmp_path):
    """What can never be placed is refused within a minute, before anything is looked at."""
    line = ["train", "smoke", "--samples", tmp_path, "--storage", tmp_path, "--num-workers", 64]
    started = time.monotonic()
    code, result, stderr = submit(*line, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert time.monotonic() - started < 60
    assert code == 1
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
def test_without_the_token_it_is_refused(submit, tmp_path, env, words):
    code, result, _ = submit("synthesize", "--out", tmp_path / "mini", **env)
    assert code == 1
    assert "refused the token" in result["error"] and words in result["error"] and "RAY_AUTH_TOKEN" in result["error"]


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
def test_what_cannot_work_is_refused_here(submit, line, code, words):
    """Before the cluster is asked: there is none at this address."""
    found, result, stderr = submit(*line, RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert found == code
    assert words in " ".join((stderr + result["error"]).replace("│", " ").split())


def test_a_cluster_that_is_away(submit):
    code, result, _ = submit("synthesize", "--out", "/shared/mini", RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert code == 1
    assert "No job server answers at http://127.0.0.1:9" in result["error"]


@pytest.fixture
def doctor(head, command_server, tmp_path):
    """Runs doctor.py on that Ray: (exit code, its JSON line)."""

    def run(*arguments: object) -> tuple[int, dict]:
        env = {**head.env, "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)}
        done = command_server.run("doctor", "--timeout-s", START_S, *arguments, cwd=tmp_path, env=env)
        return done.returncode, last_json_line(done.stdout)

    return run


def test_doctor_sums_over_workers_as_training_does(doctor):
    code, result = doctor("--checks", "all-reduce")
    assert code == 0, result
    assert result["checks"]["all-reduce"]["status"] == "ok"
    assert "67 MB between 2 workers" in result["checks"]["all-reduce"]["message"]


def test_doctor_looks_from_every_node(head, doctor, tmp_path):
    """A second node that promises a GPU it has not; MLflow is a file, which is for one node alone."""

    def both() -> bool:
        nodes = ask(head.address, "nodes?view=summary").json()["data"]["summary"]
        return [node["raylet"]["state"] for node in nodes].count("ALIVE") == 2

    second = start_ray(lambda: [f"--address={head.gcs}", "--num-cpus=1", "--num-gpus=1"], both, env=head.env)
    try:
        checks = ["plan", "storage", "disk", "mlflow", "proxies", "gpus"]
        code, result = doctor("--checks", *checks, "--storage", tmp_path / "shared")
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
    finally:
        stop(second)
