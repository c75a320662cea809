"""Pinhole intrinsics of a source's frames."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from depthflow.errors import SourceError


def relative_focal(*, fx_px: Any, fy_px: Any, width: Any, height: Any) -> Any:
    """Returns the focal length relative to the image size, the geometric mean of fx / width and fy / height.

    Args:
        fx_px, fy_px, width, height: Numbers or arrays of one shape, in pixels of the same image.
    """
    return np.sqrt(fx_px / width * (fy_px / height))


def focal_px_of_fov(fov_deg: float, width: Any) -> Any:
    """Returns the focal length in pixels of a lens with this horizontal field of view."""
    return width / (2 * math.tan(math.radians(fov_deg) / 2))


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera at one resolution. Pixel i covers [i, i + 1), so a resize by s multiplies every field by s.

    Attributes:
        width, height: Resolution in pixels.
        fx_px, fy_px, cx_px, cy_px: Focal lengths and principal point in pixels.
    """

    width: int
    height: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float

    def __post_init__(self) -> None:
        _require_positive(self, "width", "height", "fx_px", "fy_px", "cx_px", "cy_px")

    @classmethod
    def of_fov(cls, fov_deg: float, *, height: int, width: int) -> "Camera":
        """Returns a camera with this horizontal field of view, square pixels and a centred principal point."""
        focal_px = focal_px_of_fov(fov_deg, width)
        return cls(width=width, height=height, fx_px=focal_px, fy_px=focal_px, cx_px=width / 2, cy_px=height / 2)

    @classmethod
    def of_opencv(cls, *, width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> "Camera":
        """Returns a camera whose principal point is given in OpenCV's convention, where pixel i is centred at i."""
        return cls(width=width, height=height, fx_px=fx, fy_px=fy, cx_px=cx + 0.5, cy_px=cy + 0.5)

    @property
    def relative_focal(self) -> float:
        """Focal length relative to the image size, which no resize changes."""
        return float(relative_focal(fx_px=self.fx_px, fy_px=self.fy_px, width=self.width, height=self.height))

    def resized(self, *, height: int, width: int) -> "Camera":
        """Returns the camera of the resized image."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            width=width,
            height=height,
            fx_px=self.fx_px * sx,
            fy_px=self.fy_px * sy,
            cx_px=self.cx_px * sx,
            cy_px=self.cy_px * sy,
        )

    def unproject(self, depth_m: np.ndarray) -> np.ndarray:
        """Returns the points that the pixels' centres show: x right, y down, z away from the camera.

        Args:
            depth_m: (H, W) float32, metres along z, of the camera's resolution.

        Returns:
            (H, W, 3) float32, metres.
        """
        x = (np.arange(self.width) + 0.5 - self.cx_px) / self.fx_px
        y = (np.arange(self.height) + 0.5 - self.cy_px) / self.fy_px
        return np.stack([depth_m * x, depth_m * y[:, None], depth_m], axis=-1).astype(np.float32, copy=False)


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A pinhole camera whose source does not state the resolution: it is that of the image, whatever that is.

    Attributes:
        fx_px, fy_px, cx_px, cy_px: As in `Camera`.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float

    def __post_init__(self) -> None:
        _require_positive(self, "fx_px", "fy_px", "cx_px", "cy_px")

    def resized(self, *, height: int, width: int) -> Camera:
        """Returns the camera of the image, which has this size."""
        return Camera(width=width, height=height, **asdict(self))


def _require_positive(camera: Camera | Intrinsics, *names: str) -> None:
    for name in names:
        value = getattr(camera, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number. Received: {value!r}")


DIODE_CAMERA = Camera(width=1024, height=768, fx_px=886.81, fy_px=927.06, cx_px=512.0, cy_px=384.0)
"""Camera of DIODE's crops, from the official devkit."""

PRIMESENSE_CAMERA = Camera.of_opencv(width=640, height=480, fx=525.0, fy=525.0, cx=319.5, cy=239.5)
"""OpenNI's default for the colour camera of a PrimeSense or a first Kinect, and for depth registered to it."""

CAMERA_FILE = "camera.json"


def parse_camera(content: bytes, *, where: str) -> Camera:
    """Parses a camera.json: one JSON object with the fields of `Camera`.

    Args:
        where: Name of the file, for the message.

    Raises:
        SourceError: if the content is not a camera.
    """
    try:
        return Camera(**json.loads(content))
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"{where} is not a camera: {error}. It needs width, height, fx_px, fy_px, cx_px and cy_px."
        ) from None


def camera_of_frame(stated: Camera | Intrinsics | None, *, dataset: str, height: int, width: int) -> Camera | None:
    """Returns the camera that the source states, DIODE's for DIODE's frames of its size, otherwise None (unknown)."""
    if stated is not None:
        return stated.resized(height=height, width=width)
    if dataset == "diode" and (height, width) == (DIODE_CAMERA.height, DIODE_CAMERA.width):
        return DIODE_CAMERA
    return None
