"""ARKitScenes' layout (Baruch et al. 2021, arXiv:2111.08897): recordings of an iPad Pro with LiDAR.

{Training,Validation}/VIDEO/ (raw data) or {Training,Validation}/VIDEO/VIDEO_frames/ (3D object detection)
    lowres_wide/VIDEO_TIME.png                images, 256 x 192
    lowres_depth/VIDEO_TIME.png               uint16 millimetres, 0 = none
    confidence/VIDEO_TIME.png                 of the depth, 0 to 2
    lowres_wide_intrinsics/VIDEO_TIME.pincam  width height fx fy cx cy
    lowres_wide.traj                          time, rotation vector, translation: world to camera, ten times a second
metadata.csv                                  video_id, visit_id: the visit to a place to which recordings belong

Only depth of confidence 2 is accepted. The device fills the gaps between the points of its laser with the help of the
image, and levels 0 and 1 are where that is a guess: at outlines, on dark and shiny surfaces, and far away. Wrong depth
costs more than missing depth. A frame table may state another level.

The recordings of one visit make a scene. As in the authors' own reader, a frame has the camera whose time is within
1 ms, and the pose within 5 ms, otherwise none. ARKit counts the principal point from the image's corner, as depthflow
does. The upsampling subset (wide, highres_depth) is not read.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.listing import Listing
from depthflow.datasets.members import IMAGE_ENDINGS, by_stem, child, frame_members, rooted
from depthflow.datasets.poses import as_poses, inverted
from depthflow.datasets.text_files import parse_table, parse_text, pinhole, where

_MEMBERS = {"rgb": "lowres_wide", "depth": "lowres_depth", "confidence": "confidence"}
_ENDINGS = {"rgb": IMAGE_ENDINGS}
_CAMERAS, _TRAJECTORY, _VISITS = "lowres_wide_intrinsics", "lowres_wide.traj", "metadata.csv"
_SPLITS = {"Training": "train", "Validation": "val"}
_NAME = re.compile(r"(?P<video>[^_]+)_(?P<time>\d+(?:\.\d+)?)")
_CAMERA_MS, _POSE_MS = 1, 5
"""Largest difference between the time of a frame and of its camera or pose."""


def fits(listing: Listing) -> bool:
    """Returns whether any folder is named lowres_wide."""
    return any(folder.rpartition("/")[2] == _MEMBERS["rgb"] for folder in listing.folders)


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of all recordings of a source."""
    recordings = {}
    for folder in listing.folders:
        parent, _, name = folder.rpartition("/")
        if name in (_MEMBERS["rgb"], _MEMBERS["depth"]):
            recordings[parent] = None
    visits = _visits(listing)
    for recording in recordings:
        yield from _recording(listing, recording, visits)


def _recording(listing: Listing, recording: str, visits: Mapping[str, str]) -> Iterator[Frame]:
    folders = listing.folders
    files = {
        member: by_stem(folders.get(child(recording, name), {}), _ENDINGS.get(member, (".png",)))
        for member, name in _MEMBERS.items()
    }
    cameras, poses = _cameras(listing, recording), _poses(listing, recording)
    path = rooted(listing, recording).split("/")
    split = next((_SPLITS[part] for part in path if part in _SPLITS), "train")
    video = path[-1].removesuffix("_frames")
    visit = visits.get(video, "")
    for stem in sorted({*files["rgb"], *files["depth"]}):
        match = _NAME.fullmatch(stem)
        time_s = float(match["time"]) if match else None
        members = frame_members({member: found.get(stem) for member, found in files.items()})
        if match is None and not members["problem"]:
            members |= {"problem": f"the name {stem} is not VIDEO_TIME", "reason": "bad_name"}
        yield Frame(
            sample_id=frame_id("arkitscenes", video, match["time"] if match else stem),
            split=split,
            scene_type="indoors",
            scene=f"visit_{visit}" if visit else video,
            scan=video,
            required=("rgb", "depth", "confidence") if files["confidence"] else ("rgb", "depth"),
            dataset="arkitscenes",
            time_s=time_s,
            encoding=DepthEncoding(units_per_m=1000, min_confidence=2),
            camera=_nearest(cameras, time_s, _CAMERA_MS) or listing.camera,
            pose=_nearest(poses, time_s, _POSE_MS),
            **members,
        )


def _nearest(values: Mapping[int, Any], time_s: float | None, within_ms: int) -> Any:
    """Returns the value at the nearest millisecond, or None if there is none so near."""
    if time_s is None:
        return None
    steps = sorted(range(-within_ms, within_ms + 1), key=abs)
    return next((values[at] for step in steps if (at := _milliseconds(time_s) + step) in values), None)


def _milliseconds(time_s: float) -> int:
    return round(1000 * time_s)


def _cameras(listing: Listing, recording: str) -> dict[int, Camera | Intrinsics]:
    """Returns millisecond to camera."""
    files = by_stem(listing.folders.get(child(recording, _CAMERAS), {}), (".pincam",))
    cameras = {}
    for (stem, file), text in zip(files.items(), listing.texts(files.values()), strict=True):
        if match := _NAME.fullmatch(stem):
            place = where(listing, file)
            width, height, *numbers = parse_text(text, count=6, place=place)
            camera = pinhole(*numbers, size=(width, height), place=place)
            cameras[_milliseconds(float(match["time"]))] = camera
    return cameras


def _poses(listing: Listing, recording: str) -> dict[int, tuple[float, ...] | None]:
    """Returns millisecond to camera to world."""
    file = listing.folders.get(recording, {}).get(_TRAJECTORY)
    rows = np.array(parse_table(listing.text(file), columns=7, place=where(listing, file)) if file else [])
    if not len(rows):
        return {}
    rotations = np.stack([cv2.Rodrigues(row[1:4])[0] for row in rows])
    poses = as_poses(*inverted(rotations, rows[:, 4:]))
    return {_milliseconds(time_s): pose for time_s, pose in zip(rows[:, 0], poses, strict=True)}


def _visits(listing: Listing) -> dict[str, str]:
    """Returns recording to visit, for those whose visit is known."""
    files = [files[_VISITS] for files in listing.folders.values() if _VISITS in files]
    rows = (row for text in listing.texts(files) for row in csv.DictReader(text.splitlines()))
    return {
        row["video_id"]: row["visit_id"]
        for row in rows
        if row.get("video_id") and row.get("visit_id") not in (None, "", "NA")
    }
