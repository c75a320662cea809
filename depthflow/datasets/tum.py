"""TUM RGB-D's layout (Sturm et al. 2012, "A Benchmark for the Evaluation of RGB-D SLAM Systems").

SCAN/rgb.txt and SCAN/depth.txt list the images and the depth maps in lines "timestamp path"; SCAN/groundtruth.txt, if
it is there, lists poses in lines "timestamp tx ty tz qx qy qz qw". A line that begins with # is a comment. An image
gets the depth map nearest in time within 20 ms, as the data set's own associate.py pairs them; each depth map is used
once.

The page "File Formats" of https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats says: depth is 16-bit,
5000 units per metre, 0 where there is none, and registered to the image; each of the three cameras, freiburg1 to
freiburg3, has intrinsics of its own. The lens distortion of the first two is left as it is. As all scans of one of them
show the same rooms, the scene is the camera's name.
"""

import math
import posixpath
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from depthflow.datasets.camera import PRIMESENSE_CAMERA, Camera
from depthflow.datasets.folders import IMAGE_ENDINGS, make_frame, scan_names
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.listing import Listing, SourceFile, printable
from depthflow.datasets.poses import Pose, as_poses, quaternion_rotations
from depthflow.datasets.text_files import damaged, numbered_lines, parse_numbers, parse_table, where

_LISTS = {"rgb": "rgb.txt", "depth": "depth.txt"}
_ENCODING = DepthEncoding(units_per_m=5000, invalid=(0,))
_MAX_GAP_S = 0.02 + 1e-6
"""Time between an image and its depth map or pose; stamps have microseconds."""
_CANDIDATES = 32
"""Depth maps before and after an image that may become its partner, so that repeated stamps take no quadratic time."""
_CAMERAS = {
    "freiburg1": Camera.of_opencv(width=640, height=480, fx=517.3, fy=516.5, cx=318.6, cy=255.3),
    "freiburg2": Camera.of_opencv(width=640, height=480, fx=520.9, fy=521.0, cx=325.1, cy=249.7),
    "freiburg3": Camera.of_opencv(width=640, height=480, fx=535.4, fy=539.2, cx=320.1, cy=247.6),
}
"""Colour cameras by the part of a folder's name; the page's default for any other."""


class _Entry(NamedTuple):
    """A line of rgb.txt or depth.txt; `file` is None if nothing lies at its path."""

    time_s: float
    path: str
    file: SourceFile | None


