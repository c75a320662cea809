"""A member of an archive, and what holds for the members of every kind of archive."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from depthflow.errors import SourceError
from depthflow.storage.foreign_file import why_too_large
from depthflow.storage.location import is_uri, object_store, reported

ReadSpan = Callable[[tuple[int, int]], bytes]
"""Returns the content of the member at a span (offset, size)."""
PLACE = re.compile(r"@(?P<offset>\d+)\+(?P<size>\d+)$")
"""How the place of a member ends: train/indoors/scene_00000/scan_00000/NAME.png@1536+42133."""
Progress = Callable[[str, int], None]
"""Called with a member's name and the number of bytes of the archive read so far."""


class Member(NamedTuple):
    """A member of an archive that is not a folder.

    Attributes:
        name: Its name; bytes that are not valid UTF-8 are escaped.
        offset, size: Its span. Of a tar: where its content is, in bytes of the decompressed tar. Of a zip: where its
            header is, and how many bytes its compressed content has.
        problem: Why it must not be read, or empty.
    """

    name: str
    offset: int
    size: int
    problem: str

    @property
    def place(self) -> str:
        """Where a frame says that it is; see `PLACE`."""
        return f"{self.name}@{self.offset}+{self.size}"


def member_span(place: str) -> tuple[int, int]:
    """Returns the span of a member, given its place."""
    offset, size = PLACE.search(place).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return int(offset), int(size)


def why_unsafe(name: str, size: int, problem: str) -> str:
    """Returns why a member must not be read, or an empty string.

    Args:
        size: Size of its content, decompressed.
        problem: What its kind of archive finds, such as "is encrypted", or empty.
    """
    if name.startswith("/") or ".." in name.split("/"):
        return f"the member's name {name} leaves the archive"
    problem = problem or why_too_large(size)
    return f"{name} {problem}" if problem else ""


@contextmanager
def open_bytes(archive: str) -> Iterator[Any]:
    """Opens an archive's file on a disk, s3:// or gs://."""
    if is_uri(archive):
        filesystem, path = object_store(archive, SourceError)
        with reported(f"The archive {archive} cannot be read", SourceError):
            handle = filesystem.open(path, "rb")
    else:
        handle = Path(archive).open("rb")  # noqa: SIM115
    with handle:
        yield handle


class LimitedReads:
    """A stream whose reads have a limit, for libraries that read as much as a header says.

    Args:
        stream: What is read.
        what: What the library reads, for the message.
        limit: Number of bytes that a read may ask for.
    """

    def __init__(self, stream: Any, what: str, limit: int) -> None:
        self._stream, self._what, self.limit = stream, what, limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        """Raises ValueError if the read asks for more than the limit, or for less than nothing."""
        if size < -1 or size > self.limit:
            raise ValueError(f"{self._what} has {size} bytes, more than {self.limit}")
        return self._stream.read(size)
