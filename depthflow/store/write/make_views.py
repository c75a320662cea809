"""Makes the further views of a sample from their images' bytes. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from depthflow.datasets.camera import Camera, camera_of_frame
from depthflow.datasets.frames import Frame
from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.reject import RejectError
from depthflow.datasets.stereo_pair import check_pair
from depthflow.store.schema import KINDS
from depthflow.store.write.choose_views import NO_CAMERA
from depthflow.store.write.planes import resize_rgb

MIN_DIFFERENCE = 1.0
"""Mean absolute difference, of 255, from which on an image of unknown pose shows that the camera moved."""
_RIGID_TOLERANCE = 1e-2
"""How far a pose's rotation may be from an orthonormal matrix, in each element of R R^T."""

Numbers = tuple[float, ...]


class View(NamedTuple):
    """A view at the stored size.

    Attributes:
        image: (H, W, 3) uint8.
        camera: fx_px, fy_px, cx_px, cy_px.
        pose: 4 x 4, row by row: x_view = pose @ x_frame, metres; None if unknown.
    """

    image: np.ndarray
    camera: Numbers
    pose: Numbers | None


def make_views(
    frame: Frame, members: Mapping[str, bytes], kind: str, *, rgb: np.ndarray, height: int, width: int
) -> dict[str, View]:
    """Decodes and resizes the views that a sample of a kind has.

    Args:
        members: Content of the frame's files, by name.
        kind: A name in `KINDS`.
        rgb: (h, w, 3) uint8, the frame's own image, as it was decoded.
        height, width: Stored size in pixels.

    Raises:
        RejectError: if the camera is unknown, an image cannot be decoded or is of another size, a pose is none, or a
            pair is not rectified.
    """
    found, shape = {}, rgb.shape[:2]
    for name in KINDS[kind]:
        camera = view_camera(frame, name, shape)
        if camera is None:
            raise RejectError("no_camera", NO_CAMERA)
        try:
            image = decode_rgb(members[name])
        except RejectError as error:
            raise RejectError(error.reason, f"its {name} image: {error.message}") from None
        if image.shape[:2] != shape:
            what = f"the {name} image {image.shape[:2]} and the image {shape} differ in size"
            raise RejectError("shape_mismatch", what)
        if name == "right":
            check_pair(frame, rgb, image)
        stored = camera.resized(height=height, width=width)
        numbers = (stored.fx_px, stored.fy_px, stored.cx_px, stored.cy_px)
        found[name] = View(resize_rgb(image, height=height, width=width), numbers, view_pose(frame, name))
    return found


def view_camera(frame: Frame, name: str, shape: tuple[int, int]) -> Camera | None:
    """Returns the camera of a view whose image has this (h, w); None if it is unknown."""
    stated = frame.camera
    if stated is not None and name == "right" and frame.right_cx_px is not None:
        stated = replace(stated, cx_px=frame.right_cx_px)
    of_view = {"previous": frame.previous_camera, "next": frame.next_camera}.get(name)
    if stated is not None and of_view is not None:
        stated = replace(stated, **dict(zip(("fx_px", "fy_px", "cx_px", "cy_px"), of_view, strict=True)))
    return camera_of_frame(stated, dataset=frame.dataset, height=shape[0], width=shape[1])


def view_pose(frame: Frame, name: str) -> Numbers | None:
    """Returns what takes points of the frame's camera to a view's, 4 x 4, row by row; None if it is unknown."""
    if name == "right":
        if frame.baseline_m is None:
            return None
        return (1.0, 0.0, 0.0, -frame.baseline_m, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    of_view = frame.previous_pose if name == "previous" else frame.next_pose
    return None if frame.pose is None or of_view is None else relative_pose(of_view, frame.pose)


def relative_pose(to: Sequence[float], origin: Sequence[float]) -> Numbers:
    """Returns inv(to) @ origin of two camera-to-world poses, 4 x 4, row by row.

    The sums are written out, so that the result, and a store's fingerprint, is the same on every machine.

    Raises:
        RejectError: bad_pose, if one is no rigid transform.
    """
    one, other = _rigid(to), _rigid(origin)
    back = one[:3, :3].T
    moved = np.column_stack([other[:3, :3], other[:3, 3] - one[:3, 3]])
    relative = np.eye(4)
    relative[:3] = back[:, 0:1] * moved[0] + back[:, 1:2] * moved[1] + back[:, 2:3] * moved[2]
    return tuple((relative + 0.0).ravel().tolist())  # + 0.0 makes -0.0 0.0.


def _rigid(pose: Sequence[float]) -> np.ndarray:
    matrix = np.array(pose, np.float64).reshape(4, 4)
    rotation = matrix[:3, :3]
    is_rigid = (
        np.allclose(rotation @ rotation.T, np.eye(3), rtol=0, atol=_RIGID_TOLERANCE)
        and np.linalg.det(rotation) > 0
        and np.array_equal(matrix[3], (0, 0, 0, 1))
    )
    if not is_rigid:
        raise RejectError("bad_pose", f"its pose or a neighbour's is no rotation and translation: {matrix.tolist()}")
    return matrix


def shows_motion(rgb: np.ndarray, views: Mapping[str, View]) -> bool:
    """Returns whether any view has a pose, whose distance the plan has looked at, or differs from the image.

    Args:
        rgb: (H, W, 3) uint8, the frame's own image at the stored size.
    """
    return any(view.pose is not None or difference(rgb, view.image) >= MIN_DIFFERENCE for view in views.values())


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the mean absolute difference of two uint8 images."""
    return float(np.abs(one.astype(np.int16) - other).mean())
