"""A sample's views: their cameras and poses by hand, and what is refused."""

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.frames import Frame
from depthflow.datasets.reject import RejectError
from depthflow.store.write.make_views import MIN_DIFFERENCE, relative_pose, view_camera, view_pose
from depthflow.store.write.sample import SampleLayout, make_sample
from tests.view_trees import wall

HEIGHT, WIDTH = 12, 16
CAMERA = Camera(width=32, height=24, fx_px=40, fy_px=44, cx_px=15, cy_px=13)
LAYOUTS = {
    kind: SampleLayout(height=6, width=4, edge_relative_jump=0.1, edge_radius_px=1, kind=kind, min_motion_m=0.005)
    for kind in ("stereo", "video")
}


def png(rgb):
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def image(key=0, shape=(HEIGHT, WIDTH)):
    return png(wall(key, *shape))


def frame(**changes):
    defaults = {"sample_id": "x", "split": "train", "scene_type": "indoors", "scene": "s", "scan": "s"}
    return Frame(**{**defaults, "dataset": "own", "members": {}, "camera": CAMERA, **changes})


def make(kind, content=None, **changes):
    views = {"stereo": ("right",), "video": ("previous", "next")}[kind]
    members = {"rgb": image(0), **{view: image(n) for n, view in enumerate(views, start=1)}, **(content or {})}
    return make_sample(frame(**changes), members, LAYOUTS[kind])


def reason(*args, **changes):
    with pytest.raises(RejectError) as info:
        make(*args, **changes)
    return info.value.reason, info.value.message


def turned(degrees, axis, place):
    """Camera to world."""
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.radians(degrees) * np.array(axis, np.float64))[0]
    matrix[:3, 3] = place
    return matrix


# --- geometry ---


def test_the_right_camera_has_its_own_principal_point():
    row = make("stereo", right_cx_px=19.0, baseline_m=0.5).row
    assert (row["fx_px"], row["fy_px"], row["cx_px"], row["cy_px"]) == (5, 11, 15 / 8, 13 / 4)
    assert row["right_camera"] == (5, 11, 19 / 8, 13 / 4)
    assert row["right_pose"] == (1, 0, 0, -0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)


def test_a_baseline_may_be_unknown():
    assert make("stereo").row["right_pose"] is None


def test_a_camera_without_resolution_is_that_of_the_image():
    stated = Intrinsics(fx_px=20, fy_px=22, cx_px=7.5, cy_px=6.5)
    assert view_camera(frame(camera=stated, right_cx_px=9.5), "right", (HEIGHT, WIDTH)) == Camera(
        width=WIDTH, height=HEIGHT, fx_px=20, fy_px=22, cx_px=9.5, cy_px=6.5
    )


def test_a_neighbour_may_have_another_camera():
    found = view_camera(frame(next_camera=(50.0, 60.0, 16.0, 12.0)), "next", (HEIGHT, WIDTH))
    assert found == Camera(width=WIDTH, height=HEIGHT, fx_px=25, fy_px=30, cx_px=8, cy_px=6)
    assert view_camera(frame(next_camera=(50.0,) * 4), "previous", (HEIGHT, WIDTH)) == CAMERA.resized(
        height=HEIGHT, width=WIDTH
    )


def test_a_relative_pose_by_hand():
    """The view is a metre to the right of the frame, and turned by 90 degrees to the right: it looks along x."""
    view = turned(90, (0, 1, 0), (1, 0, 0))
    wanted = [[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, -1], [0, 0, 0, 1]]
    np.testing.assert_allclose(np.reshape(relative_pose(view.ravel(), np.eye(4).ravel()), (4, 4)), wanted, atol=1e-12)
    # Three metres ahead of the frame's camera is three metres to the view's left, and a metre behind it.
    np.testing.assert_allclose(np.array(wanted) @ [0, 0, 3, 1], [-3, 0, -1, 1])


