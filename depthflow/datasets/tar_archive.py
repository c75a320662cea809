"""Reads tars in place, plain or compressed by gzip.

rapidgzip decompresses in parallel and keeps an index of seek points. So several workers can read different members of
one .tar.gz at once, and nothing is unpacked to disk. A plain tar is its own decompressed stream, without an index.
"""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

import rapidgzip

from depthflow.datasets.archive_member import LimitedReads, Member, Progress, ReadSpan, open_bytes, why_unsafe
from depthflow.datasets.gzip_index import slice_index
from depthflow.datasets.listing import printable
from depthflow.errors import SourceError
from depthflow.storage.location import is_uri

_TAIL_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20
_MAX_TAR_BYTES = 2**62


@contextmanager
def scanning(
    archive: str, index_path: str, *, threads: int, progress: Progress
) -> Iterator[tuple[Iterator[tuple[Member, int]], ReadSpan]]:
    """Opens a tar to be listed: yields its members with their decompressed sizes, and what reads those already listed.

    Args:
        index_path: Local file to write the index of a compressed tar to.
        threads: Number of threads that decompress.
        progress: Called for each member and folder.
    """
    with _decompressed(archive, threads) as stream:
        yield _members(stream, progress), partial(_read, stream)
        if not _is_plain(archive):
            _export_index(stream, index_path)


@contextmanager
def reading(archive: str, index: IO[bytes], *, begin: int, end: int) -> Iterator[ReadSpan]:
    """Opens a tar for the spans between `begin` and `end`; reading them in order decompresses nothing twice.

    Args:
        index: Index that listing it has written.
    """
    with _decompressed(archive, 1) as stream:
        if _is_plain(archive):
            yield partial(_read_after_header, stream)
        else:
            stream.import_index(slice_index(index, begin=begin, end=end))
            yield partial(_read, stream)


def _is_plain(archive: str) -> bool:
    return archive.endswith(".tar")


@contextmanager
def _decompressed(archive: str, threads: int) -> Iterator[Any]:
    if _is_plain(archive):
        with open_bytes(archive) as stream:
            yield stream
    elif is_uri(archive):
        with open_bytes(archive) as handle, rapidgzip.open(handle, parallelization=threads) as stream:
            yield stream
    else:
        with rapidgzip.open(archive, parallelization=threads) as stream:
            yield stream


def _members(stream: Any, progress: Progress) -> Iterator[tuple[Member, int]]:
    headers: Any = LimitedReads(stream, "the header of a member", _MAX_HEADER_BYTES)
    with tarfile.open(fileobj=headers, mode="r:") as tar:
        while (entry := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # It keeps a kilobyte of each.
            name = printable(entry.name)
            if entry.size < 0 or not entry.offset_data <= tar.offset <= _MAX_TAR_BYTES:  # It could go back for ever.
                raise tarfile.ReadError(f"{name} has {entry.size} bytes")
            progress(name, _position(stream))
            if not entry.isdir():
                yield Member(name, entry.offset_data, entry.size, printable(_problem(entry))), entry.size
        tar_end = tar.offset
    _require_zeros(stream, tar_end)


def _position(stream: Any) -> int:
    """Returns the position in the archive, in bytes."""
    return stream.tell_compressed() // 8 if hasattr(stream, "tell_compressed") else stream.tell()


def _read(stream: Any, span: tuple[int, int]) -> bytes:
    offset, size = span
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"{len(content)} of {size} bytes at {offset}")
    return content


def _read_after_header(stream: Any, span: tuple[int, int]) -> bytes:
    """Reads a member of a plain tar, in which nothing else would show that it is no longer the tar that was listed."""
    header = _read(stream, (span[0] - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE))
    tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")
    return _read(stream, span)


def _problem(entry: tarfile.TarInfo) -> str:
    """Returns why a member must not be read, or an empty string."""
    problem = ""
    if entry.issym() or entry.islnk():
        problem = f"is a link to {entry.linkname}"
    elif not entry.isreg() or entry.issparse():
        problem = "is not a plain file"
    return why_unsafe(entry.name, entry.size, problem)


def _require_zeros(stream: Any, offset: int) -> None:
    """Raises if anything but zeros follows the last member, as tarfile silently stops at what it cannot read."""
    stream.seek(offset)
    zeros = 0
    while content := stream.read(_TAIL_BYTES):
        zeros += content.count(0)
        if content.count(0) != len(content):
            raise tarfile.ReadError(f"what follows byte {offset} of the decompressed tar is not a member")
    if zeros < tarfile.BLOCKSIZE:
        raise EOFError(f"the tar has no end marker; it stops after {offset} bytes")


def _export_index(stream: Any, index_path: str) -> None:
    with _IndexFile(index_path, "wb") as index:
        stream.export_index(index)
    if index.error is not None:
        raise SourceError(
            f"The archive's index cannot be written to {index_path}: {index.error.strerror}. Free space there, or set "
            "TMPDIR to a folder that has some."
        )


class _IndexFile(io.FileIO):
    """Keeps the error of a failed write instead of raising it, as rapidgzip would then end the process."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(content)
