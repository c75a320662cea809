"""KITTI's pairs: the benchmarks state cameras in three ways, and 256 units are a pixel of disparity."""

import json
import shutil

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.kitti_stereo import frames
from depthflow.datasets.listing import list_tree
from depthflow.errors import SourceError
from tests.layout_trees import (
    HEIGHT,
    WIDTH,
    decoded,
    depth_values,
    frames_of,
    real,
    same_in_archive,
    sample,
    write_depth,
    write_image,
    write_text,
)

LEFT = "7.070912e+02 0 6.018873e+02 4.688783e+01 0 7.071e+02 1.831104e+02 1.178601e-01 0 0 1 6.203223e-03"
RIGHT = "7.070912e+02 0 6.018873e+02 -3.334597e+02 0 7.071e+02 1.831104e+02 1.930130e+00 0 0 1 3.318498e-03"
BASELINE_M = (46.88783 + 333.4597) / 707.0912
RECTIFIED = (
    "calib_time: 09-Jan-2012 14:00:15",
    "S_rect_02: 1.226000e+03 3.700000e+02",
    f"P_rect_02: {LEFT}",
    f"P_rect_03: {RIGHT}",
)
PROJECTIONS = (f"P0: {LEFT}", f"P1: {LEFT}", f"P2: {LEFT}", f"P3: {RIGHT}", "R0_rect: 1 0 0 0 1 0 0 0 1", "")


def write_pairs(root, names):
    """Pairs of images, whose numbers are their keys."""
    for name in names:
        write_image(root / f"image_2/{name}.png", key=int(name[:6]))
        write_image(root / f"image_3/{name}.png", key=int(name[:6]) + 1)


def write_benchmark(root):
    """Two pairs of the benchmark of 2015 with their next ones; returns the values of each map of disparities."""
    write_pairs(root, ["000004_10", "000004_11", "000046_10", "000046_11"])
    values = {}
    for number in ("000004", "000046"):
        values[number] = depth_values(key=int(number), high=20000)
        values[number][3, 5] = 0
        for folder in ("disp_occ_0", "disp_noc_0"):
            write_depth(root / f"{folder}/{number}_10.png", values[number])
    return values


def test_the_benchmark_without_calibration_has_the_nominal_cameras(tmp_path):
    values = write_benchmark(tmp_path / "training")
    found = frames_of(tmp_path, "kitti_stereo")
    assert found.keys() == {f"kitti_stereo/training/{n}_1{i}" for n in values for i in range(2)}
    assert frames_of(tmp_path / "training", "kitti_stereo") == found
    for number, of_frame in values.items():
        frame = found[f"kitti_stereo/training/{number}_10"]
        assert (frame.split, frame.scene_type, frame.scene) == ("train", "outdoor", f"training/{number}")
        assert frame.camera == Intrinsics(fx_px=721.5, fy_px=721.5, cx_px=610.1, cy_px=173.4)
        assert frame.members["right"].endswith(f"image_3/{number}_10.png")
        _, depth_m, rgb = sample(frame)
        expected = np.divide(721.5 * 0.54, of_frame / 256, out=np.full(of_frame.shape, np.nan), where=of_frame > 0)
        np.testing.assert_allclose(depth_m, expected, rtol=1e-4)
        np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
        later = found[f"kitti_stereo/training/{number}_11"]
        assert (later.members.keys(), later.scene) == ({"rgb", "right"}, frame.scene)


@pytest.mark.parametrize(
    ("folder", "lines", "sized"), [("calib_cam_to_cam", RECTIFIED, True), ("calib", PROJECTIONS, False)]
)
def test_each_pair_may_have_a_calibration(tmp_path, folder, lines, sized):
    write_benchmark(tmp_path)
    write_text(tmp_path / f"{folder}/000046.txt", *lines)
    found = {name.rpartition("/")[2]: frame for name, frame in frames_of(tmp_path, "kitti_stereo").items()}
    pinhole = {"fx_px": 707.0912, "fy_px": 707.1, "cx_px": 602.3873, "cy_px": 183.6104}
    camera = Camera(width=1226, height=370, **pinhole) if sized else Intrinsics(**pinhole)
    for name in ("000046_10", "000046_11"):
        assert (found[name].camera, found[name].right_cx_px) == (camera, None)
        assert found[name].baseline_m == pytest.approx(BASELINE_M)
    assert found["000004_10"].baseline_m == 0.54


