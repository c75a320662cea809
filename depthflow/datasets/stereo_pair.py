"""Depth of a stereo pair's files in place of a depth file: the disparity that matching finds, or why there is none."""

import io
from collections.abc import Mapping

import numpy as np

from depthflow.datasets.decode import doffs_of
from depthflow.datasets.frames import Frame
from depthflow.datasets.image_file import decode_rgb, is_turned
from depthflow.datasets.reject import RejectError
from depthflow.datasets.stereo_matching import disparity_by_matching, is_rectified


def matched_disparity(frame: Frame, members: Mapping[str, bytes]) -> bytes:
    """Returns the disparity of a frame's image in pixels, NaN where there is none, as an .npy of (H, W) float32.

    Args:
        members: Content of the files rgb and right.

    Raises:
        RejectError: if an image cannot be decoded or is turned by EXIF data, or they are no rectified pair.
    """
    left, right = (_image(members, name) for name in ("rgb", "right"))
    check_pair(frame, left, right)
    doffs_px = doffs_of(frame.camera, frame.right_cx_px, width=left.shape[1])
    stream = io.BytesIO()
    np.save(stream, disparity_by_matching(left, right, doffs_px=doffs_px))
    return stream.getvalue()


def check_pair(frame: Frame, left: np.ndarray, right: np.ndarray) -> None:
    """Raises RejectError unless the images of a frame are a rectified pair.

    Args:
        left, right: (H, W, 3) uint8.
    """
    if left.shape != right.shape:
        raise RejectError("shape_mismatch", f"the image {left.shape[:2]} and the right one {right.shape[:2]} differ")
    if problem := is_rectified(left, right, doffs_px=doffs_of(frame.camera, frame.right_cx_px, width=left.shape[1])):
        raise RejectError("not_rectified", f"{problem}. Rectify the pair, such as with OpenCV's stereoRectify")


def _image(members: Mapping[str, bytes], name: str) -> np.ndarray:
    try:
        image = decode_rgb(members[name])
    except RejectError as error:
        raise RejectError(error.reason, f"its {name} image: {error.message}") from None
    if is_turned(members[name], image):
        raise RejectError(
            "turned_image", f"EXIF data turn its {name} image: store it as it was rectified, without them"
        )
    return image
