"""DIODE's names: what a sample id says, and where a tree keeps each triplet.

{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/SSSSS_NNNNN_{indoors,outdoor}_AAA_BBB
    + .png, _depth.npy, _depth_mask.npy
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from depthflow.errors import SourceError
from depthflow.storage.location import is_uri, object_store, reported

SPLITS = ("train", "val")
SCENE_TYPES = ("indoors", "outdoor")
MEMBER_SUFFIXES = {"rgb": ".png", "depth": "_depth.npy", "mask": "_depth_mask.npy"}

_SAMPLE_ID = re.compile(r"(?P<scene>\d{5})_(?P<scan>\d{5})_(?P<scene_type>indoors|outdoor)_\d{3}_\d{3}")


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """One sample's three files, present or not.

    Attributes:
        sample_id: the files' common stem, such as 00022_00193_indoors_010_000.
        split, scene_type, scene, scan: as the folders say; scene is scene_SSSSS, scan is scan_NNNNN.
        paths: rgb, depth, mask to the file's path, those that exist; in an archive, to the member's name.
        spans: in an archive, rgb, depth, mask to (offset, size) in bytes of the decompressed tar; else empty.
        problem: why these files cannot be a sample, or empty.
        reason: the problem's code, bad_name or unsafe_member.
    """

    sample_id: str
    split: str
    scene_type: str
    scene: str
    scan: str
    paths: dict[str, str]
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""
    reason: str = ""


class SourceFile(NamedTuple):
    """A file that a source holds.

    Attributes:
        parent: its folder, from the split's folder on, such as indoors/scene_00022/scan_00193.
        name: its name in the folder.
        path: where it is read, or its member's name in an archive.
        span: in an archive, (offset, size) in bytes of the decompressed tar.
        problem: why it must not be read, or empty.
    """

    parent: str
    name: str
    path: str
    span: tuple[int, int] | None = None
    problem: str = ""


def find_triplets(source: str, splits: tuple[str, ...]) -> list[Triplet]:
    """Every triplet of a tree, whole or not, sorted by split and sample id.

    Each file that ends like a triplet's member counts: one whose name or folder is not DIODE's comes back with its
    `problem`, so that nothing is dropped in silence.

    Args:
        source: a folder that holds train/ and val/, or one of the two itself; on a disk, s3:// or gs://.
        splits: the splits to take.

    Raises:
        SourceError: if the folder is missing, or holds no sample of these splits.
    """
    files_of_split = _object_files if is_uri(source) else _disk_files
    found = [t for split in splits for t in group_triplets(split, files_of_split(source, split))]
    require_samples(found, source, splits)
    return found


def require_samples(found: list[Triplet], source: str, splits: tuple[str, ...]) -> None:
    """Refuses a source in which nothing was found: SourceError."""
    if not found:
        raise SourceError(
            f"The source {source} holds no sample of {' or '.join(splits)} in DIODE's layout, "
            "{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/*.png. "
            "Pass the folder that holds train/ and val/, or its .tar.gz, and see --splits."
        )


def group_triplets(split: str, files: Iterable[SourceFile]) -> list[Triplet]:
    """A split's files as triplets, sorted by folder and id; a file that is there twice begins another triplet."""
    groups: dict[tuple[str, str, int], dict[str, SourceFile]] = {}
    for file in files:
        member = _member_of(file.name)
        if member is None:
            continue
        stem = printable(file.name.removesuffix(MEMBER_SUFFIXES[member]))
        copy = 0
        while member in groups.get((file.parent, stem, copy), {}):
            copy += 1
        groups.setdefault((file.parent, stem, copy), {})[member] = file
    return [_triplet(split, parent, stem, members) for (parent, stem, _), members in sorted(groups.items(), key=_key)]


def _key(group: tuple[tuple[str, str, int], object]) -> tuple[str, str, int]:
    return group[0]


def printable(name: str) -> str:
    """A name that is no valid UTF-8, with the bytes that are not as escapes: Arrow's strings are UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _disk_files(source: str, split: str) -> Iterator[SourceFile]:
    """Every file below a split's folder, linked folders included; a broken link counts as a file, to be reported."""
    root = Path(source).absolute()
    if not root.is_dir():
        there = f"The source {source} is no folder" if root.exists() else f"There is no source at {source}"
        raise SourceError(f"{there}. Pass --source a folder in DIODE's layout, or its .tar.gz.")
    top = root if root.name == split and not (root / split).is_dir() else root / split

    def refuse(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions.")

    if not top.is_dir():
        return
    seen: set[str] = set()
    for parent, folders, files in os.walk(top, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in seen:  # A link back to a folder above.
            folders.clear()
            continue
        seen.add(real)
        yield from (SourceFile(os.path.relpath(parent, top), name, str(Path(parent) / name)) for name in files)


def _object_files(source: str, split: str) -> Iterator[SourceFile]:
    """Every object below a split's prefix."""
    root = source.rstrip("/")
    filesystem, path = object_store(root, SourceError)
    scheme = root.split("://", 1)[0]
    with reported(f"The source {source} cannot be listed", SourceError, absence_passes=False):
        top = f"{path}/{split}"
        if path.endswith(f"/{split}") and not filesystem.exists(top):
            top = path
        objects = filesystem.find(top)
    for key in objects:
        parent, _, name = key.removeprefix(f"{top}/").rpartition("/")
        yield SourceFile(parent or ".", name, f"{scheme}://{key}")


def _member_of(file_name: str) -> str | None:
    """Which member of a triplet a file is; None for any other file."""
    for member in ("mask", "depth", "rgb"):
        if file_name.endswith(MEMBER_SUFFIXES[member]):
            return member
    return None


def _triplet(split: str, parent: str, stem: str, members: dict[str, SourceFile]) -> Triplet:
    scene_type, scene, scan = "", "", ""
    problem = f"the name {stem} is not SSSSS_NNNNN_{{indoors,outdoor}}_AAA_BBB"
    match = _SAMPLE_ID.fullmatch(stem)
    if match is not None:
        scene_type, scene, scan = match["scene_type"], f"scene_{match['scene']}", f"scan_{match['scan']}"
        expected = f"{scene_type}/{scene}/{scan}"
        problem = "" if parent == expected else f"it lies in {printable(parent)} instead of {expected}"
    unsafe = next((file.problem for file in members.values() if file.problem), "")
    return Triplet(
        sample_id=stem,
        split=split,
        scene_type=scene_type,
        scene=scene,
        scan=scan,
        paths={member: file.path for member, file in members.items()},
        spans={member: file.span for member, file in members.items() if file.span is not None},
        problem=unsafe or problem,
        reason="unsafe_member" if unsafe else "bad_name" if problem else "",
    )
