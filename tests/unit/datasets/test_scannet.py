"""ScanNet's exports: depth of another size and a slightly other field of view than the image."""

import cv2
import numpy as np
import pytest

from depthflow.datasets.listing import list_tree
from depthflow.datasets.scannet import frames
from depthflow.errors import SourceError
from tests.layout_trees import depth_values, frames_of, same_in_archive, sample, write_depth, write_image
from tests.layout_trees import write_text as write

SCANS = ("scene0000_00", "scene0000_01", "scene0707_00")
# Of scene0000_00, rounded.
COLOR = ["1169.62 0 646.295 0", "0 1167.11 489.927 0", "0 0 1 0", "0 0 0 1"]
DEPTH = ["577.59 0 318.905 0", "0 578.73 242.684 0", "0 0 1 0", "0 0 0 1"]
POSE = ["0 -1 0 0.5", "1 0 0 -0.25", "0 0 1 2", "0 0 0 1"]
LOST = ["-inf -inf -inf -inf"] * 4
COLOR_SHAPE, DEPTH_SHAPE = (121, 162), (60, 80)  # An eighth of the sensors'.


def write_tree(root, *, scans=SCANS, ending="jpg"):
    """Two frames per scan, the second one's track lost; returns the values of the last depth map."""
    for key, scan in enumerate(scans):
        for number, pose in ((0, POSE), (10, LOST)):
            write_image(root / scan / f"color/{number}.{ending}", COLOR_SHAPE, key=key)
            values = depth_values(DEPTH_SHAPE, key=key)
            values[30, 40] = 0
            write_depth(root / scan / f"depth/{number}.png", values)
            write(root / scan / f"pose/{number}.txt", *pose)
        write(root / scan / "intrinsic/intrinsic_color.txt", *COLOR)
        write(root / scan / "intrinsic/intrinsic_depth.txt", *DEPTH)
        write(root / scan / "intrinsic/extrinsic_color.txt", *POSE)
    return values


def test_a_tree_by_hand(tmp_path):
    values = write_tree(tmp_path, ending="PNG")
    found = frames_of(tmp_path, "scannet")
    assert found.keys() == {f"scannet/{scan[:9]}/{scan}/{n}" for scan in SCANS for n in (0, 10)}
    frame = found["scannet/scene0707/scene0707_00/10"]
    assert (frame.split, frame.scene_type, frame.scene) == ("train", "indoors", "scene0707")
    assert (frame.scan, frame.time_s, frame.pose) == ("scene0707_00", 10 / 30, None)
    pose = found["scannet/scene0707/scene0707_00/0"].pose
    np.testing.assert_array_equal(
        np.reshape(pose, (4, 4)), [[0, -1, 0, 0.5], [1, 0, 0, -0.25], [0, 0, 1, 2], [0, 0, 0, 1]]
    )
    row, depth_m, _ = sample(frame, *COLOR_SHAPE)
    np.testing.assert_allclose(depth_m, looked_up(values), rtol=1e-5)
    assert np.isnan(looked_up(values)).sum() > 3
    camera = [row[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")]
    np.testing.assert_allclose(camera, [1169.62 / 8, 1167.11 / 8, 646.795 / 8, 490.427 / 8])


def looked_up(values):
    """Metres at the image's pixels, each of which looks along its own ray into the depth map."""
    found = np.full(COLOR_SHAPE, np.nan)
    for row in range(COLOR_SHAPE[0]):
        for column in range(COLOR_SHAPE[1]):
            x = ((column + 0.5) * 8 - 646.795) / 1169.62
            y = ((row + 0.5) * 8 - 490.427) / 1167.11
            i, j = int((y * 578.73 + 243.184) / 8 // 1), int((x * 577.59 + 319.405) / 8 // 1)
            if 0 <= i < DEPTH_SHAPE[0] and 0 <= j < DEPTH_SHAPE[1] and values[i, j] > 0:
                found[row, column] = values[i, j] / 1000
    return found


def test_a_scan_may_be_the_source(tmp_path):
    write_tree(tmp_path)
    assert frames_of(tmp_path / SCANS[1], "scannet").keys() == {f"scannet/scene0000/{SCANS[1]}/{n}" for n in (0, 10)}


@pytest.mark.parametrize(
    ("intrinsics", "size"),
    [
        (COLOR, (1296, 968)),
        (["578 0 319.5 0", "0 578 239.5 0", *COLOR[2:]], (640, 480)),
        (["290 0 159.5 0", "0 290 119.5 0", *COLOR[2:]], (320, 240)),
    ],
)
def test_the_principal_point_tells_the_resolution_of_the_intrinsics(tmp_path, intrinsics, size):
    write_tree(tmp_path)
    write(tmp_path / SCANS[0] / "intrinsic/intrinsic_color.txt", *intrinsics)
    camera = frames_of(tmp_path, "scannet")[f"scannet/scene0000/{SCANS[0]}/0"].camera
    assert (camera.width, camera.height) == size


def test_missing_files(tmp_path):
    write_tree(tmp_path, scans=SCANS[:2])
    (tmp_path / SCANS[0] / "color/0.jpg").unlink()
    (tmp_path / SCANS[0] / "depth/10.png").unlink()
    (tmp_path / SCANS[1] / "pose/0.txt").unlink()
    for name in ("intrinsic_color.txt", "intrinsic_depth.txt"):
        (tmp_path / SCANS[1] / "intrinsic" / name).unlink()
    found = frames_of(tmp_path, "scannet")
    assert [{*frame.members} for frame in found.values()] == [{"depth"}, {"rgb"}, {"rgb", "depth"}, {"rgb", "depth"}]
    frame = found[f"scannet/scene0000/{SCANS[1]}/0"]
    assert (frame.camera, frame.depth_camera, frame.pose) == (None, None, None)
    _, depth_m, _ = sample(frame, *DEPTH_SHAPE)
    values = cv2.imread(frame.members["depth"], cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(depth_m, np.where(values == 0, np.nan, values / 1000), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "lines", "wanted"),
    [
        ("pose/0.txt", POSE[:3], "line 3: expected 4 lines of 4 numbers"),
        ("intrinsic/intrinsic_color.txt", [COLOR[0], "0 1167"], "line 2: expected 4 numbers, received '0 1167'"),
        ("intrinsic/intrinsic_color.txt", LOST, "line 1: expected intrinsics"),
        ("intrinsic/intrinsic_depth.txt", ["nan nan nan nan"] * 4, "line 1: expected intrinsics"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, lines, wanted):
    write_tree(tmp_path)
    write(tmp_path / SCANS[0] / name, *lines)
    with pytest.raises(SourceError, match=f"{SCANS[0]}/{name} of .*, {wanted}.*Restore"):
        list(frames(list_tree(str(tmp_path))))


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "scans")
    same_in_archive(tmp_path / "scans", tmp_path / "scans.tar.gz", "scannet")
