"""Lists the files of a source, so that a layout can tell what they are, wherever they lie."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from depthflow.datasets.camera import CAMERA_FILE, Camera, parse_camera
from depthflow.datasets.frames import SPLITS
from depthflow.errors import SourceError
from depthflow.storage.foreign_file import is_hidden, read_foreign_file, walk_files, why_too_large
from depthflow.storage.location import is_uri, object_store, reported

UNREAD_FORMATS = {
    ".r3d": "Record3D compresses its depth with LZFSE, which cannot be read here. Export the recording from the app's "
    'library as "EXR + JPG sequence" instead.'
}
"""Endings of files that hold frames but are not read, and what to do."""
_READS_AT_ONCE = 32
"""Small files of an object store are read by this many threads."""


class SourceFile(NamedTuple):
    """A file of a source.

    Attributes:
        parent: Its folder relative to the source, such as train/indoors/scene_00022/scan_00193; "" at the top.
        name: Its name in the folder.
        place: Where the source keeps it; see `depthflow.datasets.frames.Frame.members`.
        problem: Why it must not be read, or empty.
    """

    parent: str
    name: str
    place: Any
    problem: str = ""

    @property
    def path(self) -> str:
        """Its path relative to the source."""
        return f"{self.parent}/{self.name}" if self.parent else self.name


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a tree or an archive.

    Attributes:
        location: Path or URI of the source.
        files: Its files, in no particular order, without hidden ones, which systems and editors leave; an archive may
            hold two of one path.
        read: Returns a small text file's bytes, given the file.
        root: The folder that its paths are relative to, as an absolute path or URI; None for an archive.
        camera: The camera that a camera.json of the source states, if there is one.
    """

    location: str
    files: Sequence[SourceFile]
    read: Callable[[SourceFile], bytes]
    root: str | None = None
    camera: Camera | None = None

    @cached_property
    def folders(self) -> Mapping[str, Mapping[str, SourceFile]]:
        """Folder to file name to file, folders sorted by name; of two files of one path, the first."""
        found: dict[str, dict[str, SourceFile]] = {}
        for file in self.files:
            found.setdefault(file.parent, {}).setdefault(file.name, file)
        return dict(sorted(found.items()))

    def files_in(self, *parts: str) -> Mapping[str, SourceFile]:
        """Returns a folder's files by name, given the parts of its path; none if there is no such folder."""
        return self.folders.get(posixpath.join(*parts), {})

    @cached_property
    def name(self) -> str:
        """Name of the source: that of its folder, or of its archive without the ending."""
        location = self.location if is_uri(self.location) else str(Path(self.location).absolute())
        name = location.rstrip("/").rpartition("/")[2]
        return re.sub(r"\.(tar|tar\.gz|tgz|zip)$", "", name)

    def texts(self, files: Iterable[SourceFile]) -> list[str]:
        """Returns the content of many small text files, such as a pose for each frame; see `text`."""
        files = list(files)
        shares = [files[thread::_READS_AT_ONCE] for thread in range(_READS_AT_ONCE)]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:  # A task per file would cost more than it reads.
            read = list(pool.map(lambda share: [self.text(file) for file in share], shares))
        return [read[number % _READS_AT_ONCE][number // _READS_AT_ONCE] for number in range(len(files))]

    def text(self, file: SourceFile) -> str:
        """Returns a small text file's content.

        Raises:
            SourceError: if it cannot be read or is not text.
        """
        try:
            return self.read(file).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(
                f"{file.path} of {self.location} cannot be read: {error}. Fix it, or remove it."
            ) from None


def list_tree(location: str) -> Listing:
    """Lists a folder on a disk, s3:// or gs://, or a frame table alone, whose folder may be too large to list.

    Raises:
        SourceError: if it is missing or cannot be listed.
    """
    root = location.rstrip("/") if is_uri(location) else str(Path(location).absolute())
    if is_table(location):
        root, _, name = root.rpartition("/")
        files: Iterable[SourceFile] = [SourceFile("", name, f"{root}/{name}")]
    else:
        files = _object_files(location) if is_uri(location) else _disk_files(location)
    return Listing(
        root=root,
        location=location,
        files=[file for file in files if not is_hidden(file.path)],
        read=lambda file: read_foreign_file(file.place),
        camera=read_camera(root),
    )


def is_table(location: str) -> bool:
    """Whether a location is a frame table; a folder of such a name is not."""
    return location.lower().endswith((".csv", ".parquet")) and (is_uri(location) or not Path(location).is_dir())


def printable(name: str) -> str:
    """Escapes the bytes of a name that are not valid UTF-8, as Arrow's strings must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _disk_files(location: str) -> Iterator[SourceFile]:
    """Yields the files below a folder; see `walk_files`."""
    root = Path(location).absolute()
    if not root.is_dir():
        there = f"The source {location} is not a folder" if root.exists() else f"There is no source at {location}"
        advice = UNREAD_FORMATS.get(root.suffix.lower(), "Pass --source a folder of frames, or an archive of one.")
        raise SourceError(f"{there}. {advice}")

    def fail(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions.")

    for path in walk_files(root, fail):
        parent = str(path.parent.relative_to(root))
        yield SourceFile("" if parent == "." else parent, path.name, str(path))


def _object_files(location: str) -> Iterator[SourceFile]:
    """Yields the objects below a prefix."""
    root = location.rstrip("/")
    filesystem, path = object_store(root, SourceError)
    scheme = root.split("://", 1)[0]
    with reported(f"The source {location} cannot be listed", SourceError, absence_passes=False):
        objects = filesystem.find(path, detail=True)
    for key, about in objects.items():
        parent, _, name = key.removeprefix(f"{path}/").rpartition("/")
        problem = why_too_large(about["size"])
        yield SourceFile(parent, name, f"{scheme}://{key}", f"{key} {problem}" if problem else "")


def read_camera(source: str) -> Camera | None:
    """Reads a tree's camera.json, if there is one.

    Args:
        source: Folder or URI of the tree or of one of its splits.

    Raises:
        SourceError: if the file exists but is not a camera.
    """
    root = source.rstrip("/") if is_uri(source) else str(Path(source).absolute())
    parent, _, name = root.rpartition("/")
    for folder in (root, parent) if name in SPLITS else (root,):
        content = _read_if_there(f"{folder}/{CAMERA_FILE}")
        if content is not None:
            return parse_camera(content, where=f"{folder}/{CAMERA_FILE}")
    return None


def _read_if_there(path: str) -> bytes | None:
    try:
        return read_foreign_file(path)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