def fits(listing: Listing) -> bool:
    """Returns whether any folder holds rgb.txt and depth.txt."""
    return bool(_scans(listing))


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, those without a partner and files that no list names included."""
    for folder, name in scan_names(listing, _scans(listing)).items():
        scan = name.replace("rgbd_dataset_", "")
        camera = next((known for known in _CAMERAS if known in scan), None)
        yield from _scan_frames(
            listing,
            folder,
            {"dataset": "tum", "scene": camera or scan, "scan": scan},
            listing.camera or (_CAMERAS[camera] if camera else PRIMESENSE_CAMERA),
        )


def _scans(listing: Listing) -> list[str]:
    return [folder for folder, files in listing.folders.items() if {*_LISTS.values()} <= files.keys()]


def _scan_frames(listing: Listing, folder: str, names: Mapping[str, str], camera: Camera) -> Iterator[Frame]:
    entries = {member: _read_list(listing, folder, name) for member, name in _LISTS.items()}
    images, depths = entries["rgb"], entries["depth"]
    partners = pair_times([image.time_s for image in images], [depth.time_s for depth in depths])
    pairs = [(image, depths[partners[i]] if i in partners else None) for i, image in enumerate(images)]
    poses = _nearest_poses(listing, folder, [image.time_s for image in images])
    for (image, depth), pose in zip(pairs, poses, strict=True):
        files = {"rgb": image.file, "depth": depth and depth.file}
        yield _frame(names, image.path, files, time_s=image.time_s, camera=camera, pose=pose)
    used = {*partners.values()}
    for number, depth in enumerate(depths):
        if number not in used:
            yield _frame(names, depth.path, {"depth": depth.file}, time_s=depth.time_s, camera=camera)
    for member, found in entries.items():
        for file in _unlisted(listing, folder, found):
            problem = f"{file.path} is not listed in {_LISTS[member]}"
            yield _frame(names, file.name, {member: file}, problem=problem, reason="unlisted_file")


def _frame(names: Mapping[str, str], path: str, files: Mapping[str, SourceFile | None], **fields: Any) -> Frame:
    stem = printable(posixpath.splitext(posixpath.basename(path))[0])
    sample_id = frame_id(*names.values(), stem)
    return make_frame(files, sample_id=sample_id, **names, encoding=_ENCODING, **fields)


def _read_list(listing: Listing, folder: str, name: str) -> list[_Entry]:
    """Reads rgb.txt or depth.txt."""
    file = listing.folders[folder][name]
    place = where(listing, file)
    entries = []
    for number, line in numbered_lines(listing.text(file)):
        stamp, *path = re.split(r"[\s,]+", line, maxsplit=1)
        if not path:
            raise damaged(place, number, "a time and a path", line)
        (time_s,) = parse_numbers(stamp, count=1, place=place, number=number)
        if not math.isfinite(time_s):
            raise damaged(place, number, "a time and a path", line)
        whole = posixpath.normpath(posixpath.join(folder, *path))
        parent, base = posixpath.split(whole)
        entries.append(_Entry(time_s, whole, listing.folders.get(parent, {}).get(base)))
    return entries


def _unlisted(listing: Listing, folder: str, entries: Sequence[_Entry]) -> Iterator[SourceFile]:
    """Yields the images that lie where a list's own files lie, but are not in it."""
    listed = {entry.path for entry in entries}
    for parent in sorted({posixpath.dirname(path) for path in listed} - {folder}):
        for file in listing.folders.get(parent, {}).values():
            if file.path not in listed and file.name.lower().endswith(IMAGE_ENDINGS):
                yield file


def pair_times(first: Sequence[float], second: Sequence[float]) -> dict[int, int]:
    """Pairs two lists of times, the nearest first, so that each is used at most once.

    Returns:
        Index in `first` to index in `second`, of those at most 20 ms apart.
    """
    order = sorted(range(len(second)), key=second.__getitem__)
    times = [second[j] for j in order]
    gaps = []
    for i, time_s in enumerate(first):
        middle = bisect_left(times, time_s)
        begin = bisect_left(times, time_s - _MAX_GAP_S, max(0, middle - _CANDIDATES), middle)
        end = bisect_right(times, time_s + _MAX_GAP_S, middle, min(len(times), middle + _CANDIDATES))
        gaps += [(abs(times[k] - time_s), i, order[k]) for k in range(begin, end)]
    found: dict[int, int] = {}
    used = set()
    for _, i, j in sorted(gaps):
        if i not in found and j not in used:
            found[i] = j
            used.add(j)
    return found


def _nearest_poses(listing: Listing, folder: str, times: Sequence[float]) -> list[Pose | None]:
    """Returns the pose of groundtruth.txt nearest to each time, None where there is none within 20 ms."""
    file = listing.folders[folder].get("groundtruth.txt")
    table = parse_table(listing.text(file), columns=8, place=where(listing, file)) if file else []
    known = np.array(sorted(row for row in table if math.isfinite(row[0]))).reshape(-1, 8)
    stamps, poses = known[:, 0].tolist(), as_poses(quaternion_rotations(known[:, 4:]), known[:, 1:4])
    found = []
    for time_s in times:
        middle = bisect_left(stamps, time_s)
        near = range(max(0, middle - 1), min(len(stamps), middle + 1))
        gap_s, nearest = min(((abs(stamps[index] - time_s), index) for index in near), default=(math.inf, 0))
        found.append(poses[nearest] if gap_s <= _MAX_GAP_S else None)
    return found
