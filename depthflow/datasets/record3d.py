"""Record3D's layout: recordings of an iPhone or iPad, exported by the app as "EXR + JPG sequence" (record3d.app).

NAME/EXR_RGBD/
    rgb/N.jpg or .png  images, N from 0
    depth/N.exr        metres along the optical axis, one float channel (R); of fewer pixels than the image with LiDAR
    metadata.json      w, h and fps; K, the image's 3 x 3 matrix column by column; for each frame, poses, [qx, qy, qz,
                       qw, tx, ty, tz], camera to world with OpenGL's axes, and, of newer versions of the app,
                       perFrameIntrinsicCoeffs, [fx, fy, cx, cy], and frameTimestamps in seconds

There is no specification; this is what the author states in issues 18, 33, 36, 67 and 83 of marek-simonik/record3d.
Assumed: poses belong to the image as exported, upright; the principal point counts from the image's corner, as ARKit's
does; a recording is a place of its own, indoors.

An .r3d file, or one that was unzipped (rgbd/N.jpg, N.depth, N.conf), holds depth that is compressed with LZFSE, for
which there is no decoder here. Its frames are rejected (lzfse_depth).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.folders import by_stem, make_frame, pair_stems, parents_of, rooted
from depthflow.datasets.frames import Frame, frame_id
from depthflow.datasets.intrinsics import pinhole
from depthflow.datasets.listing import UNREAD_FORMATS, Listing, SourceFile
from depthflow.datasets.poses import OPENGL, Pose, as_poses, quaternion_rotations
from depthflow.datasets.text_files import damaged, parse_object, where

_EXPORT, _METADATA = "EXR_RGBD", "metadata.json"


def fits(listing: Listing) -> bool:
    """Returns whether any folder is an export (metadata.json and depth/*.exr) or holds an .r3d file, zipped or not."""
    return any(
        (_METADATA in files and _has(listing.files_in(folder, "depth"), ".exr"))
        or _has(files, ".r3d")
        or (folder.rpartition("/")[2] == "rgbd" and _has(files, ".depth"))
        for folder, files in listing.folders.items()
    )


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of all recordings of a source; one for each .r3d file."""
    for folder, files in listing.folders.items():
        parent, _, name = folder.rpartition("/")
        stored = by_stem(files, (".r3d", *((".depth",) if name == "rgbd" else ())))
        for stem, file in stored.items():
            yield _unreadable(listing, parent if name == "rgbd" else folder, stem, file)
    for export in parents_of(listing, "rgb", "depth"):
        yield from _export(listing, export)


def _has(files: Mapping[str, SourceFile], ending: str) -> bool:
    return any(name.lower().endswith(ending) for name in files)


def _scan(listing: Listing, folder: str) -> str:
    """Returns the name of a recording: the path of its folder in the source, or the name of the source."""
    parts = [part for part in rooted(listing, folder).split("/")[1:] if part != _EXPORT]
    if parts or listing.name != _EXPORT:
        return "/".join(parts) or listing.name
    return Path(listing.location.rstrip("/")).absolute().parent.name or _EXPORT


def _unreadable(listing: Listing, folder: str, stem: str, file: SourceFile) -> Frame:
    scan = _scan(listing, folder)
    return make_frame(
        {"depth": file},
        problem=f"{file.path} cannot be read: {UNREAD_FORMATS['.r3d']}",
        reason="lzfse_depth",
        sample_id=frame_id("record3d", scan, stem),
        scene=scan,
        scan=scan,
        dataset="record3d",
    )


def _export(listing: Listing, folder: str) -> Iterator[Frame]:
    file = listing.files_in(folder).get(_METADATA)
    metadata = _Metadata(listing, file) if file else None
    scan = _scan(listing, folder)
    for name, files in pair_stems(listing.files_in(folder, "rgb"), listing.files_in(folder, "depth"), (".exr",)):
        number = int(name) if name.isdecimal() else None
        yield make_frame(
            files,
            sample_id=frame_id("record3d", scan, name),
            scene=scan,
            scan=scan,
            dataset="record3d",
            time_s=metadata.time_s(number) if metadata else None,
            camera=metadata.camera(number) if metadata else listing.camera,
            pose=metadata.pose(number) if metadata else None,
        )


class _Metadata:
    """A recording's metadata.json.

    Args:
        file: Read at once; raises SourceError if it is damaged.
    """

    def __init__(self, listing: Listing, file: SourceFile) -> None:
        self._place = where(listing, file)
        self._stated = parse_object(listing.text(file), place=self._place)
        self._size = self._number("w"), self._number("h")
        fx, _, _, _, fy, _, cx, cy, _ = self._rows("K", 9, whole=True)[0].tolist()
        self._camera = pinhole(fx, fy, cx, cy, size=self._size, place=self._place)
        self._cameras, self._times = self._rows("perFrameIntrinsicCoeffs", 4), self._rows("frameTimestamps", 1)
        self._fps = self._number("fps") if "fps" in self._stated else 0.0
        poses = self._rows("poses", 7)
        self._poses = as_poses(quaternion_rotations(poses[:, :4]) @ OPENGL, poses[:, 4:])

    def _number(self, name: str) -> float:
        try:
            return float(self._stated[name])
        except (KeyError, TypeError, ValueError):
            raise damaged(self._place, 1, f"a number {name}", str(self._stated.get(name))) from None

    def _rows(self, name: str, columns: int, *, whole: bool = False) -> np.ndarray:
        """Returns a list's (N, columns) float64, N = 0 if there is none; or, of a `whole` one, its only row."""
        stated = self._stated.get(name) or []
        try:
            return np.array(stated, np.float64).reshape(1 if whole else len(stated), columns)
        except (TypeError, ValueError):
            wanted = f"{name} of {columns} numbers{'' if whole else ' each'}"
            raise damaged(self._place, 1, wanted, str(stated)) from None

    def camera(self, number: int | None) -> Camera | Intrinsics:
        """Returns a frame's own camera, or the recording's."""
        if number is None or number >= len(self._cameras):
            return self._camera
        return pinhole(*self._cameras[number].tolist(), size=self._size, place=self._place)

    def time_s(self, number: int | None) -> float | None:
        """Returns a frame's time: as stated, or from its number."""
        if number is not None and number < len(self._times) and np.isfinite(self._times[number, 0]):
            return float(self._times[number, 0])
        return number / self._fps if number is not None and self._fps > 0 else None

    def pose(self, number: int | None) -> Pose | None:
        """Returns a frame's pose, if it is known."""
        return self._poses[number] if number is not None and number < len(self._poses) else None
