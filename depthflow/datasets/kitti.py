"""KITTI's layouts: raw drives, the depth benchmark, its selections, and plain pairs.

Geiger et al. 2013, "Vision meets robotics: the KITTI dataset", IJRR, and Uhrig et al. 2017, arXiv:1708.06500. DRIVE is
YYYY_MM_DD_drive_NNNN_sync, CAMERA is image_02 or image_03, the colour cameras, and FRAME has ten digits:

    YYYY_MM_DD/calib_cam_to_cam.txt                           cameras after rectification, P_rect_02 and S_rect_02
    YYYY_MM_DD/DRIVE/CAMERA/data/FRAME.png                    raw images, and CAMERA/timestamps.txt
    {train,val}/DRIVE/proj_depth/groundtruth/CAMERA/FRAME.png depth, uint16 / 256 = metres, 0 = none
    val_selection_cropped/image/DRIVE_image_FRAME_CAMERA.png  also groundtruth_depth/ (DRIVE_groundtruth_depth_...),
                                                              and intrinsics/ with the image's 3 x 3 matrix
    test_depth_*_anonymous/image/FRAME.png                    images without depth
    NAME/{rgb,depth}/FRAME.png, NAME/annotations.json         pairs with the list that states scale and camera

A depth map belongs to the raw image of its drive, camera and frame, wherever both lie. The benchmark leaves out the
first and last frames of a drive, whose images become rejects (missing_member). Grey cameras, raw LiDAR (velodyne_raw)
and oxts are not read. Plain pairs are recognised by their list, since ten digits alone do not tell the scale.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.folders import IMAGE_ENDINGS, by_stem, make_frame, pair_stems, parents_of, rooted, split_of
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import matrix_camera, pinhole
from depthflow.datasets.listing import Listing, SourceFile, printable
from depthflow.datasets.text_files import damaged, numbered_lines, parse_numbers, parse_object, where

_DRIVE = r"(?P<drive>\d{4}_\d\d_\d\d_drive_\d{4}_sync)"
_RAW = re.compile(rf"(?:.*/)?{_DRIVE}/(?P<camera>image_0[23])/data")
_TRUTH = re.compile(rf"(?:.*/)?{_DRIVE}/proj_depth/groundtruth/(?P<camera>image_0[23])")
_SELECTED = re.compile(rf"{_DRIVE}_(?P<kind>image|groundtruth_depth)_(?P<number>\d{{10}})_(?P<camera>image_0[23])")
_ANONYMOUS = re.compile(r"(?:.*/)?(?P<name>test_depth_\w+_anonymous)/image")
_NUMBER = re.compile(r"\d{10}")
_CALIBRATION, _TIMES, _PAIRS = "calib_cam_to_cam.txt", "timestamps.txt", "annotations.json"
_UNITS_PER_M = 256.0

Pinhole = Camera | Intrinsics | None


def fits(listing: Listing) -> bool:
    """Returns whether any folder is one of a raw drive, of the benchmark, of a selection, or of listed pairs."""
    for folder, files in listing.folders.items():
        path = rooted(listing, folder)
        if _RAW.fullmatch(path) or _TRUTH.fullmatch(path) or _ANONYMOUS.fullmatch(path) or _is_selection(path, files):
            return True
        numbered = _PAIRS in files and _is_numbered(listing.files_in(folder, "depth"))
        if numbered and '"depth_scale"' in listing.text(files[_PAIRS]):
            return True
    return False


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of a source, incomplete ones included."""
    yield from _drive_frames(listing)
    selections = {}
    for folder, files in listing.folders.items():
        path = rooted(listing, folder)
        if _ANONYMOUS.fullmatch(path) or _is_selection(path, files):
            selections[posixpath.dirname(folder)] = None
    for parent in selections:
        yield from _selection_frames(listing, parent)
    for parent in parents_of(listing, "rgb", "depth"):
        if any(_is_numbered(listing.files_in(parent, name)) for name in ("rgb", "depth")):
            yield from _pair_frames(listing, parent)


def _is_selection(path: str, files: Mapping[str, SourceFile]) -> bool:
    kind = path.rpartition("/")[2]
    return kind in ("image", "groundtruth_depth") and any(_SELECTED.match(name) for name in files)


def _is_numbered(files: Mapping[str, SourceFile]) -> bool:
    return any(_NUMBER.fullmatch(stem) for stem in by_stem(files, IMAGE_ENDINGS))