def test_an_odometry_sequence_is_one_scene_with_times(tmp_path):
    write_pairs(tmp_path / "sequences/07", ["000000", "000001", "000002"])
    write_text(tmp_path / "sequences/07/calib.txt", *PROJECTIONS)
    write_text(tmp_path / "sequences/07/times.txt", "0.000000e+00", "1.037020e-01")
    found = frames_of(tmp_path, "kitti_stereo")
    assert [*found] == [f"kitti_stereo/07/00000{n}" for n in range(3)]
    for frame in found.values():
        assert (frame.scene, frame.scan, frame.baseline_m) == ("07", "07", pytest.approx(BASELINE_M))
    assert [frame.time_s for frame in found.values()] == [0, 0.103702, None]


def test_a_right_camera_with_another_principal_point(tmp_path):
    write_pairs(tmp_path, ["000001"])
    write_text(tmp_path / "calib/000001.txt", f"P2: {LEFT}", f"P3: {RIGHT.replace('6.018873', '6.118873')}")
    [frame] = frames_of(tmp_path, "kitti_stereo").values()
    assert frame.right_cx_px == pytest.approx(612.3873)


def test_a_camera_file_replaces_the_nominal_camera(tmp_path):
    write_benchmark(tmp_path)
    stated = {"width": WIDTH, "height": HEIGHT, "fx_px": 70.0, "fy_px": 71.0, "cx_px": 32.0, "cy_px": 24.0}
    write_text(tmp_path / "camera.json", json.dumps(stated))
    assert {frame.camera for frame in frames_of(tmp_path, "kitti_stereo").values()} == {Camera(**stated)}


def test_nothing_without_a_partner_is_dropped(tmp_path):
    write_benchmark(tmp_path)
    (tmp_path / "image_2/000004_10.png").unlink()
    (tmp_path / "image_3/000046_10.png").unlink()
    found = {name.rpartition("/")[2]: {*frame.members} for name, frame in frames_of(tmp_path, "kitti_stereo").items()}
    assert found["000004_10"] == {"right", "depth"}
    assert found["000046_10"] == {"rgb", "depth"}


@pytest.mark.parametrize(
    ("file", "lines", "wanted"),
    [
        ("calib/000004.txt", ["P2: 1 2"], "line 1: expected 12 numbers"),
        ("calib/000004.txt", [f"P2: {LEFT}"], "line 1: expected 12 numbers"),
        ("calib/000004.txt", [f"P2: {RIGHT}", f"P3: {LEFT}"], "line 1: expected a camera left of that of P3"),
        ("calib_cam_to_cam/000004.txt", ["S_rect_02: 1", *RECTIFIED[2:]], "line 1: expected 2 numbers"),
        ("times.txt", ["0", "soon"], "line 2: expected a number"),
    ],
)
def test_a_damaged_text_file_is_named_with_the_line(tmp_path, file, lines, wanted):
    write_benchmark(tmp_path)
    write_text(tmp_path / file, *lines)
    with pytest.raises(SourceError, match=f"{file} .*{wanted}.* remove it"):
        list(frames(list_tree(str(tmp_path))))


def test_an_archive_holds_the_same_frames(tmp_path):
    write_benchmark(tmp_path / "tree/training")
    write_text(tmp_path / "tree/training/calib_cam_to_cam/000046.txt", *RECTIFIED)
    same_in_archive(tmp_path / "tree", tmp_path / "scenes.tar.gz", "kitti_stereo")


def test_a_real_pair(tmp_path, shared):
    source = shutil.copytree(real(shared, "stereo/kitti_2015"), tmp_path / "training")
    [(name, frame)] = frames_of(source, "kitti_stereo").items()
    assert name == "kitti_stereo/training/000046_10"
    values = cv2.imread(str(source / "disp_occ_0/000046_10.png"), cv2.IMREAD_UNCHANGED)
    found = decoded(frame)
    np.testing.assert_array_equal(found.valid_mask, values > 0)
    known = values > 0
    np.testing.assert_allclose(found.depth_m[known], 721.5 * 0.54 / (values[known] / 256), rtol=1e-6)
    assert 5 < found.depth_m[known].min() < np.median(found.depth_m[known]) < 60
