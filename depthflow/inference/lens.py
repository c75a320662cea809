"""The camera of a user's image: what the user states, the file's EXIF data, a camera.json beside it, or a guess."""

from dataclasses import dataclass
from io import BytesIO
from math import hypot
from typing import Literal, NamedTuple

from PIL import Image
from PIL.ExifTags import IFD, Base

from depthflow.datasets.camera import Camera

CameraSource = Literal["flags", "EXIF", "camera.json", "training median"]
FULL_FRAME_MM = hypot(36.0, 24.0)
"""Diagonal of a frame of 35 mm film, which equivalent focal lengths refer to (CIPA DCG-001)."""
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""EXIF's units of resolution: inch, centimetre, millimetre, micrometre."""
PLAUSIBLE_FOCAL = (0.1, 100.0)
"""Focal lengths in image diagonals that a lens may have; others are a defect of the EXIF data."""
ASPECT_TOLERANCE = 0.02


class ImageCamera(NamedTuple):
    """The camera of an image, and where it is known from."""

    camera: Camera
    source: CameraSource


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What a user states: focal lengths or, for square pixels, the horizontal field of view.

    Attributes:
        fx_px, fy_px: Focal lengths in pixels of the image; None if the field of view is given.
        fov_deg: Degrees between the left and the right border; None if focal lengths are given.
    """

    fx_px: float | None = None
    fy_px: float | None = None
    fov_deg: float | None = None

    def camera(self, *, height: int, width: int) -> Camera:
        """Returns the camera of an image of this size; its principal point is the centre of the image."""
        if self.fx_px is not None and self.fy_px is not None:
            return centred(self.fx_px, self.fy_px, height=height, width=width)
        assert self.fov_deg is not None
        return Camera.of_fov(self.fov_deg, height=height, width=width)


def centred(fx_px: float, fy_px: float, *, height: int, width: int) -> Camera:
    """Returns a camera whose principal point is the centre of the image."""
    return Camera(width=width, height=height, fx_px=fx_px, fy_px=fy_px, cx_px=width / 2, cy_px=height / 2)


def camera_of_image(
    content: bytes,
    *,
    height: int,
    width: int,
    lens: Lens | None = None,
    beside: Camera | None = None,
    median_focal: float | None = None,
) -> ImageCamera | None:
    """Returns the best known camera of an image, or None if nothing is known.

    Args:
        content: The image file, whose EXIF data may state a focal length.
        height, width: Size of the decoded image in pixels.
        lens: What the user states.
        beside: Camera that a file beside the image states.
        median_focal: Median focal length of the model's training images, relative to the image size.

    Raises:
        ValueError: if the camera beside the image is for images of another shape.
    """
    size = {"height": height, "width": width}
    if lens is not None:
        return ImageCamera(lens.camera(**size), "flags")
    focal_px = exif_focal_px(content, **size)
    if focal_px is not None:
        return ImageCamera(centred(focal_px, focal_px, **size), "EXIF")
    if beside is not None:
        return ImageCamera(_fitted(beside, **size), "camera.json")
    if median_focal is not None:
        focal_px = median_focal * (width * height) ** 0.5
        return ImageCamera(centred(focal_px, focal_px, **size), "training median")
    return None


def exif_focal_px(content: bytes, *, height: int, width: int) -> float | None:
    """Returns the focal length in pixels that an image's EXIF data state, or None.

    It follows from FocalLengthIn35mmFilm or else from FocalLength and the resolution of the sensor. The image may have
    been resized and rotated since, but not cropped.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            tags = image.getexif().get_ifd(IFD.Exif)
        diagonal_px = hypot(height, width)
        equivalent_mm = float(tags.get(Base.FocalLengthIn35mmFilm) or 0)
        if equivalent_mm > 0:
            focal_px = equivalent_mm / FULL_FRAME_MM * diagonal_px
        else:
            px_per_mm = (
                float(tags[Base.FocalPlaneXResolution]) / MM_PER_UNIT[tags.get(Base.FocalPlaneResolutionUnit, 2)]
            )
            original_px = hypot(tags[Base.ExifImageWidth], tags[Base.ExifImageHeight])
            focal_px = float(tags[Base.FocalLength]) * px_per_mm * diagonal_px / original_px
    except Exception:  # Pillow raises anything for damaged EXIF data, which are then as good as none.
        return None
    least, greatest = PLAUSIBLE_FOCAL
    return focal_px if least * diagonal_px <= focal_px <= greatest * diagonal_px else None


def _fitted(camera: Camera, *, height: int, width: int) -> Camera:
    """Returns the camera at the image's size; turned, if the image is upright and the camera is not, or vice versa."""
    turned = Camera(
        width=camera.height,
        height=camera.width,
        fx_px=camera.fy_px,
        fy_px=camera.fx_px,
        cx_px=camera.cy_px,
        cy_px=camera.cx_px,
    )
    for one in (camera, turned):
        aspects = one.width * height, one.height * width
        if abs(aspects[0] - aspects[1]) <= ASPECT_TOLERANCE * max(aspects):
            return one.resized(height=height, width=width)
    raise ValueError(f"it is of images of {camera.height} x {camera.width}, and this one has {height} x {width}")
