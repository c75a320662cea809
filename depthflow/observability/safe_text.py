"""Makes text from elsewhere fit to be shown: no passwords of URIs, and no control characters that a terminal obeys."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls, line separators, and marks that reverse the direction of text."""


def without_credentials(text: str) -> str:
    """Returns the text with the user and password of each URI replaced by ***."""
    return _CREDENTIALS.sub("***@", text)


def escape_controls(text: str) -> str:
    """Returns the text with control characters as Python escapes them, so that it is one line."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def streams_without_credentials() -> Iterator[None]:
    """Hides credentials in everything that this process writes to stdout and stderr within the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_WithoutCredentials(stream) for stream in before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _WithoutCredentials:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(without_credentials(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
