"""ARKitScenes: millimetres of the highest confidence, cameras and poses of the nearest time."""

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import Camera
from depthflow.errors import SourceError
from tests.layout_trees import depth_values, frames_of, same_in_archive, sample, write_depth, write_image, write_text

TRAIN, VAL = "raw/Training/40753679", "raw/Validation/41048190"
TIMES = ("6790.420", "6790.437", "6790.604")
SCENE = "arkitscenes/40753679"


def write_recording(folder, video, ending="png"):
    """Three frames; returns depth and confidence by time."""
    truth = {}
    for key, time in enumerate(TIMES):
        name = f"{video}_{time}"
        depth_mm, confidence = (
            depth_values(key=key),
            np.random.default_rng(key).integers(0, 3, (48, 64), dtype=np.uint8),
        )
        depth_mm[2, 3], confidence[2, 3] = 0, 2
        write_image(folder / f"lowres_wide/{name}.{ending}", key=key)
        write_depth(folder / f"lowres_depth/{name}.{ending}", depth_mm)
        (folder / "confidence").mkdir(exist_ok=True)
        (folder / f"confidence/{name}.{ending}").write_bytes(cv2.imencode(".png", confidence)[1].tobytes())
        truth[time] = depth_mm, confidence
    write_text(folder / f"lowres_wide_intrinsics/{video}_6790.421.pincam", "256 192 211.949 211.95 127.933 95.9333")
    write_text(folder / f"lowres_wide_intrinsics/{video}_6790.437.pincam", "256 192 212.949 211.95 127.933 95.9333")
    write_text(
        folder / "lowres_wide.traj",
        "6790.4239 0 0 1.5707963267948966 1.0 2.0 3.0",
        "6790.4370 0 0 0 nan 2.0 3.0",
        "6790.7 0 0 0 1.0 2.0 3.0",
    )
    return truth


def write_tree(root, ending="png"):
    write_text(
        root / "raw/metadata.csv", "video_id,visit_id,fold", "40753679,421254,Training", "41048190,NA,Validation"
    )
    write_recording(root / VAL, "41048190", ending)
    return write_recording(root / TRAIN, "40753679", ending)


@pytest.mark.parametrize("ending", ["png", "PNG"])
def test_a_tree_by_hand(tmp_path, ending):
    truth = write_tree(tmp_path, ending)
    found = frames_of(tmp_path, "arkitscenes")
    assert [*found] == [f"arkitscenes/{video}/{time}" for video in ("40753679", "41048190") for time in TIMES]
    for time, (depth_mm, confidence) in truth.items():
        frame = found[f"{SCENE}/{time}"]
        assert (frame.split, frame.scene_type, frame.scene, frame.scan) == (
            "train",
            "indoors",
            "visit_421254",
            "40753679",
        )
        assert (frame.time_s, frame.problem) == (float(time), "")
        _, depth_m, _ = sample(frame)
        sure = (confidence == 2) & (depth_mm > 0)
        assert 0.2 < sure.mean() < 0.5
        np.testing.assert_allclose(depth_m, np.where(sure, depth_mm / 1000, np.nan), rtol=1e-5)
    other = found[f"arkitscenes/41048190/{TIMES[0]}"]
    assert (other.split, other.scene) == ("val", "41048190")


def test_cameras_and_poses_are_those_of_the_time(tmp_path):
    write_tree(tmp_path)
    first, second, third = (frames_of(tmp_path, "arkitscenes")[f"{SCENE}/{time}"] for time in TIMES)
    assert first.camera == Camera(width=256, height=192, fx_px=211.949, fy_px=211.95, cx_px=127.933, cy_px=95.9333)
    assert (second.camera.fx_px, third.camera) == (212.949, None)
    assert (second.pose, third.pose) == (None, None)
    pose = np.reshape(first.pose, (4, 4))  # World to camera turns x to y, then shifts.
    np.testing.assert_allclose(pose @ [1.0, 2.0, 3.0, 1.0], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(pose @ [1.0, 3.0, 3.0, 1.0], [1, 0, 0, 1], atol=1e-12)


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "arkit")
    same_in_archive(tmp_path / "arkit", tmp_path / "arkit.tar.gz", "arkitscenes")


def test_the_folders_of_the_detection_subset(tmp_path):
    write_recording(tmp_path / "3dod/Validation/41048190/41048190_frames", "41048190")
    found = frames_of(tmp_path, "arkitscenes")
    assert [*found] == [f"arkitscenes/41048190/{time}" for time in TIMES]
    assert {(frame.split, frame.scene, frame.scan) for frame in found.values()} == {("val", "41048190", "41048190")}
    inside = frames_of(tmp_path / "3dod/Validation/41048190/41048190_frames", "arkitscenes")
    assert [*inside] == [*found]
    assert inside[f"arkitscenes/41048190/{TIMES[0]}"].pose is not None


def test_nothing_without_a_partner_is_dropped(tmp_path):
    write_tree(tmp_path)
    folder = tmp_path / TRAIN
    (folder / f"lowres_wide/40753679_{TIMES[0]}.png").unlink()
    (folder / f"lowres_depth/40753679_{TIMES[1]}.png").unlink()
    (folder / f"confidence/40753679_{TIMES[2]}.png").unlink()
    write_image(folder / "lowres_wide/cover.png")
    found = frames_of(tmp_path, "arkitscenes")
    missing = [{*frame.required} - frame.members.keys() for frame in (found[f"{SCENE}/{time}"] for time in TIMES)]
    assert missing == [{"rgb"}, {"depth"}, {"confidence"}]
    assert found[f"{SCENE}/cover"].reason == "bad_name"


def test_a_recording_without_confidence_needs_none(tmp_path):
    truth = write_recording(tmp_path / "scan", "7")
    for file in (tmp_path / "scan/confidence").iterdir():
        file.unlink()
    frame = frames_of(tmp_path, "arkitscenes")[f"arkitscenes/scan/{TIMES[1]}"]
    depth_mm = truth[TIMES[1]][0]
    np.testing.assert_allclose(sample(frame)[1], np.where(depth_mm == 0, np.nan, depth_mm / 1000), rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "lines", "line"),
    [
        ("lowres_wide.traj", ["6790.42 0 0 0 1 2 3", "6790.52 0 0"], 2),
        ("lowres_wide_intrinsics/40753679_6790.421.pincam", ["256 192 211.9"], 1),
        ("lowres_wide_intrinsics/40753679_6790.421.pincam", ["256 192 nan 211.9 1 1"], 1),
    ],
)
def test_a_damaged_text_file_is_named_with_the_line(tmp_path, file, lines, line):
    write_tree(tmp_path)
    write_text(tmp_path / TRAIN / file, *lines)
    with pytest.raises(SourceError, match=rf"{file} of .*, line {line}: expected .*, received .* remove it"):
        frames_of(tmp_path, "arkitscenes")
