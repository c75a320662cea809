"""Base of every command's configuration: the `flags` decorator, shared flags and checks.

A configuration is a frozen dataclass in the package that it configures. Each flag is written there once, with its
default, help and check.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_origin

import docstring_parser
import tyro

from depthflow.observability.safe_text import escape_controls, without_credentials

Split = Literal["train", "val"]
"""Splits of a store."""
Config = TypeVar("Config")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def flags(cls: type[Config]) -> type[Config]:
    """Makes the class a frozen, keyword-only dataclass whose field docstrings are the help of its flags.

    tyro reads them too, but keeps the line breaks of the source and adds (default: None).
    """
    for field in docstring_parser.parse_from_object(cls).params:
        annotation = cls.__annotations__[field.arg_name]
        if get_origin(annotation) is not Annotated and field.description:  # Otherwise it has its own help, or none.
            cls.__annotations__[field.arg_name] = Annotated[annotation, flag_help(field.description)]
    return dataclass(frozen=True, kw_only=True)(cls)


def flag_help(text: str, *, alias: str | None = None) -> Any:
    """Sets the help of a flag, without the line breaks of the source and without a default of None.

    Args:
        text: The help.
        alias: An older name of the flag.
    """
    return tyro.conf.arg(
        aliases=[alias] if alias else None,
        help=" ".join(text.split()),
        help_behavior_hint=lambda default: "" if default in ("", "None") else f"(default: {default})",
    )


def explained(what: str, helps: Mapping[str, str]) -> Any:
    """Sets the help of a flag that takes names: what it is for, then each name with its own help."""
    return flag_help(f"{what} {'; '.join(f'{name}: {text}' for name, text in helps.items())}.")


def require(condition: bool, message: str) -> None:
    """Raises ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(escape_controls(without_credentials(message)))


def require_positive(**flags: int | None) -> None:
    """Raises ValueError unless each given flag is at least 1."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        require(value is None or value >= 1, f"{flag} must be at least 1. Received: {value}")


def require_folder(**flags: str | None) -> None:
    """Raises ValueError unless each given flag is a path on a local disk."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        require(value is None or "://" not in value, f"{flag} must be a folder on a disk. Received: {value}")


def require_model_name(name: str) -> None:
    """Raises ValueError unless MLflow allows the name and models:/NAME@ALIAS can hold it."""
    is_allowed = name.strip() and name != "." and not name.startswith("..") and not {*"/:@"} & {*name}
    require(bool(is_allowed), f"--model-name must not contain / : @, start with .. or be empty. Received: {name}")


def require_known(**flags: tuple[Iterable[str], Collection[str]]) -> None:
    """Raises ValueError unless each flag received only known names."""
    for name, (received, known) in flags.items():
        flag = f"--{name.replace('_', '-')}"
        for one in received:
            require(one in known, f"{flag} takes: {', '.join(known)}. Received: {one}")


@flags
class RayConfig:
    """Options of every command that runs on Ray."""

    num_cpus: int | None = None
    """Number of CPUs of the local Ray. Ignored if RAY_ADDRESS names a cluster. Default: all."""
    verbose: bool = False
    """Also show the messages of TensorFlow, Ray and MLflow that call for no action."""

    def __post_init__(self) -> None:
        require_positive(num_cpus=self.num_cpus)


@flags
class PoolConfig(RayConfig):
    """Options of every command that predicts."""

    num_workers: int | None = None
    """Number of processes that hold the model. Default: one per GPU, or one without GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(num_workers=self.num_workers)
