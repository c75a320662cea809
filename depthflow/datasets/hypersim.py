"""Hypersim: ray-traced rooms (Roberts et al. 2021, arXiv:2011.02523; the page of apple/ml-hypersim).

    ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.FFFF.tonemap.jpg, or .color.jpg
    ai_VVV_NNN/images/scene_cam_XX_geometry_hdf5/frame.FFFF.depth_meters.hdf5
    metadata_camera_parameters.csv, metadata_images_split_scene_v1.csv (optional, anywhere)

The depth is the distance along each pixel's ray; where there is no surface, it is not finite, and the pixel is invalid.
Without the first table, every frame gets the nominal camera, 60 degrees wide, which is wrong for the scenes with a
shifted lens: a warning says so. Without the second, all frames belong to train; its test split counts as val.
"""

import csv
import logging
import re
from collections.abc import Iterator, Mapping

import numpy as np

from depthflow.datasets.camera import Camera
from depthflow.datasets.folders import Members, make_frame
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.listing import Listing, printable
from depthflow.errors import SourceError

CAMERA = Camera(width=1024, height=768, fx_px=886.81, fy_px=886.81, cx_px=512.0, cy_px=384.0)
"""The nominal camera."""
CAMERAS_FILE, SPLITS_FILE = "metadata_camera_parameters.csv", "metadata_images_split_scene_v1.csv"

_FOLDER = re.compile(r"(?P<root>(?:.*/)?)scene_cam_(?P<number>\d+)_(?P<kind>final_preview|geometry_hdf5)", re.DOTALL)
_FILE = re.compile(
    r"frame\.(?P<number>\d+)\.(?P<kind>tonemap\.jpe?g|color\.jpe?g|depth_meters\.hdf5)", re.IGNORECASE | re.DOTALL
)
_SCENE = re.compile(r"ai_\d{3}_\d{3}")
_MAX_SKEW = 1e-3
"""Largest skew of a camera, relative to its focal length, that is taken for none."""

_log = logging.getLogger(__name__)


def fits(listing: Listing) -> bool:
    """Returns whether any folder is one of Hypersim's previews or geometry."""
    return any(_FOLDER.fullmatch(parent) for parent in listing.folders)


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, incomplete ones included, by scene, camera and number.

    Raises:
        SourceError: if a table is damaged.
    """
    cameras, splits = _cameras(listing), _splits(listing)
    nominal: set[str] = set()
    for (root, number), of_camera in sorted(_members(listing).items()):
        scene, scan = _scene(listing, root), f"cam_{number}"
        camera = cameras.get(scene, listing.camera)
        if camera is None:
            nominal.add(scene)
        for frame, members in sorted(of_camera.items()):
            skewed = camera if isinstance(camera, str) else ""
            yield make_frame(
                members,
                problem=skewed,
                reason="no_camera" if skewed else "",
                sample_id=frame_id("hypersim", scene, scan, frame),
                split=splits.get((scene, scan, int(frame)), "train"),
                scene=scene,
                scan=scan,
                dataset="hypersim",
                encoding=DepthEncoding(kind="ray"),
                camera=None if isinstance(camera, str) else camera or CAMERA,
            )
    if nominal:
        what = f"{len(nominal)} scenes, such as {min(nominal)}, have no row in a {CAMERAS_FILE}"
        _log.warning("%s: they get the nominal camera. Put ml-hypersim's file into the source.", what)


def _members(listing: Listing) -> dict[tuple[str, str], dict[str, Members]]:
    """Returns folder above and number of a camera to number of a frame to its image and its depth."""
    found: dict[tuple[str, str], dict[str, Members]] = {}
    for parent, files in listing.folders.items():
        folder = _FOLDER.fullmatch(parent)
        if folder is None:
            continue
        of_camera = found.setdefault((folder["root"], folder["number"]), {})
        for name in sorted(files, reverse=True):  # The tone-mapped image before the other.
            file = _FILE.fullmatch(name)
            if file is not None:
                member = "depth" if file["kind"].lower().startswith("depth") else "rgb"
                of_camera.setdefault(file["number"], {}).setdefault(member, files[name])
    return found


def _scene(listing: Listing, root: str) -> str:
    """Returns the innermost folder that is named as a scene, otherwise the one that holds images/."""
    path = [*listing.location.rstrip("/").split("/")[:-1], listing.name, *root.split("/")]
    names = [part for part in path if part and part != "images"]
    return printable(next((name for name in reversed(names) if _SCENE.fullmatch(name)), names[-1]))


def _rows(listing: Listing, name: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yields each row of the tables of a name, and where it stands."""
    for file in listing.files:
        if file.name == name:
            for row in (reader := csv.DictReader(listing.text(file).splitlines())):
                yield f"{file.path} of {listing.location}, line {reader.line_num}", row


def _splits(listing: Listing) -> dict[tuple[str, str, int], str]:
    """Returns scene, camera and number of a frame to its split."""
    found = {}
    for where, row in _rows(listing, SPLITS_FILE):
        try:
            held_out = row["split_partition_name"] in ("val", "test")
            found[row["scene_name"], row["camera_name"], int(row["frame_id"])] = "val" if held_out else "train"
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(where, "scene_name, camera_name, frame_id and split_partition_name", error) from None
    return found


def _cameras(listing: Listing) -> dict[str, Camera | str]:
    """Returns the camera of each scene, or why it has none."""
    found: dict[str, Camera | str] = {}
    for where, row in _rows(listing, CAMERAS_FILE):
        try:
            size = [round(float(row[f"settings_output_img_{side}"])) for side in ("height", "width")]
            rays = np.array([[float(row[f"M_cam_from_uv_{i}{j}"]) for j in range(3)] for i in range(3)])
            found[row["scene_name"]] = camera_of_rays(rays, height=size[0], width=size[1])
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
            names = "scene_name, settings_output_img_width, settings_output_img_height and M_cam_from_uv_00 to _22"
            raise _damaged(where, names, error) from None
    return found


def camera_of_rays(rays: np.ndarray, *, height: int, width: int) -> Camera | str:
    """Returns the pinhole camera of a scene, or why it is none.

    A shifted lens moves the principal point, and a tilted one turns the image plane. Depth is measured perpendicular to
    the image plane, so a turn of the camera is of no matter: the camera is K of K R = inverse(rays per pixel).

    Args:
        rays: (3, 3), from (u, v, 1), in -1 to 1 to the right and upwards, to rays (x right, y up, z backwards).
    """
    uv_of_pixel = np.array([[2 / width, 0, -1], [0, -2 / height, 1], [0, 0, 1]])
    pixel_of_ray = np.linalg.inv(np.diag([1.0, -1.0, -1.0]) @ rays @ uv_of_pixel)
    turned, upper = np.linalg.qr(pixel_of_ray[::-1].T)  # An RQ decomposition is a QR decomposition in reverse.
    matrix = upper.T[::-1, ::-1]
    matrix = matrix * np.sign(np.diag(matrix)) / abs(matrix[2, 2])
    if not np.isfinite(turned).all() or abs(matrix[0, 1]) > _MAX_SKEW * matrix[0, 0]:
        return f"the pixels of its camera are skewed, by {matrix[0, 1] / matrix[0, 0]:.3g} of the focal length"
    fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Camera(width=width, height=height, fx_px=fx, fy_px=fy, cx_px=cx, cy_px=cy)


def _damaged(where: str, columns: str, error: Exception) -> SourceError:
    return SourceError(f"{where} is damaged: {error!r}. It needs {columns}: fetch the file of ml-hypersim again.")
