"""What every command's configuration shares: the `flags` decorator, the checks, and what Ray may use of a machine.

A configuration is a frozen dataclass beside what it configures; a flag, its default, its help and its check are
written there once.
"""

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_origin

import tyro

Split = Literal["train", "val"]
"""Splits of a store."""
Config = TypeVar("Config")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def flags(cls: type[Config]) -> type[Config]:
    """Makes the class a frozen, keyword-only dataclass for tyro.

    tyro takes a field's docstring as it stands: --help would break lines where the source does, besides where the
    terminal does, and would say (default: None) behind a help that says what happens by default.
    """
    for name, text in _field_docstrings(cls).items():
        annotation = cls.__annotations__[name]
        if get_origin(annotation) is not Annotated:  # Else it says its help itself, or is no flag.
            cls.__annotations__[name] = Annotated[annotation, flag_help(text)]
    return dataclass(frozen=True, kw_only=True)(cls)


def flag_help(text: str) -> Any:
    """The help of a flag, on as many lines as the terminal needs; then its default, where it has one worth saying."""
    return tyro.conf.arg(
        help=" ".join(text.split()),
        help_behavior_hint=lambda default: "" if default in ("", "None") else f"(default: {default})",
    )


def explained(what: str, helps: Mapping[str, str]) -> Any:
    """The help of a flag that takes names: what it is for, then each name with its own."""
    return flag_help(f"{what} {'; '.join(f'{name}: {text}' for name, text in helps.items())}.")


def _field_docstrings(cls: type) -> dict[str, str]:
    """Maps each field to the docstring under it."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def require(condition: bool, message: str) -> None:
    """Raises ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_positive(**flags: int | None) -> None:
    """Raises ValueError unless each given flag is at least 1."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        require(value is None or value >= 1, f"{flag} must be at least 1. Received: {value}")


def require_folder(**flags: str | None) -> None:
    """Raises ValueError unless each given flag is a path on a disk."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        require(value is None or "://" not in value, f"{flag} must be a folder on a disk. Received: {value}")


def require_known(**flags: tuple[Iterable[str], Collection[str]]) -> None:
    """Raises ValueError unless each flag takes known names alone."""
    for name, (received, known) in flags.items():
        flag = f"--{name.replace('_', '-')}"
        for one in received:
            require(one in known, f"{flag} takes: {', '.join(known)}. Received: {one}")


@flags
class RayConfig:
    """Options of every command that runs on Ray."""

    num_cpus: int | None = None
    """Number of CPUs of the local Ray. Ignored if RAY_ADDRESS names a cluster. Default: all."""

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
