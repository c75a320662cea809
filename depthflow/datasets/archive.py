"""Reads archives of frames in place, of every kind: one pass lists the members, which are then read one by one.

Each kind has a module, which says what a span (offset, size) means: `tar_archive` for .tar, .tar.gz and .tgz, and
`zip_archive` for .zip.
"""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import xxhash

from depthflow.datasets import tar_archive, zip_archive
from depthflow.datasets.archive_member import Member, Progress, ReadSpan
from depthflow.datasets.camera import CAMERA_FILE, parse_camera
from depthflow.datasets.listing import Listing, SourceFile
from depthflow.errors import SourceError
from depthflow.storage.foreign_file import is_hidden, why_not_plain
from depthflow.storage.location import absolute, is_uri, object_store, reported

_KINDS = {".tar": tar_archive, ".tar.gz": tar_archive, ".tgz": tar_archive, ".zip": zip_archive}
_DAMAGE = (
    *(ValueError, RuntimeError, OSError, EOFError, tarfile.TarError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""Raised by rapidgzip, tarfile and zipfile for damaged bytes."""
TEXT_SUFFIXES = (".txt", ".json", ".csv", ".log", ".pincam", ".traj")
"""Endings of the files that layouts read: cameras, poses, lists of frames."""
_MAX_TEXT_BYTES = 2**24
_MAX_TEXTS_BYTES = 2**30
_MAX_MEMBERS = 2**22


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
    """Whether a source is read as an archive; a folder of that name is not."""
    return source.endswith(tuple(_KINDS)) and (is_uri(source) or not Path(source).is_dir())


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
            if info["type"] == "directory":
                raise SourceError(f"The archive {archive} is a folder. Rename it so that it ends like none.")
            return info["size"], str(info.get("ETag") or info.get("etag") or info.get("mtime"))
        status = Path(archive).stat()
        if problem := why_not_plain(status.st_mode):
            raise SourceError(f"The archive {archive} {problem}.")
        return status.st_size, str(status.st_mtime_ns)
    except FileNotFoundError:
        raise SourceError(
            f"There is no archive at {archive}. Check the path; download.py fetches DIODE's archives."
        ) from None


def scan_archive(archive: str, index_path: str, *, threads: int, progress: Progress) -> Contents:
    """Lists an archive's members, and writes the gzip index of a .tar.gz, which is read once from end to end.

    Args:
        archive: A .tar, .tar.gz or .zip on a disk, s3:// or gs://.
        index_path: Local file to write the index to.
        threads: Number of threads that decompress.
        progress: Called with each member's name and the number of bytes of the archive read so far.

    Raises:
        SourceError: if the archive is damaged, truncated or not what its name says, or if the index cannot be written.
    """
    scanning = _kind(archive).scanning
    try:
        with _reported(archive), scanning(archive, index_path, threads=threads, progress=progress) as (members, read):
            return _contents(members, read)
    except _DAMAGE as error:
        raise SourceError(
            f"The archive {archive} cannot be read to its end: {error}. It is damaged or was not downloaded whole: "
            "compare its MD5, or fetch it again, one of DIODE's with download.py."
        ) from None


def _contents(sized_members: Iterator[tuple[Member, int]], read: ReadSpan) -> Contents:
    members: list[Member] = []
    cameras: dict[int, bytes] = {}
    texts: dict[int, bytes] = {}
    texts_bytes = 0
    for member, size in sized_members:
        if len(members) == _MAX_MEMBERS:
            raise ValueError(f"it has more than {_MAX_MEMBERS} members")
        members.append(member)
        *folders, file_name = PurePosixPath(member.name).parts or [""]
        if member.problem or not file_name.endswith(TEXT_SUFFIXES) or size > _MAX_TEXT_BYTES:
            continue
        texts_bytes += size
        if texts_bytes > _MAX_TEXTS_BYTES:
            raise ValueError(f"its text files have more than {_MAX_TEXTS_BYTES} bytes")
        content = texts[len(members) - 1] = read((member.offset, member.size))
        if file_name == CAMERA_FILE:
            cameras.setdefault(len(folders), content)
    return Contents(members, cameras[min(cameras)] if cameras else None, texts)


def archive_listing(archive: str, contents: Contents) -> Listing:
    """Returns an archive's members as a listing; see `archive_member.PLACE`.

    Raises:
        SourceError: if its camera.json is not a camera.
    """
    camera = contents.camera
    files = []
    for member in contents.members:
        *folders, name = [part for part in member.name.split("/") if part not in ("", ".")] or [""]
        files.append(SourceFile("/".join(folders), name, member.place, member.problem))
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
        index: Index that `scan_archive` wrote, or nothing for an archive other than a .tar.gz.
        begin, end: Range of the spans.

    Raises:
        SourceError: here or when a span is read, if the archive is gone or is not the one that was listed.
    """

    def read(span: tuple[int, int]) -> bytes:
        with _readable(archive):
            return read_span(span)

    with ExitStack() as stack:
        with _readable(archive):
            read_span = stack.enter_context(_kind(archive).reading(archive, index, begin=begin, end=end))
        yield read


@contextmanager
def _readable(archive: str) -> Iterator[None]:
    try:
        with _reported(archive):
            yield
    except _DAMAGE as error:
        raise SourceError(f"{archive} can no longer be read: {error}. Fix it, then run the command again.") from None


def _kind(archive: str) -> Any:
    """Returns the module that reads this kind of archive."""
    return next(kind for suffix, kind in _KINDS.items() if archive.endswith(suffix))


def _reported(archive: str) -> AbstractContextManager[None]:
    """Turns errors of an object store's client, which may be of any class, into messages."""
    return reported(f"The archive {archive} cannot be read", SourceError) if is_uri(archive) else nullcontext()
