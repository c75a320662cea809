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
from depthflow.datasets.folders import by_stem, make_frame, pair_stems, parents_of, rooted
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import pinhole
from depthflow.datasets.listing import Listing
from depthflow.datasets.poses import Pose, as_poses, inverted
from depthflow.datasets.text_files import parse_numbers, parse_table, where

_IMAGES, _DEPTHS, _CONFIDENCE = "lowres_wide", "lowres_depth", "confidence"
_CAMERAS, _TRAJECTORY, _VISITS = "lowres_wide_intrinsics", "lowres_wide.traj", "metadata.csv"
_SPLITS = {"Training": "train", "Validation": "val"}
_NAME = re.compile(r"(?P<video>[^_]+)_(?P<time>\d+(?:\.\d+)?)")
_CAMERA_MS, _POSE_MS = 1, 5
"""Largest difference between the time of a frame and of its camera or pose."""


def fits(listing: Listing) -> bool:
    """Returns whether any folder is named lowres_wide."""
    return bool(parents_of(listing, _IMAGES))


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of all recordings of a source."""
    visits = _visits(listing)
    for recording in parents_of(listing, _IMAGES, _DEPTHS):
        yield from _recording(listing, recording, visits)


def _recording(listing: Listing, recording: str, visits: Mapping[str, str]) -> Iterator[Frame]:
    confidence = by_stem(listing.files_in(recording, _CONFIDENCE), (".png",))
    cameras, poses = _cameras(listing, recording), _poses(listing, recording)
    path = rooted(listing, recording).split("/")
    split = next((_SPLITS[part] for part in path if part in _SPLITS), "train")
    video = path[-1].removesuffix("_frames")
    visit = visits.get(video, "")
    for stem, files in pair_stems(listing.files_in(recording, _IMAGES), listing.files_in(recording, _DEPTHS)):
        match = _NAME.fullmatch(stem)
        time_s = float(match["time"]) if match else None
        yield make_frame(
            {**files, "confidence": confidence.get(stem)},
            problem="" if match else f"the name {stem} is not VIDEO_TIME",
            reason="" if match else "bad_name",
            sample_id=frame_id("arkitscenes", video, match["time"] if match else stem),
            split=split,
            scene=f"visit_{visit}" if visit else video,
            scan=video,
            required=("rgb", "depth", "confidence") if confidence else ("rgb", "depth"),
            dataset="arkitscenes",
            time_s=time_s,
            encoding=DepthEncoding(units_per_m=1000, min_confidence=2),
            camera=_nearest(cameras, time_s, _CAMERA_MS) or listing.camera,
            pose=_nearest(poses, time_s, _POSE_MS),
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
    files = by_stem(listing.files_in(recording, _CAMERAS), (".pincam",))
    cameras = {}
    for (stem, file), text in zip(files.items(), listing.texts(files.values()), strict=True):
        if match := _NAME.fullmatch(stem):
            place = where(listing, file)
            width, height, *numbers = parse_numbers(text.strip(), count=6, place=place, number=1)
            camera = pinhole(*numbers, size=(width, height), place=place)
            cameras[_milliseconds(float(match["time"]))] = camera
    return cameras


def _poses(listing: Listing, recording: str) -> dict[int, Pose | None]:
    """Returns millisecond to camera to world."""
    file = listing.files_in(recording).get(_TRAJECTORY)
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
