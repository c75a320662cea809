"""--help of a flag that takes names of a table."""

from collections.abc import Mapping
from typing import Any, Protocol

import tyro


class Explained(Protocol):
    """An entry of a table that says what it is."""

    @property
    def help(self) -> str:
        """In a few words."""
        ...


def explained(what: str, table: Mapping[str, Explained]) -> Any:
    """The flag's help: what it is for, then each name with its own."""
    return tyro.conf.arg(help=f"{what} {'; '.join(f'{name}: {entry.help}' for name, entry in table.items())}.")
