"""What a command needs of a cluster, read from its flags before anything is uploaded. Imports no Ray."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflow.cluster.config import CheckName
from depthflow.errors import ClusterError
from depthflow.observability.logs import LOG_FORMAT
from depthflow.storage.location import is_uri

WRITTEN = ("out", "storage")
"""Flags that name where a command writes."""
READ = ("samples", "source", "images")
"""Flags that name what it reads; it must be there."""
MODELS = ("model", "compare")
"""Flags that name models: registered ones, or folders."""
USES_MLFLOW = ("train", "evaluate", "promote", "predict")
WORK = {"train": "training", "evaluate": "pool", "promote": "pool", "predict": "pool", "preprocess": "data"}
"""What a command places on the cluster, as doctor.py's --work says it."""
NOT_SUBMITTED = ("submit",)
LOOKS_ITSELF = ("doctor",)
"""Commands without a preflight."""
KEPT_OUTCOMES = ("train",)
"""Commands whose result stands: the same again is asked for by --again. Others find by themselves what is done."""
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
_LOCAL_STORES = ("sqlite:", "file:", "/", ".")


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What the preflight of a command is to check.

    Attributes:
        writes: locations that every node must be able to write.
        reads: locations that must be there for every node.
        work: what it places on the cluster, as doctor.py's --work; None for a command that does without Ray.
        num_workers: of training or of the pool, if the command says so.
        uses_mlflow: whether it does.
    """

    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    work: str | None = None
    num_workers: int | None = None
    uses_mlflow: bool = False


def requirements_of(name: str, parsed: Mapping[str, Any]) -> Requirements:
    """What follows from a command's flags.

    Args:
        name: the command.
        parsed: the dataclasses that its flags make.
    """
    flags = _flags(parsed)
    return Requirements(
        writes=_locations(flags, WRITTEN),
        reads=tuple(location for value in _locations(flags, READ) if (location := before_wildcard(value))),
        work=WORK.get(name),
        num_workers=flags.get("num_workers") if name in WORK else None,
        uses_mlflow=name in USES_MLFLOW,
    )


def check_submittable(name: str, parsed: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Refuses what cannot work in a job, whose directory is thrown away.

    Args:
        name: the command.
        parsed: the dataclasses that its flags make.
        environment: this process's.

    Raises:
        ClusterError: naming the flag or variable to set.
    """
    if name in NOT_SUBMITTED:
        raise ClusterError(f"{name} is not to be run as a job. Submit the command itself.")
    for flag, location in _named_locations(_flags(parsed)):
        if not is_uri(location) and not Path(location).is_absolute():
            raise ClusterError(
                f"--{flag.replace('_', '-')} is relative, and a job's directory is thrown away. Received: {location}. "
                "Pass s3://, gs:// or the absolute path of a disk that all nodes share."
            )
    uri = environment.get(MLFLOW_VARIABLE, "")
    if name in USES_MLFLOW and not uri:
        raise ClusterError(
            f"A submitted {name} needs an MLflow that outlives it: a job's directory is thrown away. Set "
            f"{MLFLOW_VARIABLE}, to http://HOST:5000 say. Received: none"
        )
    if re.match(r"sqlite:///(?!/)", uri) or uri.startswith("file:.") or (uri and ":" not in uri and uri[0] != "/"):
        raise ClusterError(
            f"{MLFLOW_VARIABLE} is relative, and a job's directory is thrown away. Received: {uri}. Set it to an "
            "MLflow server, or on a single machine to an absolute sqlite:////PATH/mlflow.db."
        )


def job_environment(names: Sequence[str], environment: Mapping[str, str], *, git_commit: str) -> dict[str, str]:
    """The variables that a job is given: where MLflow is, how to log, the commit of the code, and those named.

    Raises:
        ClusterError: if one that was named is not set.
    """
    missing = [name for name in names if name not in environment]
    if missing:
        raise ClusterError(f"--env names what is not set here: {', '.join(missing)}. Export it, or leave it out.")
    handed = {name: environment[name] for name in (MLFLOW_VARIABLE, LOG_FORMAT, *names) if name in environment}
    return {**handed, "DEPTHFLOW_GIT_COMMIT": git_commit}


def preflight_flags(requirements: Requirements) -> list[str]:
    """The flags of doctor.py that check what a command needs, in the seconds a job has for it."""
    trains = requirements.work == "training"
    checks: list[CheckName] = ["versions", "disk", "proxies"]
    if requirements.work:
        checks.insert(0, "plan")
    if requirements.writes or requirements.reads:
        checks.append("storage")
    if requirements.uses_mlflow:
        checks.append("mlflow")
    if trains:
        checks.extend(("gpus", "all-reduce"))
    flags = ["--quick", "--checks", *checks]
    for flag, locations in (("--storage", requirements.writes), ("--samples", requirements.reads)):
        flags += [flag, *locations] if locations else []
    if requirements.work is not None:
        flags += ["--work", requirements.work]
    if requirements.num_workers is not None:
        flags += ["--num-workers", str(requirements.num_workers)]
    return flags


def is_local_store(mlflow_uri: str) -> bool:
    """Whether an MLflow URI is a file or folder of one machine."""
    return mlflow_uri.startswith(_LOCAL_STORES)


def before_wildcard(location: str) -> str:
    """The folder below which a pattern looks; a location without wildcards as it is; empty where nothing is left."""
    found = re.search(r"[*?\[]", location)
    return location[: found.start()].rpartition("/")[0] if found else location


def _flags(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Every flag of a command by its name; a path is never that of a recipe's own."""
    return {name: value for config in parsed.values() for name, value in vars(config).items()}


def _locations(flags: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    values = (flags.get(name) for name in names)
    return tuple(v for value in values if value for v in ((value,) if isinstance(value, str) else value))


def _named_locations(flags: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every location on a disk or an object store, with the flag that names it."""
    named = [(name, location) for name in (*WRITTEN, *READ, "cache_dir") for location in _locations(flags, [name])]
    weights = flags.get("encoder_weights")
    if weights not in (None, "imagenet", "none"):
        named.append(("encoder_weights", weights))
    for name in MODELS:
        models = (model.removeprefix("depth-anything:") for model in _locations(flags, [name]))
        named += [(name, model) for model in models if model.startswith(".") or ("/" in model and ":/" not in model)]
    return named
