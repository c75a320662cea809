"""The layout of Open3D's reconstruction system and of Redwood's indoor scans (Choi et al. 2015, "Robust Reconstruction
of Indoor Scenes"; the pages "Dataset" of http://redwood-data.org and of Open3D's documentation).

SCAN/color/NNNNN.jpg (or rgb, or image) and SCAN/depth/NNNNN.png, 16-bit millimetres registered to the image, 0 where
there is none. SCAN/trajectory.log holds five lines per frame: three integers, of which the first is the number of the
frame, and its pose, camera to world, 4 x 4, metres.

SCAN/camera_intrinsic.json or camera_primesense.json, as Open3D writes it, states the camera, with the columns of its
matrix one after another. Without it, the camera is the PrimeSense's default, as in those data sets.
"""

import json
from collections.abc import Iterator

import numpy as np

from depthflow.datasets.camera import PRIMESENSE_CAMERA, Camera
from depthflow.datasets.folders import frame_number, make_frame, pair_folders, pair_stems, scan_names, video_time_s
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.listing import Listing
from depthflow.datasets.poses import Pose, finite_poses
from depthflow.datasets.text_files import damaged, numbered_lines, parse_numbers, where
from depthflow.errors import SourceError

_IMAGES = ("color", "rgb", "image")
_DEPTHS = "depth"
_TRAJECTORY = "trajectory.log"
_CAMERAS = ("camera_intrinsic.json", "camera_primesense.json")
_ENCODING = DepthEncoding(units_per_m=1000, invalid=(0,))


def fits(listing: Listing) -> bool:
    """Returns whether any folder holds images, depth maps, and a trajectory or camera as Open3D names them."""
    return any(
        images and depths and not {_TRAJECTORY, *_CAMERAS}.isdisjoint(listing.files_in(folder))
        for folder, (images, depths) in pair_folders(listing, _IMAGES, _DEPTHS).items()
    )


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, incomplete ones included."""
    folders = pair_folders(listing, _IMAGES, _DEPTHS)
    for folder, scan in scan_names(listing, folders).items():
        camera, poses = _read_camera(listing, folder), _read_trajectory(listing, folder)
        for name, files in pair_stems(*folders[folder]):
            yield make_frame(
                files,
                sample_id=frame_id("redwood", scan, name),
                dataset="redwood",
                scene=scan,
                scan=scan,
                time_s=video_time_s(name),
                encoding=_ENCODING,
                camera=camera,
                pose=poses.get(frame_number(name)),
            )


def _read_camera(listing: Listing, folder: str) -> Camera:
    files = listing.files_in(folder)
    file = next((files[name] for name in _CAMERAS if name in files), None)
    if file is None:
        return listing.camera or PRIMESENSE_CAMERA
    try:
        stated = json.loads(listing.text(file))
        fx, _, _, _, fy, _, cx, cy, _ = stated["intrinsic_matrix"]
        return Camera.of_opencv(width=stated["width"], height=stated["height"], fx=fx, fy=fy, cx=cx, cy=cy)
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(
            f"{where(listing, file)} is not a camera of Open3D: {error!r}. It needs width, height and "
            "intrinsic_matrix with nine numbers, column by column. Fix it, or remove it."
        ) from None


def _read_trajectory(listing: Listing, folder: str) -> dict[int | None, Pose | None]:
    """Returns the number of a frame to its pose."""
    file = listing.files_in(folder).get(_TRAJECTORY)
    if file is None:
        return {}
    place = where(listing, file)
    rows = [
        (number, line, parse_numbers(line, count=4 if index % 5 else 3, place=place, number=number))
        for index, (number, line) in enumerate(numbered_lines(listing.text(file)))
    ]
    if len(rows) % 5:
        raise damaged(place, rows[-1][0], "five lines per frame", f"{len(rows)} lines")
    for number, line, (frame, *_) in rows[::5]:
        if not frame.is_integer():
            raise damaged(place, number, "three integers", line)
    matrices = np.reshape([values for index, (*_, values) in enumerate(rows) if index % 5], (-1, 4, 4))
    return {int(values[0]): pose for (*_, values), pose in zip(rows[::5], finite_poses(matrices), strict=True)}
