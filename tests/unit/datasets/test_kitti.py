"""KITTI: depth belongs to the raw image of its drive, camera and frame, and 256 units are a metre."""

import json
import shutil
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.errors import SourceError
from tests.layout_trees import depth_values, frames_of, same_in_archive, sample, write_depth, write_image, write_text

DATE = "2011_09_26"
DRIVES = {"train": f"{DATE}_drive_0001_sync", "val": f"{DATE}_drive_0002_sync"}
SIZE = (370, 1226)
CALIBRATION = (
    "calib_time: 09-Jan-2012 13:57:47",
    "corner_dist: 9.950000e-02",
    "S_00: 1.392000e+03 5.120000e+02",
    "S_rect_02: 1.226000e+03 3.700000e+02",
    "P_rect_02: 7.215377e+02 0.0e+00 6.095593e+02 4.485728e+01 0 7.215400e+02 1.728540e+02 2.163791e-01 0 0 1 2.7e-03",
    "S_rect_03: 1.226000e+03 3.700000e+02",
    "P_rect_03: 7.2e+02 0.0e+00 6.0e+02 -3.395242e+02 0.0e+00 7.2e+02 1.7e+02 2.199936e+00 0.0e+00 0 1 2.729905e-03",
)


def raw(root, drive, camera, number, ending="png"):
    return root / f"raw/{DATE}/{drive}/{camera}/data/{number:010d}.{ending}"


def truth(root, split, drive, camera, number):
    return root / f"depth/{split}/{drive}/proj_depth/groundtruth/{camera}/{number:010d}.png"


def write_tree(root, ending="png"):
    """Two drives of two frames and two cameras; returns the depth by drive, camera and number."""
    depths = {}
    for split, drive in DRIVES.items():
        for camera in ("image_02", "image_03"):
            for number in (5, 6):
                write_image(raw(root, drive, camera, number, ending), (37, 122), key=number)
                values = depth_values((37, 122), key=len(depths), high=20000)
                values[:20] = 0
                write_depth(truth(root, split, drive, camera, number), values)
                depths[f"kitti/{drive}/{camera}/{number:010d}"] = values
            lines = [f"2011-09-26 13:02:{25 + n / 10:06.3f}389445" for n in range(7)]
            write_text(root / f"raw/{DATE}/{drive}/{camera}/timestamps.txt", *lines)
        write_image(root / f"raw/{DATE}/{drive}/image_00/data/0000000005.png")
        write_depth(root / f"depth/{split}/{drive}/proj_depth/velodyne_raw/image_02/0000000005.png", np.ones((4, 4)))
    write_text(root / f"raw/{DATE}/calib_cam_to_cam.txt", *CALIBRATION)
    return depths


@pytest.mark.parametrize("ending", ["png", "PNG", "jpg"])
def test_raw_images_meet_the_depth_of_the_benchmark(tmp_path, ending):
    depths = write_tree(tmp_path, ending)
    found = frames_of(tmp_path, "kitti")
    assert found.keys() == depths.keys()
    for name, values in depths.items():
        frame = found[name]
        _, drive, camera, number = name.split("/")
        assert (frame.split, frame.scene_type, frame.dataset) == (
            "val" if "0002" in drive else "train",
            "outdoor",
            "kitti",
        )
        assert (frame.scene, frame.scan, frame.problem) == (drive, f"{drive}/{camera}", "")
        seconds = datetime(2011, 9, 26, 13, 2, 25, 389 + 100_000 * int(number), UTC).timestamp()
        assert frame.time_s == pytest.approx(seconds, abs=1e-4)
        row, depth_m, rgb = sample(frame, 37, 122)
        np.testing.assert_allclose(depth_m, np.where(values == 0, np.nan, values / 256), rtol=1e-5)
        np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
        assert row["source_height"] == 37
    left = found[f"kitti/{DRIVES['train']}/image_02/0000000005"].camera
    assert left == Camera(width=1226, height=370, fx_px=721.5377, fy_px=721.54, cx_px=610.0593, cy_px=173.354)
    right = found[f"kitti/{DRIVES['train']}/image_03/0000000005"].camera
    assert right == Camera(width=1226, height=370, fx_px=720, fy_px=720, cx_px=600.5, cy_px=170.5)


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "kitti")
    same_in_archive(tmp_path / "kitti", tmp_path / "kitti.tar.gz", "kitti")


