"""7-Scenes: millimetres of a depth camera that sees more than the image's camera does."""

import shutil

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import Camera
from depthflow.datasets.layouts import LAYOUTS
from depthflow.datasets.listing import list_tree
from depthflow.datasets.seven_scenes import frames
from depthflow.errors import SourceError
from tests.layout_trees import depth_values, fitting, frames_of, real, same_in_archive, sample, write_depth, write_image
from tests.layout_trees import write_text as write

POSE = ["0 -1 0 0.5", "1 0 0 -0.25", "0 0 1 2e0", "0 0 0 1"]
LOST = ["nan nan nan nan"] * 4
SEQUENCES = ("seq-01", "seq-02", "seq-03")


def write_tree(root, *, color="png", sequences=SEQUENCES):
    """Two frames per sequence, the second without a pose that can be used."""
    for key, sequence in enumerate(sequences):
        for number, pose in enumerate((POSE, LOST)):
            stem = root / sequence / f"frame-{number:06d}"
            write_image(stem.with_name(f"{stem.name}.color.{color}"), key=key)
            values = depth_values(key=key)
            values[0, :8], values[1, :8] = 0, 65535
            write_depth(stem.with_name(f"{stem.name}.depth.png"), values)
            write(stem.with_name(f"{stem.name}.pose.txt"), *pose)
    write(root / "TrainSplit.txt", "sequence1", "sequence3")
    write(root / "TestSplit.txt", "sequence2")


