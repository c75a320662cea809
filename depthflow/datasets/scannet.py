"""The layout of ScanNet's exported scans (Dai et al. 2017, arXiv:1702.04405), as its SensReader writes them.

sceneNNNN_NN/color/N.jpg, depth/N.png, pose/N.txt (camera to world, 4 x 4, metres; infinite where tracking was lost),
intrinsic/intrinsic_color.txt and intrinsic/intrinsic_depth.txt (4 x 4, OpenCV's convention). sceneNNNN is the room and
sceneNNNN_NN one recording of it, at 30 Hz.

Depth is 16-bit millimetres, 0 where there is none, in the same pose as the image but of another size (640 x 480 to
1296 x 968) and of a slightly other field of view. So the image's pixels look it up by direction. The sizes that the
intrinsics belong to are stated by no file of the export, but their principal points tell them.
"""

import posixpath
import re
from collections.abc import Iterator

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.folders import make_frame, pair_folders, pair_stems, scan_names, video_time_s
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import matrix_camera
from depthflow.datasets.listing import Listing
from depthflow.datasets.poses import read_poses
from depthflow.datasets.text_files import where

_ENCODING = DepthEncoding(units_per_m=1000, invalid=(0,))
_COLOR_SIZES = ((1296, 968), (640, 480))
_DEPTH_SIZES = ((640, 480),)
_INTRINSIC_COLOR, _INTRINSIC_DEPTH = "intrinsic_color.txt", "intrinsic_depth.txt"


def fits(listing: Listing) -> bool:
    """Returns whether any folder intrinsic holds intrinsic_color.txt, next to images and depth maps."""
    return any(
        images and depths and _INTRINSIC_COLOR in listing.files_in(folder, "intrinsic")
        for folder, (images, depths) in pair_folders(listing, ("color",), "depth").items()
    )


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, incomplete ones included."""
    folders = pair_folders(listing, ("color",), "depth")
    for folder, scan in scan_names(listing, folders).items():
        found = re.fullmatch(r"(scene\d{4})_\d{2}", posixpath.basename(scan))
        room = found[1] if found else scan
        camera = _read_camera(listing, folder, _INTRINSIC_COLOR, _COLOR_SIZES) or listing.camera
        depth_camera = _read_camera(listing, folder, _INTRINSIC_DEPTH, _DEPTH_SIZES)
        groups = dict(pair_stems(*folders[folder]))
        pose_files = listing.files_in(folder, "pose")
        poses = read_poses(listing, [pose_files.get(f"{name}.txt") for name in groups])
        for (name, files), pose in zip(groups.items(), poses, strict=True):
            yield make_frame(
                files,
                sample_id=frame_id("scannet", room, scan, name),
                dataset="scannet",
                scene=room,
                scan=scan,
                time_s=video_time_s(name),
                encoding=_ENCODING,
                camera=camera,
                depth_camera=depth_camera if camera else None,
                pose=pose,
            )


def _read_camera(
    listing: Listing, folder: str, name: str, sizes: tuple[tuple[int, int], ...]
) -> Camera | Intrinsics | None:
    file = listing.files_in(folder, "intrinsic").get(name)
    if file is None:
        return None
    return matrix_camera(listing.text(file), place=where(listing, file), size=4, resolutions=sizes)
