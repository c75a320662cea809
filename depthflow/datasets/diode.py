"""DIODE's layout: what a sample id means, and where a tree keeps each triplet.

{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/SSSSS_NNNNN_{indoors,outdoor}_AAA_BBB
    + .png, _depth.npy, _depth_mask.npy
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from depthflow.errors import SourceError
from depthflow.storage.foreign_file import is_hidden, walk_files, why_too_large
from depthflow.storage.location import is_uri, object_store, reported

SPLITS = ("train", "val")
SCENE_TYPES = ("indoors", "outdoor")
MEMBER_SUFFIXES = {"rgb": ".png", "depth": "_depth.npy", "mask": "_depth_mask.npy"}
"""In lower or upper case. A .jpg or .jpeg is the image of a depth that has no .png."""

_MEMBER_OF_SUFFIX = {suffix: member for member, suffix in MEMBER_SUFFIXES.items()}
_MEMBER = re.compile(r"(?P<stem>.*?)(?P<suffix>\.png|\.jpe?g|_depth\.npy|_depth_mask\.npy)", re.DOTALL | re.IGNORECASE)
_SAMPLE_ID = re.compile(r"(?P<scene>\d{5})_(?P<scan>\d{5})_(?P<scene_type>indoors|outdoor)_\d{3}_\d{3}")


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """The files of one sample, up to three.

    Attributes:
        sample_id: Common stem of the files, such as 00022_00193_indoors_010_000.
        split, scene_type, scene, scan: Taken from the id; scene is scene_SSSSS, scan is scan_NNNNN.
        members: Where the source keeps rgb, depth and mask, as far as they exist. Only the source's own reader
            interprets it: a path or URI in a tree, (offset, size) in bytes of the decompressed tar in an archive.
        problem: Why these files cannot be a sample, or empty.
        reason: Code of the problem, bad_name or unsafe_member.
    """

    sample_id: str
    split: str
    scene_type: str
    scene: str
    scan: str
    members: dict[str, Any]
    problem: str = ""
    reason: str = ""


class SourceFile(NamedTuple):
    """A file of a source.

    Attributes:
        parent: Its folder relative to the split's folder, such as indoors/scene_00022/scan_00193.
        name: Its name in the folder.
        place: Where the source keeps it; see `Triplet.members`.
        problem: Why it must not be read, or empty.
    """

    parent: str
    name: str
    place: Any
    problem: str = ""


def find_triplets(source: str, splits: tuple[str, ...]) -> list[Triplet]:
    """Lists the triplets of a tree, incomplete ones included, sorted by split and sample id.

    Every file with a member's suffix counts. If its name or folder is not DIODE's, the triplet states the `problem`,
    so nothing is dropped silently.

    Args:
        source: A folder that holds train/ and val/, or one of the two itself; on a disk, s3:// or gs://.
        splits: Splits to list.

    Raises:
        SourceError: if the folder is missing, or holds no sample of these splits.
    """
    files_of_split = _object_files if is_uri(source) else _disk_files
    found = [t for split in splits for t in group_triplets(split, files_of_split(source, split))]
    require_samples(found, source, splits)
    return found


def require_samples(found: list[Triplet], source: str, splits: tuple[str, ...]) -> None:
    """Raises SourceError if nothing was found in a source."""
    if not found:
        raise SourceError(
            f"The source {source} holds no sample of {' or '.join(splits)} in DIODE's layout, "
            "{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/*.png. "
            "Pass the folder that holds train/ and val/, or its .tar.gz, and see --splits."
        )


def group_triplets(split: str, files: Iterable[SourceFile]) -> list[Triplet]:
    """Groups a split's files into triplets, sorted by folder and id; a repeated file begins another triplet.

    Hidden files, which systems and editors leave, and files in hidden folders are no members.
    """
    groups: dict[tuple[str, str, int], dict[str, SourceFile]] = {}
    jpegs: list[tuple[tuple[str, str, int], SourceFile]] = []
    for file in files:
        found = _MEMBER.fullmatch(file.name)
        if found is None or is_hidden(f"{file.parent}/{file.name}"):
            continue
        stem, suffix = printable(found["stem"]), found["suffix"].lower()
        if suffix in (".jpg", ".jpeg"):
            jpegs.append(((file.parent, stem, 0), file))
            continue
        member, copy = _MEMBER_OF_SUFFIX[suffix], 0
        while member in groups.get((file.parent, stem, copy), {}):
            copy += 1
        groups.setdefault((file.parent, stem, copy), {})[member] = file
    for key, file in jpegs:
        if key in groups:
            groups[key].setdefault("rgb", file)
    return [_triplet(split, *key[:2], groups[key]) for key in sorted(groups)]


def printable(name: str) -> str:
    """Escapes the bytes of a name that are not valid UTF-8, as Arrow's strings must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _disk_files(source: str, split: str) -> Iterator[SourceFile]:
    """Yields the files below a split's folder; see `walk_files`."""
    root = Path(source).absolute()
    if not root.is_dir():
        there = f"The source {source} is not a folder" if root.exists() else f"There is no source at {source}"
        raise SourceError(f"{there}. Pass --source a folder in DIODE's layout, or its .tar.gz.")
    top = root if root.name == split and not (root / split).is_dir() else root / split

    def fail(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions.")

    if not top.is_dir():
        return
    for path in walk_files(top, fail):
        yield SourceFile(str(path.parent.relative_to(top)), path.name, str(path))


def _object_files(source: str, split: str) -> Iterator[SourceFile]:
    """Yields the objects below a split's prefix."""
    root = source.rstrip("/")
    filesystem, path = object_store(root, SourceError)
    scheme = root.split("://", 1)[0]
    with reported(f"The source {source} cannot be listed", SourceError, absence_passes=False):
        top = f"{path}/{split}"
        if path.endswith(f"/{split}") and not filesystem.exists(top):
            top = path
        objects = filesystem.find(top, detail=True)
    for key, about in objects.items():
        parent, _, name = key.removeprefix(f"{top}/").rpartition("/")
        problem = why_too_large(about["size"])
        yield SourceFile(parent or ".", name, f"{scheme}://{key}", f"{key} {problem}" if problem else "")


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
        members={member: file.place for member, file in members.items()},
        problem=unsafe or problem,
        reason="unsafe_member" if unsafe else "bad_name" if problem else "",
    )
