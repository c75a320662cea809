"""Groups the files of a source's folders into frames."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from depthflow.datasets.frames import Frame, frame_id
from depthflow.datasets.listing import Listing, SourceFile, printable

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Of images, in lower or upper case."""
Members = dict[str, SourceFile]
"""rgb, depth, mask or confidence to its file."""


def by_stem(files: Mapping[str, SourceFile], endings: tuple[str, ...]) -> dict[str, SourceFile]:
    """Returns the files that have one of some endings, by their names without it; a second one keeps its whole name."""
    found: dict[str, SourceFile] = {}
    for name in sorted(files):
        stem, ending = posixpath.splitext(name)
        if ending.lower() in endings:
            found[name if stem in found else stem] = files[name]
    return found


def pair_folders(
    listing: Listing, images: tuple[str, ...], depths: str
) -> dict[str, tuple[Mapping[str, SourceFile], Mapping[str, SourceFile]]]:
    """Returns the folders with a subfolder of images or of depth maps, and the files of both.

    Args:
        images: Names that the subfolder of images may have, best first.
        depths: Name of the subfolder of depth maps.
    """
    split = [posixpath.split(folder) for folder in listing.folders]
    parents = dict.fromkeys(parent for parent, name in split if name in (*images, depths))

    def files(parent: str, names: Iterable[str]) -> Mapping[str, SourceFile]:
        found = (listing.folders.get(posixpath.join(parent, name)) for name in names)
        return next(filter(None, found), {})

    return {parent: (files(parent, images), files(parent, (depths,))) for parent in parents}


def pair_stems(images: Mapping[str, SourceFile], depths: Mapping[str, SourceFile]) -> Iterator[tuple[str, Members]]:
    """Yields the names of a folder's images and depth maps in order, and the files of each."""
    found = {"rgb": by_stem(images, IMAGE_ENDINGS), "depth": by_stem(depths, (".png",))}
    for stem in sorted({*found["rgb"], *found["depth"]}, key=lambda stem: (len(stem), stem)):
        yield stem, {member: files[stem] for member, files in found.items() if stem in files}


def scan_names(listing: Listing, folders: Iterable[str]) -> dict[str, str]:
    """Returns names for folders: the last part of their paths, or the whole path if several end alike."""
    last = {folder: posixpath.basename(folder) or listing.name for folder in folders}
    count = Counter(last.values())
    return {folder: printable(name if count[name] == 1 else folder or name) for folder, name in last.items()}


def frame_number(name: str) -> int | None:
    """Returns the number that a frame's name is, such as 00012 or frame-000012; None if it is anything else."""
    found = re.fullmatch(r"(?:frame-)?(\d{1,18})", name)
    return int(found[1]) if found else None


def video_time_s(name: str) -> float | None:
    """Returns when a 30 Hz video that began at 0 showed a numbered frame."""
    number = frame_number(name)
    return None if number is None else number / 30


def make_frame(files: Members, *, dataset: str, scene: str, scan: str, name: str, **fields: Any) -> Frame:
    """Returns the frame of some files; a file that must not be read is the frame's problem.

    Args:
        name: Name of the frame within its scan.
        fields: Further fields of `Frame`.
    """
    unsafe = next((file.problem for file in files.values() if file.problem), "")
    if unsafe:
        fields |= {"problem": unsafe, "reason": "unsafe_member"}
    return Frame(
        sample_id=frame_id(dataset, scene, scan, printable(name)),
        **{"split": "train", "scene_type": "indoors", **fields},
        scene=scene,
        scan=scan,
        members={member: file.place for member, file in files.items()},
        dataset=dataset,
    )
