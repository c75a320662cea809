"""The layout of 7-Scenes (Shotton et al. 2013, "Scene Coordinate Regression Forests for Camera Relocalization").

SCENE/seq-NN/frame-NNNNNN + .color.png, .depth.png, .pose.txt (camera to world, 4 x 4, metres); images may be JPEGs.
SCENE/TrainSplit.txt and SCENE/TestSplit.txt name sequences in lines "sequence1"; the test split counts as val. One
folder of such frames is a scene of one scan; camera-intrinsics.txt beside them holds a 3 x 3 matrix.

Depth is 16-bit millimetres, 0 or 65535 where there is none. The data set's page at
https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/ gives f = 585 and c = (320, 240) for the depth
camera, nothing for the colour camera, and says that the two are not calibrated to each other. Paired pixel by pixel,
they would differ by 10% of the distance from the centre, 36 px at the sides. So the images of the data set as published
get the default of that sensor's colour camera, f = 525, and their pixels look up the depth map by direction
(`Frame.depth_camera`): along 200 frames of one kitchen, depth edges fall onto image edges at a scale of 0.91, close to
525 / 585 = 0.90, and nowhere near 1. What remains is the parallax of the 2.5 cm between the cameras, 13 px at 1 m and
4 px at 3 m, which is not corrected. A camera.json states the image's camera.

A camera-intrinsics.txt, which copies of the data set have, states one camera for both, and is believed: depth belongs
to the image pixel by pixel. Without that file, the same frames are paired as above.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from depthflow.datasets.camera import PRIMESENSE_CAMERA, Camera, Intrinsics
from depthflow.datasets.folders import IMAGE_ENDINGS, Members, make_frame, scan_names, video_time_s
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import matrix_camera
from depthflow.datasets.listing import Listing, SourceFile, printable
from depthflow.datasets.poses import read_poses
from depthflow.datasets.text_files import damaged, numbered_lines, where
from depthflow.storage.location import absolute

_FILE = re.compile(r"(?P<name>frame-\d+)\.(?P<member>color|depth|pose)(?P<ending>\.[a-z]+)", re.IGNORECASE)
_ENDINGS = {"color": IMAGE_ENDINGS, "depth": (".png",), "pose": (".txt",)}
_SEQUENCE = re.compile(r"seq-(\d{1,9})")
_SPLITS = {"TrainSplit.txt": "train", "TestSplit.txt": "val"}
_ENCODING = DepthEncoding(units_per_m=1000, invalid=(0, 65535))
_DEPTH_CAMERA = Camera.of_opencv(width=640, height=480, fx=585.0, fy=585.0, cx=320.0, cy=240.0)
_OTHERS = {"info.txt", "_info.txt"}
"""Name the cameras of 12-Scenes, 3RScan and BundleFusion, whose frames have the same names."""


def fits(listing: Listing) -> bool:
    """Returns whether any file is called frame-NNNNNN.depth.png, and none states another data set's cameras."""
    return any(
        (found := _FILE.fullmatch(file.name)) and (found["member"] + found["ending"]).lower() == "depth.png"
        for file in listing.files
    ) and not any(file.name in _OTHERS for file in listing.files)


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, incomplete ones included."""
    scans = {folder: found for folder, files in listing.folders.items() if (found := _group(files))}
    scene_of = {folder: _scene_folder(listing, folder) for folder in scans}
    scenes = scan_names(listing, dict.fromkeys(scene_of.values()))
    splits = {scene: _read_splits(listing, scene) for scene in scenes}
    for folder, groups in scans.items():
        scene = scene_of[folder]
        scan = posixpath.basename(folder) or listing.name
        if folder == scene:
            scan = scenes[scene]
        names = {"dataset": "seven_scenes", "scene": scenes[scene], "scan": printable(scan)}
        yield from _scan_frames(listing, folder, groups, {**names, "split": splits[scene].get(scan, "train")})


def _group(files: Mapping[str, SourceFile]) -> dict[str, Members]:
    """Returns frame-NNNNNN to color, depth and pose to a file; a second file of one name is a frame of its own."""
    groups: dict[str, Members] = {}
    for name in sorted(files):
        found = _FILE.fullmatch(name)
        if found and found["ending"].lower() in _ENDINGS[member := found["member"].lower()]:
            frame = found["name"].lower()
            groups.setdefault(name if member in groups.get(frame, {}) else frame, {})[member] = files[name]
    return groups


def _scene_folder(listing: Listing, folder: str) -> str:
    """Returns the folder of a scan's scene: the scan's own, or the one above seq-NN, which may be above the source."""
    if not _SEQUENCE.fullmatch(posixpath.basename(folder) or listing.name):
        return folder
    return posixpath.dirname(folder) if folder else PurePosixPath(absolute(listing.location)).parent.name


def _read_splits(listing: Listing, scene: str) -> dict[str, str]:
    """Returns seq-NN to its split, as a scene's TrainSplit.txt and TestSplit.txt state it."""
    found = {}
    for name, split in _SPLITS.items():
        file = listing.files_in(scene).get(name)
        if file is None:
            continue
        for number, line in numbered_lines(listing.text(file)):
            sequence = re.fullmatch(r"sequence(\d{1,9})", line)
            if sequence is None:
                raise damaged(where(listing, file), number, "a sequence, such as sequence1", line)
            found[int(sequence[1])] = split
    folders = {posixpath.basename(folder) for folder in listing.folders if posixpath.dirname(folder) == scene}
    return {f: found[int(n[1])] for f in folders if (n := _SEQUENCE.fullmatch(f)) and int(n[1]) in found}


def _scan_frames(
    listing: Listing, folder: str, groups: Mapping[str, Members], names: Mapping[str, str]
) -> Iterator[Frame]:
    camera, depth_camera = _cameras(listing, folder)
    poses = read_poses(listing, [files.get("pose") for files in groups.values()])
    for (name, files), pose in zip(groups.items(), poses, strict=True):
        yield make_frame(
            {"rgb": files.get("color"), "depth": files.get("depth")},
            sample_id=frame_id(names["dataset"], names["scene"], names["scan"], printable(name)),
            **names,
            time_s=video_time_s(name),
            encoding=_ENCODING,
            camera=camera,
            depth_camera=depth_camera,
            pose=pose,
        )


def _cameras(listing: Listing, folder: str) -> tuple[Camera | Intrinsics, Camera | None]:
    """Returns the image's camera, and the depth map's if that is another one."""
    file = listing.folders[folder].get("camera-intrinsics.txt")
    if file:
        return matrix_camera(listing.text(file), place=where(listing, file), resolutions=[(640, 480)]), None
    return listing.camera or PRIMESENSE_CAMERA, _DEPTH_CAMERA