def test_a_source_may_be_one_drive(tmp_path):
    write_tree(tmp_path)
    drive = tmp_path / f"raw/{DATE}/{DRIVES['val']}"
    (tmp_path / f"depth/val/{DRIVES['val']}/proj_depth").rename(drive / "proj_depth")
    shutil.copy(tmp_path / f"raw/{DATE}/calib_cam_to_cam.txt", drive)
    found = frames_of(drive, "kitti")
    assert len(found) == 4
    assert all(frame.members.keys() == {"rgb", "depth"} and frame.camera.width == 1226 for frame in found.values())


def test_nothing_without_a_partner_is_dropped(tmp_path):
    write_tree(tmp_path)
    drive = DRIVES["val"]
    raw(tmp_path, drive, "image_02", 5).unlink()
    truth(tmp_path, "val", drive, "image_03", 6).unlink()
    found = frames_of(tmp_path, "kitti")
    assert len(found) == 8
    assert found[f"kitti/{drive}/image_02/0000000005"].members.keys() == {"depth"}
    alone = found[f"kitti/{drive}/image_03/0000000006"]
    assert (alone.members.keys(), alone.split) == ({"rgb"}, "val")


def test_without_calibration_the_cameras_are_those_of_the_source(tmp_path):
    write_tree(tmp_path)
    (tmp_path / f"raw/{DATE}/calib_cam_to_cam.txt").unlink()
    assert {frame.camera for frame in frames_of(tmp_path, "kitti").values()} == {None}
    stated = {"width": 122, "height": 37, "fx_px": 70.0, "fy_px": 71.0, "cx_px": 60.0, "cy_px": 18.0}
    write_text(tmp_path / "camera.json", json.dumps(stated))
    assert {frame.camera for frame in frames_of(tmp_path, "kitti").values()} == {Camera(**stated)}


@pytest.mark.parametrize(
    ("file", "line", "number"),
    [
        (f"raw/{DATE}/calib_cam_to_cam.txt", "P_rect_02: 7.2e+02 0 0", 5),
        (f"raw/{DATE}/calib_cam_to_cam.txt", "S_rect_02: wide", 4),
        (f"raw/{DATE}/calib_cam_to_cam.txt", "P_rect_02: -1 0 6 0 0 7 1 0 0 0 1 0", 5),
        (f"raw/{DATE}/{DRIVES['train']}/image_02/timestamps.txt", "at noon", 2),
    ],
)
def test_a_damaged_text_file_is_named_with_the_line(tmp_path, file, line, number):
    write_tree(tmp_path)
    lines = (tmp_path / file).read_text().splitlines()
    lines[number - 1] = line
    write_text(tmp_path / file, *lines)
    with pytest.raises(SourceError, match=rf"{file} of .*, line {number}: expected .* received .* remove it") as info:
        frames_of(tmp_path, "kitti")
    assert len(str(info.value)) < 400


