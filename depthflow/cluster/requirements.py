"""Derives what a command needs from a cluster from its flags, before anything is uploaded. Imports no Ray."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthflow.cluster.config import SubmitConfig
from depthflow.cluster.submission import Job
from depthflow.command import EXIT_USAGE, parse_command
from depthflow.errors import ClusterError
from depthflow.models.transformers_folder import DEPTH_ANYTHING_PREFIX, is_hub_name
from depthflow.observability.logs import LOG_FORMAT
from depthflow.observability.safe_text import without_credentials
from depthflow.storage.location import is_uri

WRITTEN = ("out", "storage")
"""Flags that name locations a command writes to."""
READ = ("samples", "source", "images")
"""Flags that name locations a command reads, which must exist."""
MODELS = ("model", "compare")
"""Flags that name models: MLflow URIs or folders."""
USES_MLFLOW = ("train", "evaluate", "promote", "predict", "export")
WORK = {
    "train": "training",
    "evaluate": "pool",
    "promote": "pool",
    "predict": "pool",
    "export": "pool",
    "preprocess": "data",
}
"""What a command runs on the cluster, as a value of doctor.py's --work."""
NOT_SUBMITTED = ("submit",)
WITHOUT_PREFLIGHT = ("doctor",)
RUN_ONCE = ("train",)
"""Commands whose finished job is reported instead of run again. Other commands skip finished work by themselves."""
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
_LOCAL_STORES = ("sqlite:", "file:", "/", ".")


def plan_job(
    config: SubmitConfig, scripts: Mapping[str, Path], environment: Mapping[str, str], *, git_commit: str
) -> Job:
    """Checks a command line and returns its job.

    Args:
        config: Command line and how to run it.
        scripts: File of each command by name.
        environment: Environment variables of this process.
        git_commit: Commit of the code.

    Raises:
        ClusterError: if there is no such command, or it cannot work as a job.
        SystemExit: for wrong flags.
    """
    name, *arguments = config.command
    if name not in scripts:
        raise ClusterError(f"There is no command {name}. Pass one of: {', '.join(scripts)}.", exit_code=EXIT_USAGE)
    parsed = parse_command(scripts[name], arguments)
    check_submittable(name, parsed, environment)
    require_no_credentials(*arguments, environment.get(MLFLOW_VARIABLE, ""))
    return Job(
        name=name,
        arguments=tuple(arguments),
        preflight=None if name in WITHOUT_PREFLIGHT else tuple(preflight_flags(name, parsed)),
        environment=job_environment(config.env, environment, git_commit=git_commit),
        python=config.python,
    )


def check_submittable(name: str, parsed: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Rejects a command that cannot work as a job, whose working directory is temporary.

    Args:
        name: Name of the command.
        parsed: Dataclasses parsed from its flags.
        environment: Environment variables of this process.

    Raises:
        ClusterError: naming the flag or variable to set.
    """
    if name in NOT_SUBMITTED:
        raise ClusterError(f"{name} cannot run as a job. Submit the command itself.")
    for flag, location in _named_locations(_flags(parsed)):
        if not is_uri(location) and not Path(location).is_absolute():
            raise ClusterError(
                f"--{flag.replace('_', '-')} is relative, and a job's directory is temporary. Received: {location}. "
                "Pass s3://, gs:// or the absolute path of a disk that all nodes share."
            )
    uri = environment.get(MLFLOW_VARIABLE, "")
    if name in USES_MLFLOW and not uri:
        raise ClusterError(
            f"A submitted {name} needs an MLflow that outlives the job, whose directory is temporary. Set "
            f"{MLFLOW_VARIABLE}, for example to http://HOST:5000. Received: none"
        )
    if re.match(r"sqlite:///(?!/)", uri) or uri.startswith("file:.") or (uri and ":" not in uri and uri[0] != "/"):
        raise ClusterError(
            f"{MLFLOW_VARIABLE} is relative, and a job's directory is temporary. Received: {uri}. Set it to an MLflow "
            "server, or on a single machine to an absolute sqlite:////PATH/mlflow.db."
        )


def require_no_credentials(*texts: str) -> None:
    """Raises ClusterError if a URI has a user or a password: a job's command line and environment are no secrets."""
    for text in texts:
        if without_credentials(text) != text:
            raise ClusterError(
                "Whoever sees the cluster's jobs can read their command lines and environments. Received: "
                f"{without_credentials(text)}. Leave user and password out of the URI; for MLflow, set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster's nodes."
            )


def job_environment(names: Sequence[str], environment: Mapping[str, str], *, git_commit: str) -> dict[str, str]:
    """Returns the variables of a job: the MLflow URI, the log format, the git commit, and those named by --env.

    Raises:
        ClusterError: if a named variable is not set.
    """
    missing = [name for name in names if name not in environment]
    if missing:
        raise ClusterError(
            f"--env names variables that are not set: {', '.join(missing)}. Export them, or leave them out."
        )
    passed = {name: environment[name] for name in (MLFLOW_VARIABLE, LOG_FORMAT, *names) if name in environment}
    return {**passed, "DEPTHFLOW_GIT_COMMIT": git_commit}


def preflight_flags(name: str, parsed: Mapping[str, Any]) -> list[str]:
    """Returns the flags with which doctor.py checks within seconds what a command needs.

    Args:
        name: Name of the command.
        parsed: Dataclasses parsed from its flags.
    """
    values, work = _flags(parsed), WORK.get(name)
    locations = {
        "--storage": _locations(values, WRITTEN),
        "--samples": tuple(filter(None, map(before_wildcard, _locations(values, READ)))),
    }
    checks = ["plan"] if work else []
    checks += ["versions", "disk", "proxies"]
    checks += ["storage"] if any(locations.values()) else []
    checks += ["mlflow"] if name in USES_MLFLOW else []
    checks += ["gpus", "all-reduce"] if work == "training" else []
    flags = ["--quick", "--checks", *checks]
    for flag, named in locations.items():
        flags += [flag, *named] if named else []
    if work:
        flags += ["--work", work]
        if values.get("num_workers") is not None:
            flags += ["--num-workers", str(values["num_workers"])]
    return flags


def is_local_store(mlflow_uri: str) -> bool:
    """Returns whether an MLflow URI is a file or folder of one machine."""
    return mlflow_uri.startswith(_LOCAL_STORES)


def before_wildcard(location: str) -> str:
    """Returns the folder above a pattern's first wildcard, or the location itself if it has none."""
    found = re.search(r"[*?\[]", location)
    return location[: found.start()].rpartition("/")[0] if found else location


def _flags(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all values of a command by field name."""
    return {name: value for config in parsed.values() for name, value in vars(config).items()}


def _locations(flags: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    values = (flags.get(name) for name in names)
    return tuple(v for value in values if value for v in ((value,) if isinstance(value, str) else value))


def _named_locations(flags: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (flag, location) for every path or URI among the flags."""
    named = [(name, location) for name in (*WRITTEN, *READ, "cache_dir") for location in _locations(flags, [name])]
    weights = flags.get("weights")
    if weights not in (None, "imagenet", "none") and not is_hub_name(weights):
        named.append(("weights", weights))
    for name in MODELS:
        for model in _locations(flags, [name]):
            place = model.removeprefix(DEPTH_ANYTHING_PREFIX)
            if place != model and not is_hub_name(place):
                named.append((name, place))
            elif place == model and (model.startswith(".") or ("/" in model and ":/" not in model)):
                named.append((name, model))
    return named
