"""Redwood's and Open3D's layout: millimetres, trajectory.log, and a camera whose matrix goes column by column."""

import json
import shutil

import cv2
import numpy as np
import pytest

from depthflow.datasets.layouts import LAYOUTS
from depthflow.datasets.listing import list_tree
from depthflow.datasets.redwood import frames
from depthflow.errors import SourceError
from tests.layout_trees import depth_values, fitting, frames_of, real, same_in_archive, sample, write_depth, write_image
from tests.layout_trees import write_text as write

POSES = {0: np.eye(4), 2: np.array([[0, -1, 0, 0.5], [1, 0, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1.0]])}
MATRIX = [610.0, 0, 0, 0, 620.0, 0, 330.0, 250.0, 1]


def write_tree(root, *, images="color", ending="jpg"):
    """Three frames, the second without a pose; returns the values of the last depth map."""
    for key in range(3):
        write_image(root / images / f"{key:05d}.{ending}", key=key)
        values = depth_values(key=key)
        values[3, 5] = 0
        write_depth(root / f"depth/{key:05d}.png", values)
    lines = []
    for number, pose in POSES.items():
        lines += [f"{number} {number} {number + 1}", *(" ".join(map(str, row)) for row in pose)]
    write(root / "trajectory.log", *lines)
    return values


@pytest.mark.parametrize("images", ["color", "rgb", "image"])
def test_a_tree_by_hand(tmp_path, images):
    values = write_tree(tmp_path / "loft", images=images, ending="PNG")
    found = frames_of(tmp_path, "redwood")
    assert found.keys() == {f"redwood/loft/0000{n}" for n in range(3)}
    assert frames_of(tmp_path / "loft", "redwood") == found
    assert [frame.pose for frame in found.values()] == [(*POSES[0].ravel(),), None, (*POSES[2].ravel(),)]
    frame = found["redwood/loft/00002"]
    assert (frame.split, frame.scene_type, frame.scene, frame.scan) == ("train", "indoors", "loft", "loft")
    assert frame.time_s == 2 / 30
    row, depth_m, rgb = sample(frame)
    np.testing.assert_allclose(depth_m, np.where(values == 0, np.nan, values / 1000), rtol=1e-5)
    np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
    np.testing.assert_allclose([row[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")], [52.5, 52.5, 32, 24])


@pytest.mark.parametrize("name", ["camera_intrinsic.json", "camera_primesense.json"])
def test_open3ds_camera(tmp_path, name):
    write_tree(tmp_path)
    (tmp_path / "trajectory.log").unlink()
    write(tmp_path / name, json.dumps({"width": 640, "height": 480, "intrinsic_matrix": MATRIX}))
    camera = next(iter(frames_of(tmp_path, "redwood").values())).camera
    assert vars(camera) == {"width": 640, "height": 480, "fx_px": 610, "fy_px": 620, "cx_px": 330.5, "cy_px": 250.5}


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("trajectory.log", ["0 0 1", "1 0 0 0", "0 1 0", "0 0 1 0", "0 0 0 1"], "line 3: expected 4 numbers"),
        ("trajectory.log", ["0 0 1", "1 0 0 0", "0 1 0 0"], "line 3: expected five lines per frame"),
        ("trajectory.log", ["nan 0 1", *["1 0 0 0"] * 4], "line 1: expected three integers, received 'nan 0 1'"),
        ("camera_intrinsic.json", ["{"], "is not a camera of Open3D"),
        ("camera_intrinsic.json", ['{"width": 640, "height": 480}'], "intrinsic_matrix"),
        ("camera_intrinsic.json", ["[]"], "is not a camera of Open3D"),
        (
            "camera_intrinsic.json",
            [json.dumps({"width": 0, "height": 480, "intrinsic_matrix": MATRIX})],
            "width must be a positive number",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, wanted):
    write_tree(tmp_path)
    write(tmp_path / name, *content)
    with pytest.raises(SourceError, match=f"{name} .*{wanted}.* or remove it"):
        list(frames(list_tree(str(tmp_path))))


def test_missing_partners_and_a_second_image_are_reported(tmp_path):
    write_tree(tmp_path / "loft")
    (tmp_path / "loft/color/00000.jpg").unlink()
    (tmp_path / "loft/depth/00001.png").unlink()
    write_image(tmp_path / "loft/color/00002.png")
    write_image(tmp_path / "loft/color/0000001-000000033369.jpg")
    found = {name: {*frame.members} for name, frame in frames_of(tmp_path, "redwood").items()}
    assert found == {
        "redwood/loft/00000": {"depth"},
        "redwood/loft/00001": {"rgb"},
        "redwood/loft/00002": {"rgb", "depth"},
        "redwood/loft/00002.png": {"rgb"},
        "redwood/loft/0000001-000000033369": {"rgb"},
    }
    assert frames_of(tmp_path, "redwood")["redwood/loft/0000001-000000033369"].time_s is None


def test_folders_of_images_and_depth_alone_state_no_unit_or_camera(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "trajectory.log").unlink()
    assert fitting(list_tree(str(tmp_path))) == []
    assert len(list(LAYOUTS["redwood"].frames(list_tree(str(tmp_path))))) == 3


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "tree/loft")
    same_in_archive(tmp_path / "tree", tmp_path / "loft.tar.gz", "redwood")


def test_real_frames(tmp_path, shared):
    source = shutil.copytree(real(shared, "redwood"), tmp_path / "living_room")
    found = frames_of(source, "redwood")
    assert found.keys() == {f"redwood/living_room/{number:05d}" for number in range(5)}
    lines = (source / "trajectory.log").read_text().splitlines()
    for number in range(5):
        frame = found[f"redwood/living_room/{number:05d}"]
        values = cv2.imread(str(source / f"depth/{number:05d}.png"), cv2.IMREAD_UNCHANGED)
        _, depth_m, _ = sample(frame, *values.shape)
        np.testing.assert_allclose(depth_m, np.where(values == 0, np.nan, values / 1000), rtol=1e-5)
        pose = np.loadtxt(lines[5 * number + 1 : 5 * number + 5])
        np.testing.assert_array_equal(np.reshape(frame.pose, (4, 4)), pose)