def _frame(scene: str, scan: str, name: str, files: Mapping[str, SourceFile | None], **fields: Any) -> Frame:
    return make_frame(
        files,
        sample_id=frame_id("kitti", scan, name),
        scene_type="outdoor",
        scene=scene,
        scan=scan,
        dataset="kitti",
        **{"encoding": DepthEncoding(units_per_m=_UNITS_PER_M), **fields},
    )


# --- drives ---


class _Drive(NamedTuple):
    """What the folders of one drive and camera hold, wherever they lie.

    Attributes:
        images: Frame number to its images, each with the folder that it lies in.
        truths: Frame number to its depth maps, each with its split.
    """

    images: dict[str, list[tuple[SourceFile, str]]]
    truths: dict[str, list[tuple[SourceFile, str]]]


def _drive_frames(listing: Listing) -> Iterator[Frame]:
    calibrations, times = _calibrations(listing), _times(listing)
    drives, splits = _drives(listing)
    for (name, camera), drive in sorted(drives.items()):
        folders = {folder for images in drive.images.values() for _, folder in images}
        cameras = {folder: _camera_of(listing, name, camera, folder, calibrations) for folder in folders}
        for number in sorted({*drive.images, *drive.truths}):
            images = drive.images.get(number) or [(None, "")]
            truths = drive.truths.get(number) or [(None, splits.get(name, "train"))]
            for copy in range(max(len(images), len(truths))):  # A copy becomes a reject (duplicate).
                image, folder = images[min(copy, len(images) - 1)]
                truth, split = truths[min(copy, len(truths) - 1)]
                yield _frame(
                    name,
                    f"{name}/{camera}",
                    number,
                    {"rgb": image, "depth": truth},
                    split=split or "train",
                    camera=cameras.get(folder),
                    time_s=times.get(folder, {}).get(number),
                )


def _drives(listing: Listing) -> tuple[dict[tuple[str, str], _Drive], dict[str, str]]:
    """Returns drive and camera to what they hold, and drive to split, which folders of depth maps decide first."""
    drives: dict[tuple[str, str], _Drive] = {}
    splits: dict[str, str] = {}
    for folder, files in listing.folders.items():
        path = rooted(listing, folder)
        raw, truth = _RAW.fullmatch(path), _TRUTH.fullmatch(path)
        match = raw or truth
        if match is None:
            continue
        split = split_of(path, default="")
        if split and (truth or match["drive"] not in splits):
            splits[match["drive"]] = split
        drive = drives.setdefault((match["drive"], match["camera"]), _Drive({}, {}))
        for number, file in by_stem(files, IMAGE_ENDINGS if raw else (".png",)).items():
            (drive.images if raw else drive.truths).setdefault(number, []).append((file, folder if raw else split))
    return drives, splits


def _camera_of(
    listing: Listing, drive: str, camera: str, folder: str, calibrations: Mapping[str, Mapping[str, Pinhole]]
) -> Pinhole:
    """Returns the camera that the nearest folder above states, or the folder of the drive's date, or the source."""
    above = rooted(listing, folder).split("/")
    for path in ["/".join(above[:depth]) for depth in range(len(above), 0, -1)] + [drive[:10]]:
        if camera in calibrations.get(path, {}):
            return calibrations[path][camera]
    return listing.camera


def _calibrations(listing: Listing) -> dict[str, dict[str, Pinhole]]:
    """Returns folder to camera name to camera; a folder also under its name alone, which is that of a date."""
    files = [(folder, files[_CALIBRATION]) for folder, files in listing.folders.items() if _CALIBRATION in files]
    found = {}
    for (folder, file), text in zip(files, listing.texts(file for _, file in files), strict=True):
        path = rooted(listing, folder)
        found[path] = _rectified_cameras(text, where(listing, file))
        found.setdefault(path.rpartition("/")[2], found[path])
    return found


