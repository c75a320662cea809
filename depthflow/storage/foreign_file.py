"""Reads files that others made: only plain ones, and none larger than memory allows."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from depthflow.errors import SourceError
from depthflow.storage.location import is_uri, object_store, reported

MAX_FILE_BYTES = 2**30
"""The largest file that is read into memory. DIODE's largest has 3 MB."""


class UnsafeFileError(SourceError):
    """A file that is not opened: a FIFO, socket or device, a link to one, or one that is too large."""


def walk_files(top: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yields every file below a folder. Follows links to folders, each folder once; a broken link counts as a file.

    Args:
        on_error: Called if a folder cannot be read; by default it is left out.
    """
    seen: set[str] = set()
    for parent, folders, files in os.walk(top, followlinks=True, onerror=on_error):
        folders.sort()
        real = os.path.realpath(parent)
        if real in seen:  # A link to a parent folder.
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in files)


def is_hidden(path: str) -> bool:
    """Whether a file or one of its folders has a name that begins with a dot, such as macOS's ._NAME.

    Args:
        path: Relative to the folder that was asked for.
    """
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def read_foreign_file(path: str) -> bytes:
    """Returns the bytes of a file on a disk, s3:// or gs://.

    The size of an object is not checked, since that would take another request: see `why_too_large`.

    Raises:
        UnsafeFileError: if it is not a plain file, or too large.
        OSError: if it does not exist or its disk does not let it be read.
        SourceError: if an object store does not let it be read.
    """
    if is_uri(path):
        filesystem, key = object_store(path, SourceError)
        with reported(f"{path} cannot be read", SourceError):
            return filesystem.cat_file(key)
    status = Path(path).stat()
    if problem := why_not_plain(status.st_mode) or why_too_large(status.st_size):
        raise UnsafeFileError(f"{path} {problem}")
    return Path(path).read_bytes()


def why_not_plain(mode: int) -> str:
    """Returns why a file of this mode (`os.stat_result.st_mode`) is not opened, or an empty string."""
    kinds = {"FIFO": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    kinds |= {"character device": stat.S_ISCHR, "block device": stat.S_ISBLK}
    kind = next((name for name, is_kind in kinds.items() if is_kind(mode)), "")
    return f"is a {kind}, not a plain file" if kind else ""


def why_too_large(size: int) -> str:
    """Returns why a file of this many bytes is not read, or an empty string."""
    return f"has {size} bytes, more than {MAX_FILE_BYTES}" if size > MAX_FILE_BYTES else ""
