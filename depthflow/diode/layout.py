"""DIODE's names: what a sample id says, and where a tree keeps each triplet.

{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/SSSSS_NNNNN_{indoors,outdoor}_AAA_BBB
    + .png, _depth.npy, _depth_mask.npy
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from depthflow.errors import SourceError

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
        paths: rgb, depth, mask to the file's path, those that exist.
        problem: why the name cannot belong to a sample, or empty.
    """

    sample_id: str
    split: str
    scene_type: str
    scene: str
    scan: str
    paths: dict[str, str]
    problem: str = ""


def find_triplets(source: str, splits: tuple[str, ...]) -> list[Triplet]:
    """Every triplet of a tree, whole or not, sorted by split and sample id.

    Each file that ends like a triplet's member counts: one whose name or folder is not DIODE's comes back with its
    `problem`, so that nothing is dropped in silence.

    Args:
        source: a folder that holds train/ and val/, or one of the two itself.
        splits: the splits to take.

    Raises:
        SourceError: if the folder is missing, or holds no sample of these splits.
    """
    root = Path(source).absolute()
    if not root.is_dir():
        raise SourceError(f"There is no source at {source}. Pass --source a folder in DIODE's layout.")
    found: list[Triplet] = []
    for split in splits:
        folder = root / split
        if not folder.is_dir() and root.name == split:
            folder = root
        found.extend(_triplets_of_split(folder, split))
    if not found:
        raise SourceError(
            f"The source {source} holds no sample of {' or '.join(splits)} in DIODE's layout, "
            "{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/*.png. "
            "Pass the folder that holds train/ and val/, and see --splits."
        )
    return found


def _triplets_of_split(folder: Path, split: str) -> list[Triplet]:
    members: dict[tuple[str, str], dict[str, str]] = {}
    for path in _files_under(folder):
        member = _member_of(path.name)
        if member is not None:
            stem = path.name.removesuffix(MEMBER_SUFFIXES[member])
            members.setdefault((str(path.parent.relative_to(folder)), stem), {})[member] = str(path)
    return [_triplet(split, parent, stem, paths) for (parent, stem), paths in sorted(members.items())]


def _files_under(folder: Path) -> Iterator[Path]:
    """Every file below a folder, linked folders included; a broken link counts as a file, to be reported."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions.")

    if not folder.is_dir():
        return
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in seen:  # A link back to a folder above.
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent) / name for name in files)


def _member_of(file_name: str) -> str | None:
    """Which member of a triplet a file is; None for any other file."""
    for member in ("mask", "depth", "rgb"):
        if file_name.endswith(MEMBER_SUFFIXES[member]):
            return member
    return None


def _triplet(split: str, parent: str, stem: str, paths: dict[str, str]) -> Triplet:
    match = _SAMPLE_ID.fullmatch(stem)
    if match is None:
        problem = f"the name {stem} is not SSSSS_NNNNN_{{indoors,outdoor}}_AAA_BBB"
        return Triplet(sample_id=stem, split=split, scene_type="", scene="", scan="", paths=paths, problem=problem)
    scene, scan = f"scene_{match['scene']}", f"scan_{match['scan']}"
    expected = f"{match['scene_type']}/{scene}/{scan}"
    problem = "" if parent == expected else f"it lies in {parent} instead of {expected}"
    return Triplet(
        sample_id=stem,
        split=split,
        scene_type=match["scene_type"],
        scene=scene,
        scan=scan,
        paths=paths,
        problem=problem,
    )
