"""Decodes a frame's files to arrays in metres, or states why it is rejected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.frames import DepthEncoding
from depthflow.datasets.image_file import decode_rgb, decode_with_opencv, is_turned
from depthflow.datasets.npy_file import NPY_START, decode_npy
from depthflow.datasets.reject import RejectError

_ASPECT_TOLERANCE = 0.02
"""Largest relative difference between the aspect ratios of an image, its depth map and their camera."""
_KINECT_DISPARITY = (2047, 0xFF07)
"""Largest raw value of a Kinect's 11-bit disparity, which means no measurement, and the same with its bytes swapped."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded frame at the source's resolution: (H, W) of the image, (h, w) of the depth map.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth_m: (h, w) float32, metres along the optical axis; anything where invalid.
        called_valid: (h, w) bool, what the mask, the invalid values and the confidence leave.
        valid_mask: (h, w) bool, `called_valid and depth > 0`; finite too, once `CHECKS` passed.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    called_valid: np.ndarray
    valid_mask: np.ndarray


def decode_frame(
    members: Mapping[str, bytes],
    encoding: DepthEncoding | None = None,
    *,
    camera: Camera | Intrinsics | None = None,
    depth_camera: Camera | None = None,
    baseline_m: float | None = None,
    right_cx_px: float | None = None,
    depth_needed: bool = True,
) -> Decoded:
    """Decodes and checks one frame.

    Args:
        members: Content of the files rgb and depth and, if there are any, mask and confidence.
        encoding: How the depth file's values become metres; by default, they are metres.
        camera: Camera of the image, which distances along rays and disparities need.
        depth_camera: Camera of the depth map where its field of view is not the image's.
        baseline_m, right_cx_px: Of the right image, for disparities; see `Frame`.
        depth_needed: Whether there must be a valid depth. Otherwise, no pixel of a frame is valid that has no depth
            file, or disparities without a baseline.

    Raises:
        RejectError: if the input cannot become a sample.
    """
    encoding = encoding or DepthEncoding()
    for member, content in members.items():
        if not content:
            raise RejectError("empty_file", f"the {member} file has no bytes")
    rgb = decode_rgb(members["rgb"])
    is_unscaled = encoding.kind == "disparity" and baseline_m is None
    has_depth = depth_needed or ("depth" in members and not is_unscaled)
    if (has_depth or isinstance(camera, Intrinsics)) and is_turned(members["rgb"], rgb):
        what = "depth" if has_depth else "camera"
        raise RejectError(
            "turned_image",
            f"the image's EXIF orientation turns it, and nothing says whether its {what} belongs to the image as "
            f"stored or as shown. Store the image as its {what} lies, without EXIF data",
        )
    if not has_depth:
        _check_camera(camera, rgb.shape, "image")
        nowhere = np.zeros(rgb.shape[:2], bool)
        return Decoded(rgb=rgb, depth_m=nowhere.astype(np.float32), called_valid=nowhere, valid_mask=nowhere)
    values = _plane(decode_depth(members["depth"], may_have_8_bits=encoding.kind == "disparity"), "depth")
    masks = {name: _decode_mask(members[name], name) for name in ("mask", "confidence") if name in members}
    _check_shapes(rgb, values, masks, same_view=depth_camera is None)
    _check_camera(camera, rgb.shape, "image")
    _check_camera(depth_camera, values.shape, "depth")
    of_image = camera.resized(height=rgb.shape[0], width=rgb.shape[1]) if camera else None
    if encoding.kind == "disparity":
        doffs_px = doffs_of(camera, right_cx_px, width=rgb.shape[1])
        depth_m = _triangulated(values, encoding, of_image, baseline_m=baseline_m, doffs_px=doffs_px)
    else:
        depth_m = _metres(values, encoding, depth_camera or of_image)
    called_valid = (
        masks["mask"] > 0 if "mask" in masks else np.isfinite(depth_m if values.dtype.kind == "f" else values)
    )
    for value in encoding.invalid:
        called_valid &= values != value
    if "confidence" in masks:
        called_valid &= masks["confidence"] >= (1 if encoding.min_confidence is None else encoding.min_confidence)
    decoded = Decoded(rgb=rgb, depth_m=depth_m, called_valid=called_valid, valid_mask=called_valid & (depth_m > 0))
    for reason, check in CHECKS.items():
        if (depth_needed or reason != "no_valid_pixel") and (problem := check(decoded)):
            raise RejectError(reason, problem)
    return decoded


def _check_shapes(rgb: np.ndarray, depth: np.ndarray, masks: Mapping[str, np.ndarray], *, same_view: bool) -> None:
    """Raises RejectError unless the masks are on the depth map's grid, and the image shows what the depth map does."""
    for name, mask in masks.items():
        if mask.shape != depth.shape:
            raise RejectError("shape_mismatch", f"depth {depth.shape} and {name} {mask.shape} differ")
    if same_view and not _same_aspect(rgb.shape, depth.shape):
        raise RejectError("shape_mismatch", f"image {rgb.shape[:2]} and depth {depth.shape} differ in aspect ratio")


def _check_camera(camera: Camera | Intrinsics | None, shape: tuple[int, ...], what: str) -> None:
    """Raises RejectError if the camera is that of pictures of another aspect ratio, such as upright ones."""
    if isinstance(camera, Camera) and not _same_aspect((camera.height, camera.width), shape):
        raise RejectError(
            "shape_mismatch",
            f"{what} {shape[:2]} and the size of its camera, {camera.height} x {camera.width}, differ in aspect ratio",
        )


def _same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    aspects = one[1] * other[0], one[0] * other[1]
    return abs(aspects[0] - aspects[1]) <= _ASPECT_TOLERANCE * max(aspects)


