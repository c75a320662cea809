"""Finds and reads the user's images, on a disk or in an object store."""

import glob
import re
from pathlib import Path
from typing import Any

import numpy as np

from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.storage.foreign_file import is_hidden, read_foreign_file, walk_files
from depthflow.storage.location import is_uri, object_store, reported

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"}
)
"""Photos that are found and rejected, so that none is left out in silence. Of some, OpenCV would read the thumbnail."""


def find_images(images: tuple[str, ...]) -> list[str]:
    """Returns absolute paths and URIs: files as they are, and what folders and patterns hold with known suffixes.

    Links to folders are followed. Hidden files, such as macOS's ._NAME, are images only if named.

    Args:
        images: Paths, s3:// or gs:// URIs. `*`, `?` and `[` make a pattern; `**` reaches into folders.

    Raises:
        SourceError: if a path does not exist, a folder or pattern holds no image, or a store cannot be reached.
    """
    found: list[str] = []
    for image in images:
        inside = _in_store(image) if is_uri(image) else _on_disk(image)
        if inside is None:
            raise SourceError(f"There is no image {image}. Pass --images files, folders, patterns or s3:// URIs.")
        if not inside:
            raise SourceError(
                f"{image} holds no image ({' '.join(sorted(SUFFIXES))}). Pass --images a file, a folder or a pattern "
                "that has some."
            )
        found.extend(inside)
    return list(dict.fromkeys(found))


def _on_disk(image: str) -> list[str] | None:
    """Returns the images there; None if nothing has this name."""
    path = Path(image).absolute()
    if path.is_dir():
        return sorted(str(p) for p in walk_files(path) if _is_image(str(p.relative_to(path))))
    if path.is_file():
        return [str(path)]
    top = next(parent for parent in path.parents if parent.is_dir())  # Its name may have brackets.
    if glob.has_magic(pattern := str(path.relative_to(top))):
        matches = top.glob(pattern)
        return sorted(str(p) for p in matches if _is_image(str(p.relative_to(top))) and p.is_file())
    return None


def _in_store(image: str) -> list[str] | None:
    """Does for a URI what `_on_disk` does for a path."""
    filesystem, path = object_store(image, SourceError)
    with reported(f"{image} cannot be listed", SourceError):
        if filesystem.isfile(path):
            return [image]
        if filesystem.isdir(path):
            inside = filesystem.find(path)
        elif glob.has_magic(path):
            inside = filesystem.glob(path)
        else:
            return None
    scheme, top = image.split("://", 1)[0], re.split(r"[*?[]", path)[0]
    return sorted(f"{scheme}://{inner}" for inner in inside if _is_image(inner.removeprefix(top)))


def _is_image(path: str) -> bool:
    """Whether a path, relative to the folder that was asked for, is an image that its folder does not hide."""
    return Path(path).suffix.lower() in SUFFIXES | OTHER_SUFFIXES and not is_hidden(path)


def read_image(path: str) -> np.ndarray:
    """Returns (H, W, 3) uint8 RGB of a path or URI; see `read_image_file` and `decode_rgb` for its errors."""
    return decode_rgb(read_image_file(path))


def read_image_file(path: str) -> bytes:
    """Returns the bytes of an image file.

    Args:
        path: Path or URI.

    Raises:
        RejectError: unsupported_format or unreadable_file.
    """
    if (suffix := Path(path).suffix.lower()) in OTHER_SUFFIXES:
        raise RejectError("unsupported_format", f"{suffix} files are not read. Convert it to JPEG or PNG")
    try:
        content = read_foreign_file(path)
    except (OSError, SourceError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RejectError("unreadable_file", f"the file cannot be read: {reason}") from None
    return content


def image_version(path: str) -> str:
    """Returns size and modification time, or the object's tag, which change with the file; empty if it is gone."""
    try:
        if not is_uri(path):
            stat = Path(path).stat()
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        filesystem, inner = object_store(path, SourceError)
        with reported(path, SourceError):
            info: dict[str, Any] = filesystem.info(inner)
        return f"{info.get('size')}-{info.get('ETag') or info.get('etag') or info.get('mtime')}"
    except (OSError, SourceError):
        return ""
