"""Checks that the configurations share; a message names the flag, what it takes and what was received."""

from collections.abc import Collection, Iterable


def require(condition: bool, message: str) -> None:
    """Raises ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_positive(**flags: int | None) -> None:
    """Each flag, if given, is at least 1."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        require(value is None or value >= 1, f"{flag} must be at least 1. Received: {value}")


def require_folder(**flags: str | None) -> None:
    """Each flag, if given, is a path on a disk."""
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        require(value is None or "://" not in value, f"{flag} must be a folder on a disk. Received: {value}")


def require_known(**flags: tuple[Iterable[str], Collection[str]]) -> None:
    """Each flag's names are of its table."""
    for name, (received, known) in flags.items():
        flag = f"--{name.replace('_', '-')}"
        for one in received:
            require(one in known, f"{flag} takes: {', '.join(known)}. Received: {one}")
