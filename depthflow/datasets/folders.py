"""What the layouts share: finds the files of frames in a source's folders, and makes frames of them."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from depthflow.datasets.frames import SPLITS, Frame
from depthflow.datasets.listing import Listing, SourceFile, printable

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Endings of images, in lower or upper case."""
Members = dict[str, SourceFile]
"""rgb, depth, mask or confidence to its file."""


def by_stem(files: Mapping[str, SourceFile], endings: tuple[str, ...]) -> dict[str, SourceFile]:
    """Returns the files that have one of some endings, by their names without it; a second one keeps its whole name."""
    found: dict[str, SourceFile] = {}
    for name in sorted(files):
        stem, ending = posixpath.splitext(name)
        if ending.lower() in endings:
            found[printable(name if stem in found else stem)] = files[name]
    return found


def parents_of(listing: Listing, *names: str) -> list[str]:
    """Returns the folders that have a subfolder of one of these names, in order."""
    split = [posixpath.split(folder) for folder in listing.folders]
    return list(dict.fromkeys(parent for parent, name in split if name in names))


def pair_folders(
    listing: Listing, images: tuple[str, ...], depths: str
) -> dict[str, tuple[Mapping[str, SourceFile], Mapping[str, SourceFile]]]:
    """Returns the folders with a subfolder of images or of depth maps, and the files of both.

    Args:
        images: Names that the subfolder of images may have, best first.
        depths: Name of the subfolder of depth maps.
    """
    found = {}
    for parent in parents_of(listing, *images, depths):
        of_images = (listing.files_in(parent, name) for name in images)
        found[parent] = next(filter(None, of_images), {}), listing.files_in(parent, depths)
    return found


def pair_stems(
    images: Mapping[str, SourceFile], depths: Mapping[str, SourceFile], depth_endings: tuple[str, ...] = (".png",)
) -> Iterator[tuple[str, Members]]:
    """Yields the stems of a folder's images and depth maps, shorter ones first, and the files of each."""
    found = {"rgb": by_stem(images, IMAGE_ENDINGS), "depth": by_stem(depths, depth_endings)}
    for stem in sorted({*found["rgb"], *found["depth"]}, key=lambda stem: (len(stem), stem)):
        yield stem, {member: files[stem] for member, files in found.items() if stem in files}


def scan_names(listing: Listing, folders: Iterable[str]) -> dict[str, str]:
    """Returns names for folders: the last part of their paths, or the whole path if several end alike."""
    last = {folder: posixpath.basename(folder) or listing.name for folder in folders}
    count = Counter(last.values())
    return {folder: printable(name if count[name] == 1 else folder or name) for folder, name in last.items()}


def rooted(listing: Listing, folder: str) -> str:
    """Returns a folder's path that begins with the source's name, as the source may be any folder of a data set."""
    return printable(f"{listing.name}/{folder}".rstrip("/"))


def split_of(path: str, default: str = "train") -> str:
    """Returns the first part of a path that names a split."""
    return next((part for part in path.split("/") if part in SPLITS), default)


def frame_number(name: str) -> int | None:
    """Returns the number that a frame's name is, such as 00012 or frame-000012; None if it is anything else."""
    found = re.fullmatch(r"(?:frame-)?(\d{1,18})", name)
    return int(found[1]) if found else None


def video_time_s(name: str) -> float | None:
    """Returns when a 30 Hz video that began at 0 showed a numbered frame."""
    number = frame_number(name)
    return None if number is None else number / 30


def make_frame(files: Mapping[str, SourceFile | None], *, problem: str = "", reason: str = "", **fields: Any) -> Frame:
    """Returns the frame of some files; a file that must not be read is the frame's first problem.

    Args:
        files: Member to its file, or to None if there is none.
        problem, reason: Why the frame cannot be a sample otherwise, or empty.
        fields: The other fields of `Frame`. Defaults to train and indoors.
    """
    found = {member: file for member, file in files.items() if file is not None}
    unsafe = next((file.problem for file in found.values() if file.problem), "")
    return Frame(
        **{"split": "train", "scene_type": "indoors", **fields},
        members={member: file.place for member, file in found.items()},
        problem=unsafe or problem,
        reason="unsafe_member" if unsafe else reason,
    )
