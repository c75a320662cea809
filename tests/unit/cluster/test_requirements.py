"""What a command needs from a cluster, and what is rejected before anything is uploaded."""

from pathlib import Path

import pytest

from depthflow.cluster.config import DoctorConfig
from depthflow.cluster.requirements import (
    before_wildcard,
    check_submittable,
    is_local_store,
    job_environment,
    preflight_flags,
)
from depthflow.command import parse_command
from depthflow.errors import ClusterError

ROOT = Path(__file__).resolve().parents[3]
MLFLOW = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
COMMANDS = {
    "train": "smoke --samples s3://b/store --storage /shared/runs --num-workers 8",
    "preprocess": "--source /shared/val.tar.gz s3://b/train.tar.gz --out s3://b/store",
    "evaluate": "--model models:/depthflow@challenger --samples /shared/store",
    "predict": "--model models:/m/1 --images /photos/**/*.jpg /one.png --out /shared/depth --num-workers 2",
    "promote": "--samples s3://b/store",
    "synthesize": "--out /shared/mini",
}


def parsed(name: str, line: str | None = None) -> dict:
    return parse_command(ROOT / "pipelines" / f"{name}.py", (line or COMMANDS[name]).split())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", {"writes": ("/shared/runs",), "reads": ("s3://b/store",), "work": "training", "num_workers": 8}),
        (
            "preprocess",
            {"writes": ("s3://b/store",), "reads": ("/shared/val.tar.gz", "s3://b/train.tar.gz"), "work": "data"},
        ),
        ("evaluate", {"reads": ("/shared/store",), "work": "pool"}),
        ("predict", {"writes": ("/shared/depth",), "reads": ("/photos", "/one.png"), "work": "pool", "num_workers": 2}),
        ("promote", {"reads": ("s3://b/store",), "work": "pool"}),
        ("synthesize", {"writes": ("/shared/mini",)}),
    ],
)
def test_the_preflight_checks_what_the_flags_need(name, expected):
    """doctor.py's own parser reads the flags."""
    config = parse_command(ROOT / "pipelines" / "doctor.py", preflight_flags(name, parsed(name)))["config"]
    assert isinstance(config, DoctorConfig)
    assert config.quick
    assert (config.storage, config.samples) == (expected.get("writes", ()), expected.get("reads", ()))
    assert config.num_workers == expected.get("num_workers")
    assert config.work == expected.get("work", "training")
    assert ("mlflow" in config.checks) == (name in ("train", "evaluate", "promote", "predict"))
    assert ("gpus" in config.checks) == ("all-reduce" in config.checks) == (name == "train")
    assert (config.checks[0] == "plan") == (name != "synthesize")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_with_shared_locations_is_submitted(name):
    check_submittable(name, parsed(name), MLFLOW)


@pytest.mark.parametrize(
    ("name", "line", "named"),
    [
        ("train", "smoke --samples store --storage /runs", r"--samples is relative.*Received: store\."),
        ("train", "smoke --samples /s --storage runs", r"--storage is relative.*Received: runs\."),
        ("train", "smoke --samples /s --storage /r --cache-dir c", r"--cache-dir is relative"),
        ("train", "smoke --samples /s --storage /r --weights w.h5", r"--weights is relative"),
        ("preprocess", "--source /a b.tar.gz --out /o", r"--source is relative.*Received: b\.tar\.gz"),
        ("evaluate", "--model ./model --samples /s", r"--model is relative"),
        ("evaluate", "--model models:/m/1 --compare out/model --samples /s", r"--compare is relative"),
        ("predict", "--model models:/m/1 --images *.jpg --out /o", r"--images is relative"),
    ],
)
def test_a_relative_path_is_rejected(name, line, named):
    with pytest.raises(ClusterError, match=named):
        check_submittable(name, parsed(name, line), MLFLOW)


@pytest.mark.parametrize("model", ["models:/m@champion", "runs:/1/model", "depth-anything-v2-small", "/shared/model"])
def test_a_model_that_is_not_a_relative_path_passes(model):
    check_submittable("evaluate", parsed("evaluate", f"--model {model} --samples /s"), MLFLOW)


@pytest.mark.parametrize("name", ["train", "evaluate", "promote", "predict"])
def test_commands_that_use_mlflow_need_its_uri(name):
    with pytest.raises(ClusterError, match=r"MLFLOW_TRACKING_URI.*Received: none"):
        check_submittable(name, parsed(name), {})


@pytest.mark.parametrize("name", ["preprocess", "synthesize"])
def test_other_commands_need_no_mlflow(name):
    check_submittable(name, parsed(name), {})


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "./mlruns", "file:./mlruns"])
def test_a_relative_mlflow_uri_is_rejected(uri):
    with pytest.raises(ClusterError, match=r"MLFLOW_TRACKING_URI is relative"):
        check_submittable("train", parsed("train"), {"MLFLOW_TRACKING_URI": uri})


@pytest.mark.parametrize("uri", ["sqlite:////shared/mlflow.db", "/mlruns", "http://h:5000", "postgresql://h/d"])
def test_an_absolute_mlflow_uri_is_left_to_the_preflight(uri):
    check_submittable("train", parsed("train"), {"MLFLOW_TRACKING_URI": uri})
    assert is_local_store(uri) == uri.startswith(("sqlite", "/"))


def test_submit_cannot_be_submitted():
    with pytest.raises(ClusterError, match="cannot run as a job"):
        check_submittable("submit", {}, MLFLOW)


def test_only_named_variables_are_passed_on():
    environment = {**MLFLOW, "AWS_PROFILE": "p", "AWS_SECRET_ACCESS_KEY": "s", "HOME": "/home/me"}
    commit = {"DEPTHFLOW_GIT_COMMIT": "c"}
    assert job_environment([], environment, git_commit="c") == {**MLFLOW, **commit}
    assert job_environment(["AWS_PROFILE"], environment, git_commit="c") == {**MLFLOW, "AWS_PROFILE": "p", **commit}
    assert job_environment([], {}, git_commit="c") == commit
    assert job_environment([], {"DEPTHFLOW_LOG_FORMAT": "json"}, git_commit="c") == {
        "DEPTHFLOW_LOG_FORMAT": "json",
        **commit,
    }
    with pytest.raises(ClusterError, match=r"--env names variables that are not set: A, B\."):
        job_environment(["A", "AWS_PROFILE", "B"], environment, git_commit="c")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/photos", "/photos"),
        ("/photos/**/*.jpg", "/photos"),
        ("/photos/a[12].jpg", "/photos"),
        ("s3://b/photos/*.png", "s3://b/photos"),
        ("/*.jpg", ""),
    ],
)
def test_before_wildcard(location, expected):
    assert before_wildcard(location) == expected
