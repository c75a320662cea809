"""Parses the small text files of layouts: numbers, tables, JSON, cameras. A damaged file is a SourceError."""

import json
import math
from collections.abc import Iterator
from typing import Any

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.listing import Listing, SourceFile
from depthflow.errors import SourceError


def where(listing: Listing, file: SourceFile) -> str:
    """Returns how messages name a file of a source."""
    return f"{file.path} of {listing.location}"


def damaged(place: str, line: int, expected: str, received: object) -> SourceError:
    """Returns the error of a line that is not as it should be.

    Args:
        place: See `where`.
    """
    shown = repr(received) if len(repr(received)) <= 80 else f"{repr(received)[:80]}..."
    return SourceError(
        f"{place}, line {line}: expected {expected}, received {shown}. Fix or restore the file, or remove it."
    )


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that are neither empty nor comments (#), with their numbers from 1."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def parse_table(text: str, *, columns: int, place: str) -> list[list[float]]:
    """Returns the numbers of each line, separated by blanks; raises SourceError for a line of more or fewer."""
    rows = []
    for number, line in numbered_lines(text):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != columns:
            raise damaged(place, number, f"{columns} numbers", line)
        rows.append(row)
    return rows


def parse_numbers(text: str, *, count: int, place: str, what: str = "", line: int = 1) -> list[float]:
    """Returns the numbers of a text that holds exactly `count`, on one line or several.

    Args:
        what: What they are, for the message.
        line: Number of the text's first line.

    Raises:
        SourceError: if they are others.
    """
    expected, numbers, last = f"{count} numbers" + (f" of {what}" if what else ""), [], 1
    for last, words in numbered_lines(text):
        try:
            numbers += [float(word) for word in words.split()]
        except ValueError:
            raise damaged(place, line + last - 1, expected, words) from None
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise damaged(place, line + last - 1, expected, text.strip())
    return numbers


def parse_object(text: str, *, place: str) -> dict[str, Any]:
    """Returns the JSON object of a file; raises SourceError if it is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(place, error.lineno, "a JSON object", error.msg) from None
    if not isinstance(found, dict):
        raise damaged(place, 1, "a JSON object", found)
    return found


def pinhole(
    fx_px: float,
    fy_px: float,
    cx_px: float,
    cy_px: float,
    *,
    place: str,
    width: int = 0,
    height: int = 0,
    line: int = 1,
) -> Camera | Intrinsics:
    """Returns a camera; raises SourceError for impossible values.

    Args:
        cx_px, cy_px: From the image's corner. OpenCV counts from the first pixel's centre, 0.5 less.
        width, height: 0 if unknown: those of the image.
    """
    values: dict[str, Any] = {"fx_px": fx_px, "fy_px": fy_px, "cx_px": cx_px, "cy_px": cy_px}
    try:
        return Camera(width=width, height=height, **values) if width or height else Intrinsics(**values)
    except (TypeError, ValueError) as error:
        raise damaged(place, line, "a camera", str(error)) from None