def looked_up(values, focal_px=525.0, center_px=320.0):
    """Metres at an image's pixels: each looks along its own ray into a depth map of f = 585 and c = 320.5."""
    height, width = values.shape
    scale = width / 640
    found = np.full(values.shape, np.nan)
    for row in range(height):
        for column in range(width):
            x = ((column + 0.5) / scale - center_px) / focal_px
            y = ((row + 0.5) / scale - center_px * 0.75) / focal_px
            i, j = int((y * 585 + 240.5) * scale // 1), int((x * 585 + 320.5) * scale // 1)
            if 0 <= i < height and 0 <= j < width and 0 < values[i, j] < 65535:
                found[row, column] = values[i, j] / 1000
    return found


def test_a_tree_by_hand(tmp_path):
    write_tree(tmp_path / "chess")
    found = frames_of(tmp_path, "seven_scenes")
    assert found.keys() == {f"seven_scenes/chess/{s}/frame-00000{n}" for s in SEQUENCES for n in (0, 1)}
    assert {frame.scan: frame.split for frame in found.values()} == dict(
        zip(SEQUENCES, ("train", "val", "train"), strict=True)
    )
    frame = found["seven_scenes/chess/seq-02/frame-000001"]
    assert (frame.scene, frame.scene_type, frame.time_s, frame.pose) == ("chess", "indoors", 1 / 30, None)
    assert found["seven_scenes/chess/seq-02/frame-000000"].pose == (
        *(0, -1, 0, 0.5, 1, 0, 0, -0.25),
        *(0, 0, 1, 2, 0, 0, 0, 1),
    )
    row, depth_m, rgb = sample(frame)
    values = cv2.imread(frame.members["depth"], cv2.IMREAD_UNCHANGED)
    wanted = looked_up(values)
    np.testing.assert_allclose(depth_m, wanted, rtol=1e-5)
    assert 0.75 < np.mean(~np.isnan(wanted)) < 0.85  # 585 / 525 of the image's sides lie outside of the depth map.
    np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
    np.testing.assert_allclose([row[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")], [52.5, 52.5, 32, 24])


def test_any_folder_of_it_may_be_the_source(tmp_path):
    write_tree(tmp_path / "chess")
    whole = frames_of(tmp_path, "seven_scenes")
    assert frames_of(tmp_path / "chess", "seven_scenes") == whole
    assert frames_of(tmp_path / "chess" / "seq-01", "seven_scenes").keys() < whole.keys()


def test_a_flat_folder_is_one_scene(tmp_path):
    write_tree(tmp_path, sequences=["kitchen"], color="jpg")
    (frame, _) = frames_of(tmp_path / "kitchen", "seven_scenes").values()
    assert (frame.sample_id, frame.scan) == ("seven_scenes/kitchen/frame-000000", "kitchen")


@pytest.mark.parametrize("focal", [585, 615])
def test_a_stated_camera_is_that_of_both(tmp_path, focal):
    write_tree(tmp_path, sequences=["kitchen"])
    write(tmp_path / "kitchen/camera-intrinsics.txt", f"{focal} 0 319.5", f"0 {focal} 239.5", "0 0 1")
    (frame, _) = frames_of(tmp_path, "seven_scenes").values()
    assert (frame.camera.fx_px, frame.camera.cx_px, frame.depth_camera) == (focal, 320, None)


def test_a_camera_json_states_the_images_camera(tmp_path):
    write_tree(tmp_path, sequences=["kitchen"])
    fields = '"fx_px": 531.5, "fy_px": 531.5, "cx_px": 318, "cy_px": 241'
    write(tmp_path / "camera.json", f'{{"width": 640, "height": 480, {fields}}}')
    (frame, _) = frames_of(tmp_path, "seven_scenes").values()
    assert frame.camera == Camera(width=640, height=480, fx_px=531.5, fy_px=531.5, cx_px=318, cy_px=241)
    assert frame.depth_camera.fx_px == 585


def test_missing_partners_and_other_endings(tmp_path):
    write_tree(tmp_path, color="JPG")
    (tmp_path / "seq-01/frame-000000.color.JPG").unlink()
    (tmp_path / "seq-01/frame-000001.depth.png").rename(tmp_path / "seq-01/frame-000001.depth.PNG")
    (tmp_path / "seq-02/frame-000000.depth.png").unlink()
    (tmp_path / "seq-02/frame-000001.pose.txt").unlink()
    found = [[*frame.members] for frame in frames_of(tmp_path, "seven_scenes").values()]
    assert found == [["depth"], ["rgb", "depth"], ["rgb"], ["rgb", "depth"], ["rgb", "depth"], ["rgb", "depth"]]


@pytest.mark.parametrize(
    ("name", "lines", "wanted"),
    [
        ("seq-01/frame-000000.pose.txt", POSE[:3], "line 3: expected 4 lines of 4 numbers, received '3 lines'"),
        ("seq-01/frame-000000.pose.txt", [*POSE[:3], "0 0 0"], "line 4: expected 4 numbers, received '0 0 0'"),
        ("seq-01/frame-000000.pose.txt", [], "line 1: expected 4 lines"),
        ("TestSplit.txt", ["seq-02"], "line 1: expected a sequence, such as sequence1, received 'seq-02'"),
        ("seq-01/camera-intrinsics.txt", ["0 0 0"] * 3, "line 1: expected intrinsics"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, lines, wanted):
    write_tree(tmp_path)
    write(tmp_path / name, *lines)
    with pytest.raises(SourceError, match=f"{name} of .*, {wanted}.*Restore"):
        list(frames(list_tree(str(tmp_path))))


@pytest.mark.parametrize("name", ["info.txt", "seq-01/_info.txt"])
def test_frames_of_other_data_sets_with_these_names_are_not_recognised(tmp_path, name):
    write_tree(tmp_path)
    write(tmp_path / name, "m_calibrationColorIntrinsic = 1158")
    assert fitting(list_tree(str(tmp_path))) == []
    assert len(list(LAYOUTS["seven_scenes"].frames(list_tree(str(tmp_path))))) == 6


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "tree/chess")
    same_in_archive(tmp_path / "tree", tmp_path / "chess.tar.gz", "seven_scenes")


def test_real_frames(shared):
    source = real(shared, "seven_scenes")
    found = frames_of(source, "seven_scenes")
    assert len(found) == len([*source.glob("*.depth.png")]) >= 200
    for number in range(len(found)):
        stem = f"frame-{number:06d}"
        row, depth_m, _ = sample(found[f"seven_scenes/{stem}"], 60, 80)
        values = cv2.imread(str(source / f"{stem}.depth.png"), cv2.IMREAD_UNCHANGED)[4::8, 4::8]
        wanted = np.where((values > 0) & (values < 65535), values / 1000, np.nan)
        np.testing.assert_allclose(depth_m, wanted, rtol=1e-5)
        assert row["valid_fraction"] > 0.3
        assert (row["fx_px"], row["fy_px"]) == (585 / 8, 585 / 8)
        pose = np.loadtxt(source / f"{stem}.pose.txt")
        np.testing.assert_array_equal(np.reshape(found[f"seven_scenes/{stem}"].pose, (4, 4)), pose)


def test_depth_edges_of_real_frames_fall_onto_image_edges(tmp_path, shared):
    """Which they would not if the depth maps were laid onto the images pixel by pixel."""
    source = real(shared, "seven_scenes")
    scores = {}
    for intrinsics in (True, False):
        folder = tmp_path / str(intrinsics)
        folder.mkdir()
        for number in range(0, 200, 20):
            for path in source.glob(f"frame-{number:06d}.*"):
                shutil.copy(path, folder)
        if not intrinsics:  # One camera for both.
            write(folder / "camera-intrinsics.txt", "525 0 320", "0 525 240", "0 0 1")
        scores[intrinsics] = np.mean([edge_score(frame) for frame in frames_of(folder, "seven_scenes").values()])
    assert scores[True] > 0.3
    assert abs(scores[False]) < 0.15


def edge_score(frame):
    """Mean strength of image edges at the near side of depth jumps, in standard deviations."""
    _, depth_m, rgb = sample(frame, 480, 640)
    valid = ~np.isnan(depth_m)
    farthest = cv2.dilate(np.where(valid, depth_m, 0), np.ones((3, 3)))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    slope = np.minimum(cv2.GaussianBlur(slope, (0, 0), 1.5), 200)
    return np.mean(((slope - slope.mean()) / slope.std())[valid & (farthest > 1.1 * depth_m)])
