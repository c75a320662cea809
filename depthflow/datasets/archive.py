"""Reads DIODE's official archives in place: one pass lists the members, which are then read by offset.

rapidgzip decompresses in parallel and keeps an index of seek points. So several workers can read different members of
one .tar.gz at once, and nothing is unpacked to disk.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import rapidgzip
import xxhash

from depthflow.datasets.camera import CAMERA_FILE, parse_camera
from depthflow.datasets.gzip_index import slice_index
from depthflow.datasets.listing import Listing, SourceFile, printable
from depthflow.errors import SourceError
from depthflow.storage.foreign_file import is_hidden, why_not_plain, why_too_large
from depthflow.storage.location import absolute, is_uri, object_store, reported

SUFFIXES = (".tar.gz", ".tgz")
_INFLATE_ERRORS = (ValueError, RuntimeError, OSError, tarfile.TarError, EOFError)
"""Raised by rapidgzip and tarfile for damaged bytes."""
TEXT_SUFFIXES = (".txt", ".json", ".csv", ".log", ".pincam", ".traj")
"""Endings of the files that layouts read: cameras, poses, lists of frames."""
_MAX_TEXT_BYTES = 2**24
_TAIL_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20
_MAX_MEMBERS = 2**22
ReadSpan = Callable[[tuple[int, int]], bytes]
"""Returns the bytes of a span (offset, size) of a decompressed tar."""


class Member(NamedTuple):
    """A member of an archive that is not a folder.

    Attributes:
        name: Its name; bytes that are not valid UTF-8 are escaped.
        offset, size: Where its content is, in bytes of the decompressed tar.
        problem: Why it must not be read, or empty.
    """

    name: str
    offset: int
    size: int
    problem: str


class Contents(NamedTuple):
    """What an archive holds.

    Attributes:
        members: Its members in order.
        camera: Content of its camera.json, or None. If there are several, the one nested least deeply counts.
        texts: Number of a member to the content of a small text file, which a layout may need.
    """

    members: list[Member]
    camera: bytes | None
    texts: dict[int, bytes]


def is_archive(source: str) -> bool:
    """Whether a source is read as a compressed tar; a folder of that name is not."""
    return source.endswith(SUFFIXES) and (is_uri(source) or not Path(source).is_dir())


def archive_identity(archive: str) -> str:
    """Returns the xxh3-64 of an archive's path, size, and time or ETag, which identifies its state without reading it.

    Raises:
        SourceError: if there is no such archive.
    """
    size, state = _state(archive)
    return xxhash.xxh3_64_hexdigest(repr((absolute(archive), size, state)).encode())


def archive_bytes(archive: str) -> int:
    """Returns the size of the archive file; raises SourceError if there is none."""
    return _state(archive)[0]


def _state(archive: str) -> tuple[int, str]:
    """Returns the size in bytes, and the time or ETag."""
    try:
        if is_uri(archive):
            filesystem, path = object_store(archive, SourceError)
            with reported(f"The archive {archive} cannot be read", SourceError):
                info = filesystem.info(path)
            return info["size"], str(info.get("ETag") or info.get("etag") or info.get("mtime"))
        status = Path(archive).stat()
        if problem := why_not_plain(status.st_mode):
            raise SourceError(f"The archive {archive} {problem}.")
        return status.st_size, str(status.st_mtime_ns)
    except FileNotFoundError:
        raise SourceError(f"There is no archive at {archive}. Fetch one with download.py.") from None


def scan_archive(archive: str, index_path: str, *, threads: int, progress: Callable[[str, int], None]) -> Contents:
    """Reads an archive once from end to end, lists its members, and writes its gzip index.

    Args:
        archive: A .tar.gz on a disk, s3:// or gs://.
        index_path: Local file to write the index to.
        threads: Number of threads that decompress.
        progress: Called with each member's name and the number of bytes of the archive read so far.

    Raises:
        SourceError: if the archive is damaged, truncated or not a .tar.gz, or if the index cannot be written.
    """
    members: list[Member] = []
    cameras: dict[int, bytes] = {}
    texts: dict[int, bytes] = {}
    try:
        with _inflated(archive, threads) as stream:
            headers: Any = _Headers(stream)
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                while (entry := tar.next()) is not None:
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # It keeps a kilobyte of each.
                    if len(members) == _MAX_MEMBERS:
                        raise tarfile.ReadError(f"it has more than {_MAX_MEMBERS} members")
                    name = printable(entry.name)
                    progress(name, stream.tell_compressed() // 8)  # In bits.
                    if entry.isdir():
                        continue
                    members.append(Member(name, entry.offset_data, entry.size, printable(_problem(entry))))
                    *folders, file_name = PurePosixPath(name).parts
                    if members[-1].problem or not file_name.endswith(TEXT_SUFFIXES) or entry.size > _MAX_TEXT_BYTES:
                        continue
                    content = _read(stream, entry.offset_data, entry.size)
                    texts[len(members) - 1] = content
                    if file_name == CAMERA_FILE:
                        cameras.setdefault(len(folders), content)
                tar_end = tar.offset
            _require_zeros(stream, tar_end)
            _export_index(stream, index_path)
    except _INFLATE_ERRORS as error:
        raise SourceError(
            f"The archive {archive} cannot be read to its end: {error}. It is damaged or was not downloaded whole: "
            "compare its MD5, or fetch it again with download.py."
        ) from None
    return Contents(members, cameras[min(cameras)] if cameras else None, texts)


def archive_listing(archive: str, contents: Contents) -> Listing:
    """Returns an archive's members as a listing; places are (offset, size) in bytes of the decompressed tar.

    Raises:
        SourceError: if its camera.json is not a camera.
    """
    camera = contents.camera
    files = []
    for member in contents.members:
        *folders, name = [part for part in member.name.split("/") if part not in ("", ".")] or [""]
        files.append(SourceFile("/".join(folders), name, (member.offset, member.size), member.problem))
    texts = {files[number].place: content for number, content in contents.texts.items()}

    def read(file: SourceFile) -> bytes:
        if file.place not in texts:
            raise OSError(file.problem or f"it has more than {_MAX_TEXT_BYTES} bytes")
        return texts[file.place]

    return Listing(
        location=archive,
        files=[file for file in files if not is_hidden(file.path)],
        read=read,
        camera=parse_camera(camera, where=f"{CAMERA_FILE} of {archive}") if camera is not None else None,
    )


@contextmanager
def open_archive(archive: str, index: IO[bytes], *, begin: int, end: int) -> Iterator[ReadSpan]:
    """Opens an archive for the spans between `begin` and `end`; reading them in order decompresses nothing twice.

    Args:
        index: Index that `scan_archive` wrote.
        begin, end: Range in bytes of the decompressed tar.

    Raises:
        SourceError: here or when a span is read, if the archive is gone or is not the one that was listed.
    """

    def read(span: tuple[int, int]) -> bytes:
        with _readable(archive):
            return _read(stream, *span)

    with ExitStack() as stack:
        with _readable(archive):
            stream = stack.enter_context(_inflated(archive, 1))
            stream.import_index(slice_index(index, begin=begin, end=end))
        yield read


@contextmanager
def _readable(archive: str) -> Iterator[None]:
    try:
        yield
    except _INFLATE_ERRORS as error:
        raise SourceError(f"{archive} can no longer be read: {error}. Fix it, then run the command again.") from None


@contextmanager
def _inflated(archive: str, threads: int) -> Iterator[Any]:
    if not is_uri(archive):
        with rapidgzip.open(archive, parallelization=threads) as stream:
            yield stream
        return
    filesystem, path = object_store(archive, SourceError)
    with reported(f"The archive {archive} cannot be read", SourceError):
        handle = filesystem.open(path, "rb")
    with handle, rapidgzip.open(handle, parallelization=threads) as stream:
        yield stream


def _read(stream: Any, offset: int, size: int) -> bytes:
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"{len(content)} of {size} bytes at {offset}")
    return content


def _problem(entry: tarfile.TarInfo) -> str:
    """Returns why a member must not be read, or an empty string."""
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        return f"the member's name {entry.name} leaves the archive"
    if entry.issym() or entry.islnk():
        return f"{entry.name} is a link to {entry.linkname}"
    if not entry.isreg() or entry.issparse():
        return f"{entry.name} is not a plain file"
    problem = why_too_large(entry.size)
    return f"{entry.name} {problem}" if problem else ""


class _Headers:
    """The stream as tarfile reads it: headers alone, one of which may claim any size.

    Args:
        stream: The decompressed tar.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Raises tarfile.ReadError for a header that is larger than any real one."""
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"the header of a member has {size} bytes, more than {_MAX_HEADER_BYTES}")
        return self._stream.read(size)


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