def _rectified_cameras(text: str, place: str) -> dict[str, Pinhole]:
    """Returns camera name to camera. P_rect has 3 x 4 numbers, for pixel centres at integers; S_rect is the size."""
    lines = {name: (number, value) for number, line in numbered_lines(text) for name, _, value in [line.partition(":")]}
    cameras = {}
    for index in ("02", "03"):
        size_line, size = lines.get(f"S_rect_{index}", (1, ""))
        size = parse_numbers(size, count=2, place=place, number=size_line)
        number, projection = lines.get(f"P_rect_{index}", (1, ""))
        fx, _, cx, _, _, fy, cy, *_ = parse_numbers(projection, count=12, place=place, number=number)
        camera = pinhole(fx, fy, cx + 0.5, cy + 0.5, size=(size[0], size[1]), place=place, line=number)
        cameras[f"image_{index}"] = camera
    return cameras


def _times(listing: Listing) -> dict[str, dict[str, float]]:
    """Returns folder of images to frame number to seconds; a frame has none if the file ends before it."""
    files = {}
    for folder, found in listing.folders.items():
        images = posixpath.join(folder, "data")
        if _TIMES in found and _RAW.fullmatch(rooted(listing, images)):
            files[images] = found[_TIMES]
    times = {}
    for (folder, file), text in zip(files.items(), listing.texts(files.values()), strict=True):
        times[folder] = {}
        for number, line in numbered_lines(text):
            try:
                seconds = datetime.fromisoformat(line).replace(tzinfo=UTC).timestamp()
            except ValueError:
                raise damaged(where(listing, file), number, "YYYY-MM-DD HH:MM:SS.SSSSSSSSS", line) from None
            times[folder][f"{number - 1:010d}"] = seconds
    return times


# --- selections and pairs ---


def _selection_frames(listing: Listing, parent: str) -> Iterator[Frame]:
    """Yields the frames of a folder with image/, groundtruth_depth/ and intrinsics/, which all are for validation."""
    found: dict[tuple[str, str, str], dict[str, SourceFile | None]] = {}
    anonymous = _ANONYMOUS.fullmatch(rooted(listing, posixpath.join(parent, "image")))
    for kind, member in (("image", "rgb"), ("groundtruth_depth", "depth")):
        for stem, file in by_stem(listing.files_in(parent, kind), IMAGE_ENDINGS).items():
            match = _SELECTED.fullmatch(stem)
            if match:
                key = match["drive"], f"{match['drive']}/{match['camera']}", f"{match['number']}_cropped"
            else:
                name = anonymous["name"] if anonymous else parent
                key = name, name, stem
            found.setdefault(key, {})[member] = file
    matrices = by_stem(listing.files_in(parent, "intrinsics"), (".txt",))
    texts = dict(zip(matrices, listing.texts(matrices.values()), strict=True))
    for (scene, scan, name), files in sorted(found.items()):
        image = files.get("rgb")
        stem = image.name.rpartition(".")[0] if image else ""
        camera = listing.camera
        if stem in texts:
            camera = matrix_camera(texts[stem], place=where(listing, matrices[stem]))
        yield _frame(scene, scan, name, files, split="val", camera=camera)


def _pair_frames(listing: Listing, parent: str) -> Iterator[Frame]:
    """Yields pairs of one name; annotations.json lists rgb, depth, cam_in (fx, fy, cx, cy) and depth_scale of each."""
    images, depths = listing.files_in(parent, "rgb"), listing.files_in(parent, "depth")
    stated = _stated_pairs(listing, listing.files_in(parent).get(_PAIRS))
    scene = printable(parent or listing.name)
    for name, files in pair_stems(images, depths, IMAGE_ENDINGS):
        camera, units_per_m = stated.get(name, (listing.camera, _UNITS_PER_M))
        yield _frame(
            scene,
            scene,
            name,
            files,
            split=split_of(rooted(listing, parent)),
            camera=camera,
            encoding=DepthEncoding(units_per_m=units_per_m),
        )


def _stated_pairs(listing: Listing, file: SourceFile | None) -> dict[str, tuple[Pinhole, float]]:
    """Returns the name of an image to its camera and its depth map's units per metre."""
    if file is None:
        return {}
    place, pairs = where(listing, file), {}
    for entry in parse_object(listing.text(file), place=place).get("files", []):
        try:
            fx, fy, cx, cy = map(float, entry["cam_in"])
            name, units_per_m = entry["rgb"].rpartition("/")[2].rpartition(".")[0], float(entry["depth_scale"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise damaged(place, 1, "files with rgb, cam_in of 4 numbers and depth_scale", str(entry)) from None
        pairs[name] = pinhole(fx, fy, cx + 0.5, cy + 0.5, place=place), units_per_m
    return pairs