def test_the_selection_for_validation(tmp_path):
    folder, drive = tmp_path / "depth_selection/val_selection_cropped", DRIVES["val"]
    values = depth_values((36, 122), high=20000)
    values[3, 5] = 0
    write_image(folder / f"image/{drive}_image_0000000005_image_03.png", (36, 122))
    write_depth(folder / f"groundtruth_depth/{drive}_groundtruth_depth_0000000005_image_03.png", values)
    write_text(folder / f"intrinsics/{drive}_image_0000000005_image_03.txt", "72.1 0.0 59.6 0.0 72.2 14.9 0.0 0.0 1.0 ")
    write_depth(folder / f"velodyne_raw/{drive}_velodyne_raw_0000000005_image_03.png", values)
    write_image(tmp_path / "depth_selection/test_depth_prediction_anonymous/image/0000000000.png", (36, 122))
    found = frames_of(tmp_path, "kitti")
    frame = found.pop(f"kitti/{drive}/image_03/0000000005_cropped")
    assert (frame.split, frame.scene, frame.scan) == ("val", drive, f"{drive}/image_03")
    row, depth_m, _ = sample(frame, 36, 122)
    np.testing.assert_allclose(depth_m, np.where(values == 0, np.nan, values / 256), rtol=1e-5)
    assert [row[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")] == pytest.approx([72.1, 72.2, 60.1, 15.4])
    (untold,) = found.values()
    assert untold.sample_id == "kitti/test_depth_prediction_anonymous/0000000000"
    assert untold.members.keys() == {"rgb"}
    same_in_archive(tmp_path / "depth_selection", tmp_path / "depth_selection.tar.gz", "kitti")


def test_real_pairs(shared):
    folder = shared / "frames/kitti"
    if not folder.is_dir():
        pytest.skip(f"there are no frames at {folder} (DEPTHFLOW_SHARED)")
    found = frames_of(folder, "kitti")
    assert [*found] == [f"kitti/{number:010d}" for number in (5, 50, 100)]
    for name, frame in found.items():
        raw_depth = cv2.imread(str(folder / f"depth/{name[-10:]}.png"), cv2.IMREAD_UNCHANGED)
        row, depth_m, rgb = sample(frame, *raw_depth.shape)
        assert raw_depth.shape == rgb.shape[:2] == (375, 1242)
        np.testing.assert_allclose(depth_m, np.where(raw_depth == 0, np.nan, raw_depth / 256), rtol=1e-5)
        assert 0.1 < np.isfinite(depth_m).mean() < 0.3
        assert 3 < np.nanmin(depth_m) < np.nanmax(depth_m) < 90
        assert [row["fx_px"], row["cx_px"], row["cy_px"]] == pytest.approx([707.0493, 604.5814, 181.0066])


def test_pairs_are_recognised_by_their_list_alone(tmp_path):
    entry = {"rgb": "any/rgb/0000000007.png", "depth": "any/depth/0000000007.png", "depth_scale": 1000.0}
    listed = {"files": [{**entry, "cam_in": [50, 51, 32, 24]}]}
    write_image(tmp_path / "street/rgb/0000000007.png")
    write_depth(tmp_path / "street/depth/0000000007.png", depth_values())
    write_depth(tmp_path / "street/depth/0000000008.png", depth_values())
    with pytest.raises(AssertionError):
        frames_of(tmp_path, "kitti")
    write_text(tmp_path / "street/annotations.json", json.dumps(listed))
    found = frames_of(tmp_path, "kitti")
    pair, alone = found["kitti/street/0000000007"], found["kitti/street/0000000008"]
    assert pair.camera == Intrinsics(fx_px=50, fy_px=51, cx_px=32.5, cy_px=24.5)
    np.testing.assert_allclose(sample(pair)[1], depth_values() / 1000, rtol=1e-5)
    assert alone.members.keys() == {"depth"}
    write_text(tmp_path / "street/annotations.json", json.dumps({"files": [entry]}))
    with pytest.raises(SourceError, match=r"annotations.json of .*, line 1: expected files with rgb, cam_in"):
        frames_of(tmp_path, "kitti")


def test_a_second_image_of_a_frame_shares_its_id(tmp_path):
    write_tree(tmp_path)
    drive = DRIVES["train"]
    write_image(tmp_path / f"again/{drive}/image_02/data/0000000005.png", (37, 122))
    with pytest.raises(AssertionError):  # Ids repeat, which preprocess rejects as duplicates.
        frames_of(tmp_path, "kitti")
