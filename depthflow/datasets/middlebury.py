"""Middlebury's stereo pairs with true disparities (vision.middlebury.edu/stereo/data), those of 2003, 2014 and 2021.

2014 and 2021, also the benchmark's copies at a half and a quarter of the size (Scharstein et al. 2014, "High-Resolution
Stereo Datasets with Subpixel-Accurate Ground Truth"):

    SCENE/im0.png, im1.png   the left and the right image, rectified
    SCENE/calib.txt          cam0=[f 0 cx; 0 f cy; 0 0 1], cam1, doffs, width and height in pixels, baseline in mm
    SCENE/disp0.pfm          disparity of the left image in pixels, infinite where unknown; or disp0GT.pfm

2003, at a quarter of the size (Scharstein and Szeliski 2003, "High-Accuracy Stereo Depth Maps Using Structured Light"):

    SCENE/im2.png, im6.png   the left and the right image, also .ppm
    SCENE/disp2.png          four times the disparity, 8 bits, 0 where unknown, also .pgm

Depth is baseline x f / (disparity + doffs). The pairs of 2003 have no calibration, so they are frames without a camera
and are rejected (no_camera) where they need one; a camera.json states it, but no baseline (no_baseline). With a table
of your own that states fx_px and baseline_m, they are read; with a baseline of 1, say, up to one factor.

Assumed: a pixel's centre is an integer in calib.txt, as in OpenCV, and a scene's "-perfect" and "-imperfect" versions
are one scene. Images of other exposures and lights, and disparities of the right image, are not read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from depthflow.datasets.folders import IMAGE_ENDINGS, by_stem, make_frame, rooted, scan_names, split_of
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import pinhole
from depthflow.datasets.listing import Listing, SourceFile
from depthflow.datasets.text_files import damaged, numbered_lines, parse_numbers, where

_CALIBRATION = "calib.txt"
_NEW, _OLD = ("im0", "im1"), ("im2", "im6")
_IMAGES = (*IMAGE_ENDINGS, ".ppm")
_PICTURES = (".png", ".pgm")
_TRUTHS = ("disp0GT.pfm", "disp0.pfm")
_VERSION = re.compile(r"-(im)?perfect$")
_DISPARITY = DepthEncoding(kind="disparity")
_QUARTER_DISPARITY = DepthEncoding(kind="disparity", units_per_m=4, invalid=(0,))


def fits(listing: Listing) -> bool:
    """Returns whether any folder holds a pair with calib.txt, or one of 2003 with its disparity."""
    return any(_is_new(files) or _is_old(files) for files in listing.folders.values())


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields a frame for each pair of a source, incomplete ones included."""
    pairs = [folder for folder, files in listing.folders.items() if _is_new(files) or _is_old(files)]
    for folder, scan in scan_names(listing, pairs).items():
        files = listing.folders[folder]
        images = by_stem(files, _IMAGES)
        if _is_new(files):
            found = {"depth": next((files[truth] for truth in _TRUTHS if truth in files), None)}
            fields: dict[str, Any] = {"encoding": _DISPARITY, **_calibration(listing, files)}
            left, right = _NEW
        else:
            found = {"depth": by_stem(files, _PICTURES).get("disp2")}
            fields = {"encoding": _QUARTER_DISPARITY, "camera": listing.camera}
            left, right = _OLD
        yield make_frame(
            {"rgb": images.get(left), "right": images.get(right), **found},
            sample_id=frame_id("middlebury", scan, left),
            dataset="middlebury",
            split=split_of(rooted(listing, folder)),
            scene=_VERSION.sub("", scan.rpartition("/")[2]),
            scan=scan,
            **fields,
        )


def _is_new(files: Mapping[str, SourceFile]) -> bool:
    return _CALIBRATION in files and not {*_NEW}.isdisjoint(by_stem(files, _IMAGES))


def _is_old(files: Mapping[str, SourceFile]) -> bool:
    return {*_OLD} <= by_stem(files, _IMAGES).keys() and "disp2" in by_stem(files, _PICTURES)


def _calibration(listing: Listing, files: Mapping[str, SourceFile]) -> dict[str, Any]:
    """Returns camera, baseline_m and right_cx_px."""
    file = files[_CALIBRATION]
    place = where(listing, file)
    stated = {
        name: (number, value)
        for number, line in numbered_lines(listing.text(file))
        for name, _, value in [line.partition("=")]
    }

    def numbers(name: str, count: int) -> list[float]:
        number, value = stated.get(name, (1, ""))
        return parse_numbers(value.strip("[]").replace(";", " "), count=count, place=place, number=number)

    focal, _, cx, _, _, cy, *_ = numbers("cam0", 9)
    [width], [height], [doffs], [baseline_mm] = (numbers(name, 1) for name in ("width", "height", "doffs", "baseline"))
    camera = pinhole(focal, focal, cx + 0.5, cy + 0.5, size=(width, height), place=place, line=stated["cam0"][0])
    if not 0 < baseline_mm < float("inf"):
        raise damaged(place, stated["baseline"][0], "a positive baseline", str(baseline_mm))
    return {"camera": camera, "baseline_m": baseline_mm / 1000, "right_cx_px": camera.cx_px + doffs}