def test_a_relative_pose_is_inv_view_times_frame():
    one, other = turned(30, (0.6, 0, 0.8), (1, 2, 3)), turned(200, (0, 0.8, -0.6), (-4, 5, 0.5))
    got = np.reshape(relative_pose(one.ravel(), other.ravel()), (4, 4))
    np.testing.assert_allclose(got, np.linalg.inv(one) @ other, atol=1e-12)
    same = relative_pose(one.ravel(), one.ravel())
    np.testing.assert_allclose(np.reshape(same, (4, 4)), np.eye(4), atol=1e-12)
    assert not any(np.signbit(number) for number in same if number == 0)


def test_a_pose_needs_both():
    known = tuple(np.eye(4).ravel())
    assert view_pose(frame(pose=known), "next") is None
    assert view_pose(frame(next_pose=known), "next") is None
    assert view_pose(frame(pose=known, next_pose=known), "previous") is None
    assert view_pose(frame(pose=known, next_pose=known), "next") == known


@pytest.mark.parametrize("scale", [2.0, -1.0, 0.0])
def test_a_pose_that_is_no_rigid_transform_is_refused(scale):
    bad = np.eye(4)
    bad[:3, :3] *= scale
    found, message = reason("video", pose=tuple(np.eye(4).ravel()), next_pose=tuple(bad.ravel()))
    assert found == "bad_pose"
    assert "no rotation and translation" in message


# --- what is refused ---


@pytest.mark.parametrize("kind", ["stereo", "video"])
def test_no_camera(kind):
    found, message = reason(kind, camera=None)
    assert (found, "camera" in message) == ("no_camera", True)


@pytest.mark.parametrize(("kind", "view"), [("stereo", "right"), ("video", "previous"), ("video", "next")])
def test_a_view_must_have_the_images_size(kind, view):
    found, message = reason(kind, {view: image(1, (HEIGHT, WIDTH + 1))})
    assert found == "shape_mismatch"
    assert message == f"the {view} image (12, 17) and the image (12, 16) differ in size"


@pytest.mark.parametrize(("kind", "view"), [("stereo", "right"), ("video", "previous")])
def test_a_view_that_cannot_be_decoded(kind, view):
    assert reason(kind, {view: b"no image"}) == (
        "unreadable_image",
        f"its {view} image: the image's 8 bytes cannot be decoded",
    )
    assert reason(kind, {view: b""}) == ("empty_file", f"the {view} file has no bytes")


def test_a_video_of_unknown_pose_must_change():
    still = {"previous": image(0), "next": image(0)}
    assert reason("video", still)[0] == "no_motion"
    moved = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    after = moved.copy()
    after[:2] += int(MIN_DIFFERENCE * HEIGHT / 2)
    make("video", {"rgb": png(moved), "previous": png(moved), "next": png(after)})
    after[:2] -= 1
    assert reason("video", {"rgb": png(moved), "previous": png(moved), "next": png(after)})[0] == "no_motion"
    poses = {f"{name}pose": tuple(np.eye(4).ravel()) for name in ("", "previous_", "next_")}
    make("video", still, **poses)  # Whose distances the plan has compared.


@pytest.mark.parametrize(("shift", "angle", "is_refused"), [(0, 0, False), (8, 0, True), (0, 3, True)])
def test_a_pair_that_is_not_rectified(shift, angle, is_refused):
    texture = wall(5, 300, 460)
    left, right = texture[:, 20:420], texture[:, 30:430]
    turn = cv2.getRotationMatrix2D((200, 150), angle, 1)
    turn[1, 2] += shift
    right = cv2.warpAffine(right, turn, (400, 300), borderMode=cv2.BORDER_REFLECT)
    content = {"rgb": png(left), "right": png(right)}
    if is_refused:
        found, message = reason("stereo", content)
        assert found == "not_rectified"
        assert "in the same row" in message
    else:
        make("stereo", content)
