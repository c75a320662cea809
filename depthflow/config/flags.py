"""What every configuration is: a frozen dataclass whose fields are flags, each with its docstring as help."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar, dataclass_transform, get_origin

import tyro

Config = TypeVar("Config")


class Explained(Protocol):
    """An entry of a table that says what it is."""

    @property
    def help(self) -> str:
        """In a few words."""
        ...


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


def explained(what: str, table: Mapping[str, Explained]) -> Any:
    """The help of a flag that takes names of a table: what it is for, then each name with its own."""
    return flag_help(f"{what} {'; '.join(f'{name}: {entry.help}' for name, entry in table.items())}.")


def _field_docstrings(cls: type) -> dict[str, str]:
    """Field to the string that stands under it."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found
