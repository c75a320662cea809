"""What the layouts share: files of a folder by stem, and the members of a frame."""

from collections.abc import Iterable, Mapping
from typing import Any

from depthflow.datasets.listing import Listing, SourceFile, printable

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def by_stem(files: Iterable[SourceFile], endings: tuple[str, ...]) -> dict[str, SourceFile]:
    """Returns the files of a folder with one of these endings, in any case, by name without it, sorted.

    Of several files of one stem, such as a PNG and its JPEG, the one whose ending comes first counts.
    """
    found: dict[str, tuple[int, SourceFile]] = {}
    for file in files:
        stem, dot, ending = file.name.rpartition(".")
        ending = dot + ending.lower()
        if ending not in endings:
            continue
        rank, stem = endings.index(ending), printable(stem)
        if stem not in found or rank < found[stem][0]:
            found[stem] = rank, file
    return {stem: found[stem][1] for stem in sorted(found)}


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
