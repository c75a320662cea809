"""Disparity of rectified pairs by matching, as `preprocess.py --depth-from stereo` takes it, beside the truth.

    python benchmarks/stereo.py --source FOLDER...

Each FOLDER holds pairs with true disparities in a layout of `depthflow.datasets.layouts`. For each pair the table has

- bad-2.0, the pixels whose error exceeds 2 px (Scharstein et al. 2014), or D1 for KITTI, those whose error exceeds 3 px
  and 5% (Menze and Geiger 2015), in percent of the non-occluded pixels that have a disparity;
- density, the percentage of non-occluded pixels that have one, and of all pixels of the image that have one;
- seconds for one pair of decoded images, the median over repeats, and for the check that it is rectified.

Pixels are non-occluded where mask0nocc.png beside the image is 255; where the true disparities of the right image
(disp6) lead back to within a pixel; without either, wherever there is a true disparity. The last line on stdout is one
JSON object.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import tyro

from depthflow.datasets.decode import doffs_of
from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.frame_table import frames_of
from depthflow.datasets.frames import SPLITS, Frame
from depthflow.datasets.image_file import decode_rgb, decode_with_opencv
from depthflow.datasets.layouts import find_frames, recognised
from depthflow.datasets.listing import list_tree
from depthflow.datasets.stereo_matching import disparity_by_matching, is_rectified

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Disparity by matching beside the truth."""

    source: tuple[str, ...]
    """Folders of pairs with true disparities."""
    repeats: int = 3
    """Of each pair."""


def main(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Prints a line for each pair, and returns its figures by sample ID."""
    print(f"{'pair':<40} {'size':>11} {'bad %':>14} {'density %':>10} {'of all %':>9} {'seconds':>8} {'check s':>8}")
    found = {}
    for frame in pairs(benchmark.source):
        figures = found[frame.sample_id] = measure(frame, benchmark.repeats)
        metric = "D1" if frame.dataset == "kitti_stereo" else "bad-2.0"
        size = f"{figures['width']:.0f} x {figures['height']:.0f}"
        numbers = "{density:10.1f} {of_all:9.1f} {seconds:8.3f} {check_seconds:8.3f}".format(**figures)
        print(f"{frame.sample_id:<40} {size:>11} {metric:>8} {figures[metric]:5.2f} {numbers}", flush=True)
    return found


def pairs(sources: tuple[str, ...]) -> Iterator[Frame]:
    """Yields the pairs of some folders that have true disparities."""
    for source in sources:
        listing = list_tree(source)
        for frame in frames_of(find_frames(listing, recognised(listing), SPLITS)):
            if {"rgb", "right", "depth"} <= frame.members.keys():
                yield frame


def measure(frame: Frame, repeats: int = 1) -> dict[str, float]:
    """Returns the figures of one pair."""
    left, right = (decode_rgb(Path(frame.members[name]).read_bytes()) for name in ("rgb", "right"))
    doffs_px = doffs_of(frame.camera, frame.right_cx_px, width=left.shape[1])
    problem, check_seconds = timed(lambda: is_rectified(left, right, doffs_px=doffs_px), repeats)
    assert not problem, problem
    disparity, seconds = timed(lambda: disparity_by_matching(left, right, doffs_px=doffs_px), repeats)
    truth = true_disparity(frame)
    seen = np.isfinite(truth) & is_seen_by_both(frame, truth)
    judged = seen & np.isfinite(disparity)
    error_px = np.abs(disparity[judged] - truth[judged])
    is_outlier = (error_px > 3) & (error_px > 0.05 * truth[judged])
    return {
        "height": left.shape[0],
        "width": left.shape[1],
        "bad-2.0": 100 * float(np.mean(error_px > 2)),
        "D1": 100 * float(np.mean(is_outlier)),
        "density": 100 * float(judged.sum() / seen.sum()),
        "of_all": 100 * float(np.isfinite(disparity).mean()),
        "seconds": seconds,
        "check_seconds": check_seconds,
    }


def timed(work: Callable[[], T], repeats: int) -> tuple[T, float]:
    """Returns what work returns, and the median of its seconds."""
    results, times = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        results.append(work())
        times.append(time.perf_counter() - started)
    return results[-1], statistics.median(times)


def true_disparity(frame: Frame, place: str = "") -> np.ndarray:
    """Returns (H, W) float32, pixels, NaN or infinite where it is unknown.

    Args:
        place: A file that holds it as the frame's depth file does; by default, that one.
    """
    values = decode_depth(Path(place or frame.members["depth"]).read_bytes(), may_have_8_bits=True)
    unknown = np.isin(values, frame.encoding.invalid)
    return np.where(unknown, np.float32(np.nan), values / np.float32(frame.encoding.units_per_m))


def is_seen_by_both(frame: Frame, truth: np.ndarray) -> np.ndarray:
    """Returns (H, W) bool, the pixels that the right image shows, as far as the files tell."""
    place = Path(frame.members["depth"])
    mask, of_right = place.with_name("mask0nocc.png"), place.with_name(place.name.replace("disp2", "disp6"))
    if mask.is_file():
        return decode_with_opencv(mask.read_bytes(), cv2.IMREAD_GRAYSCALE, member="mask", reason="unreadable") == 255
    if of_right == place or not of_right.is_file():
        return np.ones(truth.shape, bool)
    back = true_disparity(frame, str(of_right))
    column = np.rint(np.arange(truth.shape[1]) - np.nan_to_num(truth)).astype(int)
    returned = np.take_along_axis(back, column.clip(0), axis=1)
    return (column >= 0) & (np.abs(returned - truth) <= 1)


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
    sys.exit(0)
