"""Passwords in URIs: no command shows one, logs one to MLflow, or leaves one in a file."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.mlflow_server import MlflowServer

SECRET = "hunter2"
LOGIN = f"mira:{SECRET}@"
SIZE = ("--height", 64, "--width", 64)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """A server, which takes no notice of the password."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def checked(run, mlflow, tmp_path_factory):
    """Runs a command with passwords in its environment, and looks for them in what it shows."""
    folder = tmp_path_factory.mktemp("work")
    proxy = f"http://{LOGIN}127.0.0.1:9"
    env = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
    env |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    env["MLFLOW_TRACKING_URI"] = mlflow.uri.replace("://", f"://{LOGIN}")

    def run_checked(command, *arguments, code=0, **changed):
        done = run(command, *arguments, cwd=folder, env={**env, **changed})
        assert done.code == code, done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done

    run_checked.folder = folder
    return run_checked


def files_with_the_secret(*folders):
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and holds(path)]


def holds(path):
    return SECRET.encode() in path.read_bytes()


def test_no_command_gives_a_password_away(checked, mlflow):
    checked("synthesize", "--out", "tree", "--scans", 4, "--samples-per-scan", 4, *SIZE)
    checked("preprocess", "--source", "tree", "--out", "store", *SIZE)
    checked("train", "smoke", "--samples", "store", "--storage", "runs", "--epochs", 1, "--num-workers", 2)
    model = "models:/depthflow@challenger"
    checked("evaluate", "--model", model, "--samples", "store", "--protocol", "stored", "--out", "evaluation")
    checked("promote", "--samples", "store", "--protocol", "stored", "--force", "--reason", "the first one")
    checked("predict", "--model", model, "--images", "tree/val", "--out", "depth", "--files", "npy")
    checked("doctor", "--num-workers", 2, "--checks", "mlflow")
    assert files_with_the_secret(checked.folder, mlflow.folder) == []


def test_download(checked):
    content = bytes(100_000)
    served = checked.folder / "served"
    served.mkdir()
    (served / "val.tar.gz").write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ("--split", "val", "--out", "archives", "--base-url", f"http://{LOGIN}127.0.0.1:{server.server_port}")
        checked("download", *flags, "--md5", hashlib.md5(content).hexdigest())
        checked("download", *flags, "--md5", hashlib.md5(b"other").hexdigest(), code=1)
        server.shutdown()
    assert files_with_the_secret(checked.folder / "archives") == []


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("preprocess", ("--source", f"http://{LOGIN}host/tree", "--out", "other")),
        ("preprocess", ("--source", "tree", "--out", f"http://{LOGIN}host/store")),
        ("train", ("smoke", "--samples", f"ftp://{LOGIN}host/store", "--storage", "runs")),
        ("predict", ("--model", "models:/m/1", "--images", f"http://{LOGIN}host/a.png", "--out", "depth")),
        ("evaluate", ("--model", f"http://{LOGIN}host/model", "--samples", "store")),
    ],
)
def test_a_uri_that_is_rejected(checked, command, arguments):
    checked(command, *arguments, code=1)


@pytest.mark.parametrize("command", ["train", "evaluate", "promote"])
def test_an_mlflow_that_does_not_answer(checked, command):
    flags = {
        "train": ("smoke", "--samples", "store", "--storage", "runs", "--num-workers", 2),
        "evaluate": ("--model", "models:/depthflow@challenger", "--samples", "store", "--protocol", "stored"),
        "promote": ("--samples", "store", "--protocol", "stored"),
    }
    away = {"MLFLOW_TRACKING_URI": f"http://{LOGIN}127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = checked(command, *flags[command], code=1, **away)
    assert "http://***@127.0.0.1:9" in done.result["error"]


def test_a_job_with_a_password_is_not_submitted(checked):
    done = checked("submit", "train", "smoke", "--samples", "/store", "--storage", "/runs", code=1)
    assert "MLFLOW_TRACKING_PASSWORD" in done.result["error"]
