"""Jobs that fail, that are rejected before they start, and doctor as a job."""

import pytest

START_S = 250
"""Time limit of steps that take 15 s on an idle machine."""


def test_bad_data_determines_the_last_line_and_exit_code(submit, tmp_path):
    (tmp_path / "empty").mkdir()
    done = submit("preprocess", "--source", tmp_path / "empty", "--out", tmp_path / "store")
    assert done.code == 1
    assert done.result["status"] == "failed" and done.result["job_status"] == "FAILED"
    assert "no sample" in done.result["error"] and "fit no layout" in done.result["error"]


def test_a_failed_preflight_ends_the_job(submit, tmp_path):
    """A training that can never be placed fails within a minute, before anything else is checked."""
    line = ["train", "smoke", "--samples", tmp_path, "--storage", tmp_path, "--num-workers", 64]
    done = submit(*line, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.code == 1
    assert done.result["seconds"] < 60
    assert "64 workers need one CPU each; Ray has 2 CPUs" in done.result["error"]
    assert list(done.result["checks"]) == ["plan"]
    assert "pipelines/train.py" in done.stderr
    assert "mlflow" not in [line.split(" ")[0] for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "Missing"),
        ({"RAY_AUTH_TOKEN": "not the token of this cluster, at all"}, "Invalid"),
    ],
)
def test_a_request_without_the_token_is_rejected(submit, tmp_path, env, words):
    done = submit("synthesize", "--out", tmp_path / "mini", **env)
    assert done.code == 1
    for word in ("rejected the token", words, "RAY_AUTH_TOKEN"):
        assert word in done.result["error"]


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
    done = submit(*line, RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert done.code == code
    assert words in " ".join((done.stderr + done.result["error"]).replace("│", " ").split())


def test_an_unreachable_cluster(submit):
    done = submit("synthesize", "--out", "/shared/mini", RAY_API_SERVER_ADDRESS="http://127.0.0.1:9")
    assert done.code == 1
    assert "No job server answers at http://127.0.0.1:9" in done.result["error"]


def test_doctor_runs_an_all_reduce(submit):
    done = submit("doctor", "--checks", "all-reduce", "--timeout-s", START_S)
    assert done.code == 0, done.result
    assert done.result["checks"]["all-reduce"]["status"] == "ok"
    assert "67 MB between 2 workers" in done.result["checks"]["all-reduce"]["message"]
