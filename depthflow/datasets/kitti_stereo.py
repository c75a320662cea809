"""KITTI's rectified colour pairs: the stereo benchmark of 2015, the object benchmark and the odometry sequences.

Menze and Geiger 2015, "Object Scene Flow for Autonomous Vehicles", and Geiger et al. 2012, "Are we ready for Autonomous
Driving?". FRAME is NNNNNN_10 or NNNNNN_11, a pair and the next one, in the stereo benchmark, elsewhere NNNNNN:

    SET/image_2/FRAME.png, image_3/FRAME.png      the left and the right image
    SET/disp_occ_0/NNNNNN_10.png                  disparity of the left one, uint16 / 256 = pixels, 0 where unknown
    SET/calib_cam_to_cam/NNNNNN.txt               the stereo benchmark's cameras, P_rect_02, P_rect_03 and S_rect_02
    SET/calib/NNNNNN.txt                          the object benchmark's, P2 and P3
    SET/calib.txt, times.txt                      those of an odometry sequence, and the seconds of its frames

The last column of a camera's 3 x 4 matrix is -fx times its place on the x axis of the rectified cameras, in metres; the
baseline is the difference. Without any calibration the cameras are nominal: f = 721.5 px, the principal point
(610.1, 173.4), a baseline of 0.54 m. That is the calibration of the images of 1242 x 375; recordings of other days have
focal lengths 2% below, and the colour cameras stand 0.53 m apart, so that nominal metres are up to 4% off. A
camera.json replaces the nominal camera.

Only NNNNNN_10 of the benchmark's training set has depth, as measured by a laser scanner, with cars fitted by models,
occluded pixels included. Its pairs are scenes of their own; an odometry sequence is one scene. Grey cameras and
the benchmark of 2012, whose folders have other names, are not read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.folders import IMAGE_ENDINGS, by_stem, make_frame, parents_of, rooted, scan_names, split_of
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import pinhole
from depthflow.datasets.listing import Listing, SourceFile
from depthflow.datasets.text_files import damaged, numbered_lines, parse_numbers, parse_table, where

_LEFT, _RIGHT, _TRUTH = "image_2", "image_3", "disp_occ_0"
_CALIBRATIONS, _CALIBRATION, _TIMES = ("calib_cam_to_cam", "calib"), "calib.txt", "times.txt"
_FRAME = re.compile(r"(?P<number>\d{6})(_1[01])?")
_NOMINAL = Intrinsics(fx_px=721.5, fy_px=721.5, cx_px=610.1, cy_px=173.4)
_NOMINAL_BASELINE_M = 0.54
_ENCODING = DepthEncoding(kind="disparity", units_per_m=256, invalid=(0,))


class _Pair(NamedTuple):
    """The cameras of a pair; fields of `Frame`."""

    camera: Camera | Intrinsics
    baseline_m: float
    right_cx_px: float | None = None


def fits(listing: Listing) -> bool:
    """Returns whether any folder has image_2 and image_3 with images of KITTI's names."""
    return any(
        all(_numbered(listing.files_in(parent, name)) for name in (_LEFT, _RIGHT))
        for parent in parents_of(listing, _LEFT)
    )


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, incomplete ones included."""
    for parent, name in scan_names(listing, parents_of(listing, _LEFT, _RIGHT, _TRUTH)).items():
        yield from _set_frames(listing, parent, name)


def _numbered(files: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
    return {stem: file for stem, file in by_stem(files, IMAGE_ENDINGS).items() if _FRAME.fullmatch(stem)}


def _set_frames(listing: Listing, parent: str, name: str) -> Iterator[Frame]:
    """Yields the frames of one set, or of one odometry sequence."""
    members = {"rgb": _LEFT, "right": _RIGHT, "depth": _TRUTH}
    files = {member: _numbered(listing.files_in(parent, folder)) for member, folder in members.items()}
    top = listing.files_in(parent)
    is_sequence = _CALIBRATION in top or _TIMES in top
    times, cameras = _times(listing, top.get(_TIMES)), _cameras(listing, parent, top)
    for stem in sorted(set().union(*files.values())):
        number = stem[:6]
        scene = name if is_sequence else f"{name}/{number}"
        pair = cameras.get(number) or cameras.get("") or _Pair(listing.camera or _NOMINAL, _NOMINAL_BASELINE_M)
        yield make_frame(
            {member: found.get(stem) for member, found in files.items()},
            sample_id=frame_id("kitti_stereo", name, stem),
            dataset="kitti_stereo",
            split=split_of(rooted(listing, parent)),
            scene_type="outdoor",
            scene=scene,
            scan=scene,
            time_s=times.get(stem),
            encoding=_ENCODING,
            **pair._asdict(),
        )


def _times(listing: Listing, file: SourceFile | None) -> dict[str, float]:
    """Returns a frame's name to its seconds, one per line."""
    if file is None:
        return {}
    rows = parse_table(listing.text(file), columns=1, place=where(listing, file))
    return {f"{number:06d}": seconds for number, (seconds,) in enumerate(rows)}


def _cameras(listing: Listing, parent: str, top: Mapping[str, SourceFile]) -> dict[str, _Pair]:
    """Returns a frame's number to its cameras; "" stands for all frames."""
    files = {"": top[_CALIBRATION]} if _CALIBRATION in top else {}
    for folder in _CALIBRATIONS:
        files |= by_stem(listing.files_in(parent, folder), (".txt",))
    texts = listing.texts(files.values())
    return {name: _pair(text, where(listing, file)) for (name, file), text in zip(files.items(), texts, strict=True)}


def _pair(text: str, place: str) -> _Pair:
    """Returns the cameras that a calibration states, for pixel centres at integers."""
    lines = {name: (number, value) for number, line in numbered_lines(text) for name, _, value in [line.partition(":")]}

    def numbers(name: str, count: int) -> list[float]:
        number, value = lines.get(name, (1, ""))
        return parse_numbers(value, count=count, place=place, number=number)

    left_name, right_name = ("P_rect_02", "P_rect_03") if "P_rect_02" in lines else ("P2", "P3")
    fx, _, cx, left_shift, _, fy, cy, *_ = numbers(left_name, 12)
    _, _, right_cx, right_shift, *_ = numbers(right_name, 12)
    size: Any = tuple(numbers("S_rect_02", 2)) if "S_rect_02" in lines else None
    line = lines[left_name][0]
    camera = pinhole(fx, fy, cx + 0.5, cy + 0.5, size=size, place=place, line=line)
    baseline_m = (left_shift - right_shift) / fx
    if not 0 < baseline_m < float("inf"):
        raise damaged(place, line, f"a camera left of that of {right_name}", f"{baseline_m:g} m")
    return _Pair(camera, baseline_m, None if right_cx == cx else right_cx + 0.5)
