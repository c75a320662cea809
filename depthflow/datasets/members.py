"""What the layouts share: files of a folder by stem, and the members of a frame."""

import posixpath
from collections.abc import Mapping
from typing import Any

from depthflow.datasets.listing import Listing, SourceFile, printable

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def by_stem(files: Mapping[str, SourceFile], endings: tuple[str, ...]) -> dict[str, SourceFile]:
    """Returns the files that have one of some endings, by their names without it; a second one keeps its whole name."""
    found: dict[str, SourceFile] = {}
    for name in sorted(files):
        stem, ending = posixpath.splitext(name)
        if ending.lower() in endings:
            found[printable(name if stem in found else stem)] = files[name]
    return found


def frame_members(files: Mapping[str, SourceFile | None]) -> dict[str, Any]:
    """Returns a frame's fields members, problem and reason.

    Args:
        files: Member to its file, or to None if there is none.
    """
    there = {member: file for member, file in files.items() if file is not None}
    unsafe = next((file.problem for file in there.values() if file.problem), "")
    return {
        "members": {member: file.place for member, file in there.items()},
        "problem": unsafe,
        "reason": "unsafe_member" if unsafe else "",
    }


def rooted(listing: Listing, folder: str) -> str:
    """Returns a folder's path that begins with the source's name, as the source may be any folder of a data set."""
    return printable(f"{listing.name}/{folder}".rstrip("/"))


def child(folder: str, name: str) -> str:
    """Returns the path of a folder's file or folder; the source itself is ""."""
    return f"{folder}/{name}" if folder else name
