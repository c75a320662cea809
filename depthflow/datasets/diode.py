"""DIODE's layout (Vasiljevic et al. 2019, arXiv:1908.00463): what a sample id means, and where each triplet lies.

{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/SSSSS_NNNNN_{indoors,outdoor}_AAA_BBB
    + .png, _depth.npy, _depth_mask.npy
"""

import re
from collections.abc import Iterable

from depthflow.datasets.camera import Camera
from depthflow.datasets.folders import IMAGE_ENDINGS, Members, make_frame
from depthflow.datasets.frames import SPLITS, Frame
from depthflow.datasets.listing import Listing, SourceFile, printable

MEMBER_SUFFIXES = {"rgb": ".png", "depth": "_depth.npy", "mask": "_depth_mask.npy"}
"""In lower or upper case. A file with another of `IMAGE_ENDINGS` is the image of a depth that has no .png."""

_MEMBER_OF_SUFFIX = {suffix: member for member, suffix in MEMBER_SUFFIXES.items()}
_SUFFIXES = "|".join(map(re.escape, dict.fromkeys([*MEMBER_SUFFIXES.values(), *IMAGE_ENDINGS])))
_MEMBER = re.compile(rf"(?P<stem>.*?)(?P<suffix>{_SUFFIXES})", re.DOTALL | re.IGNORECASE)
_SAMPLE_ID = re.compile(r"(?P<scene>\d{5})_(?P<scan>\d{5})_(?P<scene_type>indoors|outdoor)_\d{3}_\d{3}")


def scene_type_of(sample_id: str) -> str:
    """Returns the scene type that a sample id of DIODE names; of any other id, an empty string."""
    match = _SAMPLE_ID.fullmatch(sample_id)
    return match["scene_type"] if match else ""


def fits(listing: Listing) -> bool:
    """Returns whether any file has the name of one of DIODE's depth maps or masks."""
    endings = MEMBER_SUFFIXES["depth"], MEMBER_SUFFIXES["mask"]
    return any(file.name.lower().endswith(endings) for file in listing.files)


def frames(listing: Listing) -> list[Frame]:
    """Returns the triplets of a source, incomplete ones included, sorted by split and sample id.

    Every file with a member's suffix counts. If its name or folder is not DIODE's, the frame states the `problem`, so
    nothing is dropped silently. The folders train/ and val/ may be nested, or the source may be one of them.
    """
    of_split: dict[str, list[SourceFile]] = {split: [] for split in SPLITS}
    for file in listing.files:
        folders = file.parent.split("/") if file.parent else []
        split = next((folder for folder in folders if folder in SPLITS), None)
        if split:
            folders = folders[folders.index(split) + 1 :]
        split = split or listing.name
        if split in SPLITS:
            of_split[split].append(file._replace(parent="/".join(folders) or "."))
    return [frame for split in SPLITS for frame in group_triplets(split, of_split[split], listing.camera)]


def group_triplets(split: str, files: Iterable[SourceFile], camera: Camera | None = None) -> list[Frame]:
    """Groups a split's files into triplets, sorted by folder and id; a repeated file begins another triplet.

    Args:
        files: Their parents are relative to the split's folder.
        camera: The camera that the source states, if any.
    """
    groups: dict[tuple[str, str, int], Members] = {}
    others: list[tuple[tuple[str, str, int], SourceFile]] = []
    for file in files:
        found = _MEMBER.fullmatch(file.name)
        if found is None:
            continue
        stem, suffix = printable(found["stem"]), found["suffix"].lower()
        if suffix not in _MEMBER_OF_SUFFIX:
            others.append(((file.parent, stem, 0), file))
            continue
        member, copy = _MEMBER_OF_SUFFIX[suffix], 0
        while member in groups.get((file.parent, stem, copy), {}):
            copy += 1
        groups.setdefault((file.parent, stem, copy), {})[member] = file
    for key, file in others:
        if key in groups:
            groups[key].setdefault("rgb", file)
    return [_triplet(split, *key[:2], groups[key], camera) for key in sorted(groups)]


def _triplet(split: str, parent: str, stem: str, files: Members, camera: Camera | None) -> Frame:
    scene_type, scene, scan = "", "", ""
    problem = f"the name {stem} is not SSSSS_NNNNN_{{indoors,outdoor}}_AAA_BBB"
    match = _SAMPLE_ID.fullmatch(stem)
    if match is not None:
        scene_type, scene, scan = match["scene_type"], f"scene_{match['scene']}", f"scan_{match['scan']}"
        expected = f"{scene_type}/{scene}/{scan}"
        problem = "" if parent == expected else f"it lies in {printable(parent)} instead of {expected}"
    return make_frame(
        files,
        problem=problem,
        reason="bad_name" if problem else "",
        sample_id=stem,
        split=split,
        scene_type=scene_type,
        scene=scene,
        scan=scan,
        required=tuple(MEMBER_SUFFIXES),
        dataset="diode",
        camera=camera,
    )