def _metres(values: np.ndarray, encoding: DepthEncoding, camera: Camera | None) -> np.ndarray:
    """Returns (h, w) float32, metres along the optical axis."""
    if problem := _disparity(values):
        raise RejectError("raw_disparity", problem)
    if encoding.packing == "sun_rgbd":
        if values.dtype != np.uint16:
            raise RejectError("wrong_dtype", f"SUN RGB-D packs 16 bits, received {values.dtype}")
        values = (values >> 3) | (values << 13)
    if encoding.units_per_m == 1 and not np.issubdtype(values.dtype, np.floating):
        raise RejectError("wrong_dtype", _unit_missing(values))
    if encoding.units_per_m == 1:
        depth_m = values.astype(np.float32, copy=False)
    else:  # Converts and divides block by block, in half of the time of one after the other.
        depth_m = np.divide(values, np.float32(encoding.units_per_m), dtype=np.float32, casting="same_kind")
    if encoding.kind == "planar":
        return depth_m
    if camera is None:
        raise RejectError("no_camera", "distances along rays need the camera, which is unknown")
    return depth_m / _ray_lengths(camera.resized(height=depth_m.shape[0], width=depth_m.shape[1]))


def doffs_of(camera: Camera | Intrinsics | None, right_cx_px: float | None, *, width: int) -> float:
    """Returns the principal point of the right image minus that of the left one, in pixels of images of some width.

    Args:
        camera: The left one's.
        right_cx_px: At the resolution of `camera`; None if it is the left one's.
    """
    if camera is None or right_cx_px is None:
        return 0.0
    return (right_cx_px - camera.cx_px) * (width / camera.width if isinstance(camera, Camera) else 1)


def _triangulated(
    values: np.ndarray, encoding: DepthEncoding, camera: Camera | None, *, baseline_m: float | None, doffs_px: float
) -> np.ndarray:
    """Returns (h, w) float32, metres along the optical axis, 0 where a disparity is none of a point in front.

    Source: Scharstein et al. 2014, "High-Resolution Stereo Datasets with Subpixel-Accurate Ground Truth":
    Z = baseline x f / (d + doffs).
    """
    if camera is None:
        raise RejectError("no_camera", "a disparity needs the focal length of the camera, which is unknown")
    if baseline_m is None:
        raise RejectError("no_baseline", "a disparity needs the distance between both cameras, which is unknown")
    shifted_px = values / np.float32(encoding.units_per_m) + np.float32(doffs_px)
    in_front = np.isfinite(shifted_px) & (shifted_px > 0)
    depth_m = np.zeros(values.shape, np.float32)
    return np.divide(camera.fx_px * baseline_m, shifted_px, out=depth_m, where=in_front, casting="same_kind")


def _unit_missing(values: np.ndarray) -> str:
    median = np.median(values[values > 0]) if (values > 0).any() else 0
    return (
        f"depth in metres must be floating point, received {values.dtype} with a median of {median:g}. Integers are "
        "mostly millimetres: pass the --layout that they come from, state depth_units_per_m in your frame table, or "
        "store metres"
    )


def _ray_lengths(camera: Camera) -> np.ndarray:
    """Returns (h, w) float32, the length of each pixel's ray per unit of depth along the optical axis."""
    x = (np.arange(camera.width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(camera.height) + 0.5 - camera.cy_px) / camera.fy_px
    return np.sqrt(1 + x**2 + y[:, None] ** 2).astype(np.float32)


def _disparity(values: np.ndarray) -> str:
    """Returns why these values, of any type, are a Kinect's raw disparity, which is not depth, or an empty string."""
    largest = values.max(initial=0)
    if largest not in _KINECT_DISPARITY or np.mean(values == largest) <= 0.001 or (values != np.floor(values)).any():
        return ""
    swapped = largest != min(_KINECT_DISPARITY)
    if swapped and (values.astype(np.uint16).byteswap() > min(_KINECT_DISPARITY)).any():
        return ""
    order = ", with its bytes swapped" if swapped else ""
    return f"these are a Kinect's raw 11-bit disparities{order}, not depth: convert them with its calibration"


def _non_finite_depth(decoded: Decoded) -> str:
    if np.isfinite([decoded.depth_m.min(), decoded.depth_m.max()]).all():  # Either is NaN if one pixel is.
        return ""
    broken = int(np.count_nonzero(decoded.called_valid & ~np.isfinite(decoded.depth_m)))
    return f"{broken} pixels that the mask calls valid are NaN or infinite" if broken else ""


CHECKS: dict[str, Callable[[Decoded], str]] = {
    "non_finite_depth": _non_finite_depth,
    "no_valid_pixel": lambda decoded: "" if decoded.valid_mask.any() else "no pixel has mask > 0 and depth > 0",
}
"""Checks of a decoded frame by reject reason, in order; each returns what is wrong, or an empty string."""


def _decode_mask(content: bytes, member: str) -> np.ndarray:
    """Decodes a mask or a confidence map, an .npy or a grey image, to (h, w)."""
    if content.startswith(NPY_START):
        return _plane(decode_npy(content, member), member)
    return _plane(decode_with_opencv(content, cv2.IMREAD_UNCHANGED, member=member, reason="unreadable_array"), member)


def _plane(array: np.ndarray, member: str) -> np.ndarray:
    """Returns (H, W), row by row as OpenCV needs it, of an array of shape (H, W) or (H, W, 1)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or array.size == 0:
        raise RejectError("wrong_shape", f"the {member} must be (H, W) or (H, W, 1), received {array.shape}")
    if array.dtype.kind not in "biuf":
        raise RejectError("wrong_dtype", f"the {member} must be numeric, received {array.dtype}")
    return np.ascontiguousarray(array)
