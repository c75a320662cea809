"""Submission IDs, what to do with a command, and the result of its job."""

import json
import shlex

import pytest

from depthflow.cluster.job_server import Log
from depthflow.cluster.submission import Decision, Ended, Job, api_server, decide, outcome
from depthflow.errors import ClusterError


def job(**changes) -> Job:
    values = {
        "name": "train",
        "arguments": ("smoke", "--samples", "s3://b/a store"),
        "preflight": ("--quick",),
        "environment": {"MLFLOW_TRACKING_URI": "http://h:5000", "DEPTHFLOW_GIT_COMMIT": "c"},
        "python": "python",
    }
    return Job(**{**values, **changes})


def test_equal_commands_have_equal_ids():
    assert job().submission_id("code") == job().submission_id("code")
    assert job().submission_id("code").startswith("depthflow-train-")
    later = {"MLFLOW_TRACKING_URI": "http://h:5000", "DEPTHFLOW_GIT_COMMIT": "a commit of the README"}
    for environment in (later, {**later, "DEPTHFLOW_LOG_FORMAT": "json"}):
        assert job(environment=environment).submission_id("code") == job().submission_id("code")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"arguments": ("smoke", "--samples", "s3://b/store")}, "code"),
        ({"arguments": ("smoke", "--samples", "s3://b/a", "store")}, "code"),
        ({"name": "evaluate"}, "code"),
        ({"environment": {"MLFLOW_TRACKING_URI": "http://other:5000"}}, "code"),
        ({"environment": {"MLFLOW_TRACKING_URI": "http://h:5000", "AWS_PROFILE": "p"}}, "code"),
        ({"python": "python3.12"}, "code"),
        ({}, "other code"),
    ],
)
def test_different_commands_have_different_ids(changes, code):
    assert job(**changes).submission_id(code) != job().submission_id("code")


def test_the_command_follows_the_preflight_and_keeps_its_arguments():
    first, second = job().entrypoint.split(" && exec ")
    assert shlex.split(first) == ["python", "pipelines/doctor.py", "--quick"]
    assert shlex.split(second) == ["python", "pipelines/train.py", "smoke", "--samples", "s3://b/a store"]


def test_a_job_without_a_preflight():
    assert job(name="doctor", arguments=(), preflight=None).entrypoint == "exec python pipelines/doctor.py"


@pytest.mark.parametrize(
    ("statuses", "again", "expected"),
    [
        ({}, False, ("submit", "b")),
        ({"other": "RUNNING", "b-x": "RUNNING", "bb": "RUNNING"}, False, ("submit", "b")),
        ({"b": "PENDING"}, False, ("attach", "b")),
        ({"b": "RUNNING"}, True, ("attach", "b")),
        ({"b": "FAILED"}, False, ("submit", "b-2")),
        ({"b": "STOPPED"}, False, ("submit", "b-2")),
        ({"b": "SUCCEEDED"}, False, ("report", "b")),
        ({"b": "SUCCEEDED"}, True, ("submit", "b-2")),
        ({"b": "FAILED", "b-2": "RUNNING"}, False, ("attach", "b-2")),
        ({"b": "SUCCEEDED", "b-2": "FAILED"}, False, ("submit", "b-3")),
        ({"b-9": "FAILED", "b-10": "SUCCEEDED", "b": "FAILED"}, False, ("report", "b-10")),
    ],
)
def test_a_command_has_one_job_at_a_time(statuses, again, expected):
    found = decide("b", statuses, run_once=True, again=again)
    assert found == Decision(action=expected[0], submission_id=expected[1])


def test_a_finished_command_runs_again_unless_it_runs_once():
    found = decide("b", {"b": "SUCCEEDED"}, run_once=False, again=False)
    assert found == Decision(action="submit", submission_id="b-2")


# --- the result ---

PREFLIGHT = json.dumps({"status": "ok", "nodes": 1, "checks": {}})


def ended(*lines: str, status: str = "FAILED", code: int | None = 1, message: str = "") -> Ended:
    return Ended(submission_id="b", status=status, exit_code=code, message=message, log="\n".join(lines))


def failure(job: Ended) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        outcome(job, "submit")
    assert caught.value.details.items() >= {"submission_id": "b", "job_status": job.status, "action": "submit"}.items()
    return caught.value


def test_the_result_is_the_jobs():
    found = outcome(
        ended(PREFLIGHT, '{"status": "ok", "samples": 3}', "a late line", status="SUCCEEDED", code=0), "attach"
    )
    assert found == {"status": "ok", "samples": 3, "submission_id": "b", "job_status": "SUCCEEDED", "action": "attach"}


def test_rejects_are_a_result():
    """Ray calls any code but 0 a failure."""
    found = outcome(ended('{"status": "rejects", "rejects": 2}', code=3), "submit")
    assert found["rejects"] == 2 and found["job_status"] == "FAILED"


def test_a_failure_has_the_jobs_error_and_exit_code():
    error = failure(ended(PREFLIGHT, '{"status": "failed", "error": "There is no source.", "checks": 1}', code=1))
    assert str(error) == "The job failed: There is no source."
    assert error.exit_code == 1 and error.details["checks"] == 1
    assert "status" not in error.details and "error" not in error.details


@pytest.mark.parametrize(("code", "expected"), [(137, 137), (-9, 137), (2, 2), (None, 1)])
def test_a_killed_job_is_a_failure(code, expected):
    """The last line is the preflight's, which is not the job's result."""
    error = failure(ended(PREFLIGHT, "Killed", code=code))
    assert error.exit_code == expected
    assert "nodes" not in error.details


def test_a_job_without_a_result_is_a_failure():
    error = failure(ended("no result", status="SUCCEEDED", code=0))
    assert error.exit_code == 1 and "before it printed a result" in str(error)


def test_a_job_that_never_ran_has_rays_message():
    assert "the head died" in str(failure(ended(code=None, message="the head died")))


def test_a_stopped_job_was_interrupted():
    error = failure(ended('{"status": "failed", "error": "Interrupted."}', status="STOPPED", code=None))
    assert error.exit_code == 130


def test_a_missing_interpreter_is_reported_with_the_flag():
    assert "--python" in str(failure(ended("/bin/sh: 1: python: not found", code=127)))


# --- the log ---


def test_a_log_that_is_read_again_is_written_once():
    written = []
    log = Log(written.append)
    for piece in ("one\ntwo\n", "thr"):
        log.feed(piece)
    log.restart()
    for piece in ("one\n", "two\nthree\nfo", "ur\n"):
        log.feed(piece)
    log.restart()
    log.feed("one\ntwo\nthree\nfour\n")
    assert "".join(written) == log.text == "one\ntwo\nthree\nfour\n"


# --- the address ---


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        (None, {"RAY_ADDRESS": "http://r:8265/"}, "http://r:8265"),
        (None, {"RAY_ADDRESS": "http://r:8265", "RAY_API_SERVER_ADDRESS": "http://a:8265"}, "http://a:8265"),
        ("http://me:1", {"RAY_API_SERVER_ADDRESS": "http://a:8265"}, "http://me:1"),
    ],
)
def test_api_server(asked, environment, expected):
    assert api_server(asked, environment) == expected
