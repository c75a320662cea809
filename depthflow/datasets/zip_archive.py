"""Reads zips in place: the directory at the end lists the members, each of which is compressed by itself."""

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from depthflow.datasets.archive_member import LimitedReads, Member, Progress, ReadSpan, open_bytes, why_unsafe
from depthflow.storage.foreign_file import MAX_FILE_BYTES

_MAX_DIRECTORY_BYTES = 2**28
_MIN_HEADER_BYTES = 30
_ENCRYPTED, _UTF8 = 0x1, 0x800
"""Flags of a member."""


@contextmanager
def scanning(
    archive: str, index_path: str, *, threads: int, progress: Progress
) -> Iterator[tuple[Iterator[tuple[Member, int]], ReadSpan]]:
    """Opens a zip to be listed; see `depthflow.datasets.tar_archive.scanning`. It needs no index and no threads."""
    with _opened(archive) as file:
        yield _members(file, progress), _reader(file)


@contextmanager
def reading(archive: str, index: IO[bytes], *, begin: int, end: int) -> Iterator[ReadSpan]:
    """Opens a zip to be read; see `depthflow.datasets.tar_archive.reading`. Any member may be read in any order."""
    with _opened(archive) as file:
        yield _reader(file)


@contextmanager
def _opened(archive: str) -> Iterator[zipfile.ZipFile]:
    with open_bytes(archive) as handle:
        limited = LimitedReads(handle, "its directory", _MAX_DIRECTORY_BYTES)
        with zipfile.ZipFile(limited) as file:  # pyright: ignore[reportCallIssue, reportArgumentType]
            limited.limit = MAX_FILE_BYTES  # From here on it reads members.
            yield file


def _members(file: zipfile.ZipFile, progress: Progress) -> Iterator[tuple[Member, int]]:
    """Yields the members in the order of their headers, with their decompressed sizes."""
    entries = sorted(file.infolist(), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in entries), file.start_dir][1:]
    for entry, end in zip(entries, ends, strict=True):
        name = _name(entry)
        if entry.header_offset < 0 or entry.header_offset + _MIN_HEADER_BYTES + entry.compress_size > end:
            raise zipfile.BadZipFile(f"{name} overlaps what follows it")
        progress(name, entry.header_offset)
        if not name.endswith("/"):
            yield Member(name, entry.header_offset, entry.compress_size, _problem(entry)), entry.file_size


def _reader(file: zipfile.ZipFile) -> ReadSpan:
    entries = {(entry.header_offset, entry.compress_size): entry for entry in file.infolist()}

    def read(span: tuple[int, int]) -> bytes:
        entry = entries.get(span)
        if entry is None or _problem(entry):
            raise zipfile.BadZipFile(f"the member at byte {span[0]} is not the one that was listed")
        with file.open(entry) as stream:
            content = stream.read(entry.file_size)  # Never read(), which decompresses beyond the size that is stated.
        if len(content) != entry.file_size:
            raise EOFError(f"{len(content)} of {entry.file_size} bytes of {entry.filename}")
        return content

    return read


def _name(entry: zipfile.ZipInfo) -> str:
    """Returns a member's name, which zipfile takes for CP437 where nothing says UTF-8, though most write UTF-8."""
    if entry.flag_bits & _UTF8 or entry.filename != entry.orig_filename:
        return entry.filename
    return entry.filename.encode("cp437").decode("utf-8", "backslashreplace")


def _problem(entry: zipfile.ZipInfo) -> str:
    """Returns why a member must not be read, or an empty string."""
    mode = stat.S_IFMT(entry.external_attr >> 16)
    problem = ""
    if entry.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    elif mode not in (0, stat.S_IFREG):  # 0 if the system that wrote it has no modes.
        problem = "is a link" if mode == stat.S_IFLNK else "is not a plain file"
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"is compressed by method {entry.compress_type}; store or deflate it"
    return why_unsafe(_name(entry), entry.file_size, problem)
