"""Parses the small text files of layouts: numbers, tables, matrices, JSON. A damaged file is a SourceError."""

import json
from collections.abc import Iterator
from typing import Any

from depthflow.datasets.listing import Listing, SourceFile
from depthflow.errors import SourceError


def where(listing: Listing, file: SourceFile) -> str:
    """Returns how messages name a file of a source."""
    return f"{file.path} of {listing.location}"


def damaged(place: str, line: int, expected: str, received: str) -> SourceError:
    """Returns the error of a line that is not as it should be.

    Args:
        place: See `where`.
    """
    shown = received if len(received) <= 80 else f"{received[:80]}..."
    return SourceError(
        f"{place}, line {line}: expected {expected}, received {shown!r}. Restore the file from the data set, or remove "
        "it."
    )


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that are neither empty nor comments (#), with their numbers from 1."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def parse_numbers(line: str, *, count: int, place: str, number: int) -> list[float]:
    """Returns a line's numbers, which may be NaN or infinite; raises SourceError unless there are `count`.

    Args:
        number: The line's number.
    """
    try:
        values = [float(word) for word in line.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != count:
        raise damaged(place, number, f"{count} numbers" if count > 1 else "a number", line)
    return values


def parse_table(text: str, *, columns: int, place: str) -> list[list[float]]:
    """Returns the numbers of each line; raises SourceError for a line without `columns` numbers."""
    return [parse_numbers(line, count=columns, place=place, number=number) for number, line in numbered_lines(text)]


def parse_matrix(text: str, *, size: int, place: str) -> list[float]:
    """Returns a (size, size) matrix row by row, from one line or a line per row; raises SourceError if it is none."""
    lines = list(numbered_lines(text))
    if len(lines) == 1:
        return parse_numbers(lines[0][1], count=size * size, place=place, number=lines[0][0])
    rows = parse_table(text, columns=size, place=place)
    if len(rows) != size:
        raise damaged(place, max(1, len(text.splitlines())), f"{size} lines of {size} numbers", f"{len(rows)} lines")
    return [value for row in rows for value in row]


def parse_object(text: str, *, place: str) -> dict[str, Any]:
    """Returns the JSON object of a file; raises SourceError if it is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(place, error.lineno, f"a JSON object ({error.msg})", text[error.pos :].strip()) from None
    if not isinstance(found, dict):
        raise damaged(place, 1, "a JSON object", str(found))
    return found
