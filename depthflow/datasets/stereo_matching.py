"""Triangulation: the disparity of a rectified stereo pair, by semi-global matching, and whether a pair is rectified.

In a rectified pair, the point that the left image shows at column x is in the same row of the right image, at column
x - disparity. Where both cameras have one principal point, disparities begin at 0, which is infinitely far away. If the
right one's is further right by doffs, as in some pairs of Middlebury, they begin at -doffs.
"""

import cv2
import numpy as np

_RANGE_OF_WIDTH = 1 / 4
"""Largest disparity relative to the image's width. Middlebury's and KITTI's pairs in the tests need up to 0.13."""
_LARGEST_DIFFERENCE_PX = 1.0
"""Between the disparities from left to right and from right to left of one point."""
_SPECKLE_OF_IMAGE = 1 / 4000
"""Size of a region that is too small to be trusted where its disparity differs from all around it."""
_BLOCK_PX = 5
_UNMATCHED = 16
"""StereoSGBM's values are sixteenths of a pixel."""

_MOST_PX = 640
"""Features are found in images of at most this width and height."""
_MOST_FEATURES = 500
_LEAST_FEATURES = 30
_RATIO = 0.8
"""Lowe 2004, section 7.1: the nearest descriptor must be nearer than this part of the second nearest's distance."""
_SAME_ROW_PX = 1.0
_LEAST_SHARE = {"matched": 0.1, "same row": 0.65, "in front": 0.9}
"""Of features or matches. Real pairs have 0.43, 0.92 and 0.99 or more; turned by a degree, 0.38 are in the same row."""


def disparity_by_matching(
    left: np.ndarray, right: np.ndarray, *, doffs_px: float = 0.0, range_px: int | None = None
) -> np.ndarray:
    """Returns the disparity of the left image's pixels.

    Left is matched to right and right to left. A pixel keeps its disparity if the pixel that it leads to leads back to
    within a pixel, which rejects what only one camera sees, and if it does not stand out alone.

    Args:
        left, right: (H, W, 3) uint8 RGB, rectified.
        doffs_px: Principal point of the right image minus that of the left.
        range_px: Number of disparities to search from -doffs_px on. What is nearer than fx x baseline / range_px is
            missed, or mistaken for something further away. Defaults to a quarter of the width.

    Returns:
        (H, W) float32, pixels, in steps of 1/16; NaN where there is none.

    Raises:
        ValueError: if the shapes differ.

    Source: Hirschmueller 2008, "Stereo Processing by Semiglobal Matching and Mutual Information", as OpenCV's
    StereoSGBM implements it: the costs of Birchfield and Tomasi, along three paths.
    """
    if left.shape != right.shape:
        raise ValueError(f"the images of a pair must have one shape. Received: {left.shape} and {right.shape}")
    height, width = left.shape[:2]
    count = -(-(range_px or int(width * _RANGE_OF_WIDTH)) // 16) * 16  # OpenCV needs a multiple of 16.
    lowest = -int(np.ceil(doffs_px))
    ours, theirs = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (left, right))
    found = _matched(ours, theirs, lowest, count)
    back = _matched(theirs[:, ::-1], ours[:, ::-1], lowest, count)[:, ::-1]
    cv2.filterSpeckles(found, (lowest - 1) * _UNMATCHED, int(height * width * _SPECKLE_OF_IMAGE), _UNMATCHED)
    disparity, back = (values.astype(np.float32) / _UNMATCHED for values in (found, back))
    column = np.rint(np.arange(width) - disparity).astype(np.intp)
    seen = (column >= 0) & (column < width) & (disparity >= lowest)
    returned = np.take_along_axis(back, column.clip(0, width - 1), axis=1)
    agreed = seen & (np.abs(returned - disparity) <= _LARGEST_DIFFERENCE_PX) & (returned >= lowest)
    return np.where(agreed, disparity, np.float32(np.nan))


def _matched(image: np.ndarray, other: np.ndarray, lowest: int, count: int) -> np.ndarray:
    """Returns (H, W) int16, sixteenths of a pixel, below `lowest` where nothing matches.

    OpenCV leaves out columns from which any disparity leads outside, a fifth of the image, unless borders are added.
    """
    before, after = max(0, lowest + count), max(0, -lowest)
    bordered = [cv2.copyMakeBorder(a, 0, 0, before, after, cv2.BORDER_REPLICATE) for a in (image, other)]
    matcher = cv2.StereoSGBM.create(
        minDisparity=lowest,
        numDisparities=count,
        blockSize=_BLOCK_PX,
        P1=8 * _BLOCK_PX**2,
        P2=32 * _BLOCK_PX**2,
        preFilterCap=31,
        uniquenessRatio=5,
        mode=cv2.StereoSGBM_MODE_SGBM_3WAY,
    )
    return np.ascontiguousarray(matcher.compute(*bordered)[:, before : before + image.shape[1]])


def is_rectified(left: np.ndarray, right: np.ndarray, *, doffs_px: float = 0.0) -> str:
    """Returns why two images are no rectified pair, left before right, or an empty string.

    Features are matched in both directions. Most of them must have a partner in the same row, in front of the cameras.
    An image with too few features to judge by passes. What is off by less than a pixel of 640 is not seen.

    Args:
        left, right: (H, W, 3) uint8 RGB.
        doffs_px: As in `disparity_by_matching`.
    """
    scale = min(1.0, _MOST_PX / max(left.shape[:2]))
    (points, descriptors), (others, other_descriptors) = _features(left, scale), _features(right, scale)
    features = min(len(points), len(others))
    if features < _LEAST_FEATURES:
        return ""
    pairs = _mutual_matches(descriptors, other_descriptors)
    if len(pairs) < _LEAST_SHARE["matched"] * features:
        return f"the images share {len(pairs)} of {features} features: they do not show one scene"
    offsets = points[pairs[:, 0]] - others[pairs[:, 1]]
    in_row = np.abs(offsets[:, 1]) <= _SAME_ROW_PX
    if in_row.mean() < _LEAST_SHARE["same row"]:
        off = f"half of them are off by {np.median(np.abs(offsets[:, 1])) / scale:.1f} px or more"
        return f"{in_row.mean():.0%} of {len(pairs)} features are in the same row of both images; {off}"
    in_front = offsets[in_row, 0] + doffs_px * scale >= -_SAME_ROW_PX
    if in_front.mean() < _LEAST_SHARE["in front"]:
        return f"{in_front.mean():.0%} of {in_row.sum()} features have a positive disparity: left and right are swapped"
    return ""


def _features(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the SIFT features of a scaled image: (n, 2) positions x, y in pixels, and (n, 128) descriptors."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    keypoints, descriptors = cv2.SIFT.create(nfeatures=_MOST_FEATURES).detectAndCompute(grey, None)  # type: ignore[call-overload]
    return np.array([keypoint.pt for keypoint in keypoints], np.float64).reshape(-1, 2), descriptors


def _mutual_matches(descriptors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns (m, 2) indices of features that are each other's nearest, and far nearer than the second."""
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    back = [found.trainIdx for (found,) in matcher.knnMatch(others, descriptors, k=1)]
    pairs = [
        (nearest.queryIdx, nearest.trainIdx)
        for nearest, second in matcher.knnMatch(descriptors, others, k=2)
        if nearest.distance < _RATIO * second.distance and back[nearest.trainIdx] == nearest.queryIdx
    ]
    return np.array(pairs, np.intp).reshape(-1, 2)
