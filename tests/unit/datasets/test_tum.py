"""TUM RGB-D: times pair images with depth, and 5000 units are a metre."""

import shutil

import cv2
import numpy as np
import pytest

from depthflow.datasets.listing import list_tree
from depthflow.datasets.tum import frames, pair_times
from depthflow.errors import SourceError
from tests.layout_trees import (
    archived,
    depth_values,
    frames_of,
    real,
    same_in_archive,
    sample,
    write_depth,
    write_image,
)
from tests.layout_trees import write_text as write

SCAN = "rgbd_dataset_freiburg1_desk"
PREFIX = "tum/freiburg1/freiburg1_desk"
IMAGES = ("1305031102.175304", "1305031102.211214", "1305031102.243211", "1305031102.900000")
DEPTHS = ("1305031102.160407", "1305031102.226738", "1305031102.262886", "1305031103.500000")
FREIBURG1 = (517.3, 516.5, 319.1, 255.8)


def write_tree(root, *, ending="png"):
    """Three pairs, an image without depth and a depth map without image; returns the depth by time."""
    depths = {}
    for key, time in enumerate(IMAGES):
        write_image(root / SCAN / f"rgb/{time}.{ending}", key=key)
    for key, time in enumerate(DEPTHS):
        depths[time] = depth_values(key=key, high=60000)
        depths[time][3, 5] = 0
        write_depth(root / SCAN / f"depth/{time}.{ending}", depths[time])
    for folder, times in (("rgb", IMAGES), ("depth", DEPTHS)):
        lines = [f"{time} {folder}/{time}.{ending}" for time in times]
        write(root / SCAN / f"{folder}.txt", f"# {folder} maps", "# file: 'desk.bag'", "# timestamp filename", *lines)
    write(
        root / SCAN / "groundtruth.txt",
        "# timestamp tx ty tz qx qy qz qw",
        "1305031102.1658 1.0 2.0 3.0 0 0 0 1",
        "1305031102.1758 1.5 2.5 3.5 0 0 0.7071067811865476 0.7071067811865476",
        "1305031102.2158 0 0 0 2 0 0 0",
        "1305031102.2400 nan 0 0 0 0 0 1",
    )
    return depths


def test_a_tree_by_hand(tmp_path):
    depths = write_tree(tmp_path)
    found = frames_of(tmp_path, "tum")
    assert found.keys() == {f"{PREFIX}/{time}" for time in (*IMAGES, DEPTHS[3])}
    for image, depth in zip(IMAGES[:3], DEPTHS[:3], strict=True):
        frame = found[f"{PREFIX}/{image}"]
        assert (frame.split, frame.scene_type, frame.scene) == ("train", "indoors", "freiburg1")
        assert (frame.scan, frame.problem, frame.time_s) == ("freiburg1_desk", "", float(image))
        assert frame.members["depth"].endswith(f"{SCAN}/depth/{depth}.png")
        row, depth_m, rgb = sample(frame)
        wanted = np.where(depths[depth] == 0, np.nan, depths[depth] / 5000)
        np.testing.assert_allclose(depth_m, wanted, rtol=1e-5)
        assert np.isnan(depth_m[3, 5])
        np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
        scaled = [value / 10 for value in FREIBURG1]
        np.testing.assert_allclose([row[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")], scaled)
    assert found[f"{PREFIX}/{IMAGES[3]}"].members.keys() == {"rgb"}
    assert found[f"{PREFIX}/{DEPTHS[3]}"].members.keys() == {"depth"}


def test_poses_are_the_nearest_in_time(tmp_path):
    write_tree(tmp_path)
    poses = [frames_of(tmp_path, "tum")[f"{PREFIX}/{time}"].pose for time in IMAGES]
    quarter_turn = [0, -1, 0, 1.5, 1, 0, 0, 2.5, 0, 0, 1, 3.5, 0, 0, 0, 1]
    np.testing.assert_allclose(poses[0], quarter_turn, atol=1e-12)
    np.testing.assert_allclose(np.reshape(poses[1], (4, 4)), np.diag([1, -1, -1, 1]), atol=1e-12)
    assert poses[2:] == [None, None]  # Not a number; none within 20 ms.


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ([0.0, 0.010], [0.006, 0.012], {1: 1, 0: 0}),
        ([0.0, 0.010], [0.006], {1: 0}),
        ([1.0], [1.02], {0: 0}),
        ([1305031102.18], [1305031102.16], {0: 0}),
        ([1.0], [1.0201], {}),
        ([3.0, 1.0, 2.0], [2.0, 3.001], {0: 1, 2: 0}),
        ([], [1.0], {}),
    ],
)
def test_times_are_paired_nearest_first_and_once(first, second, wanted):
    assert pair_times(first, second) == wanted


def test_repeated_times_are_compared_with_a_few_only():
    assert len(pair_times([1.0] * 2_000, [1.0] * 2_000)) == 32


@pytest.mark.parametrize(
    ("folder", "fx_px", "scene"),
    [
        ("rgbd_dataset_freiburg2_xyz", 520.9, "freiburg2"),
        ("rgbd_dataset_freiburg3_teddy", 535.4, "freiburg3"),
        ("my_room", 525.0, "my_room"),
    ],
)
def test_the_folder_names_the_camera(tmp_path, folder, fx_px, scene):
    write_tree(tmp_path)
    (tmp_path / SCAN).rename(tmp_path / folder)
    (camera,) = {frame.camera for frame in frames_of(tmp_path / folder, "tum").values()}
    assert camera.fx_px == fx_px
    assert {frame.scene for frame in frames_of(tmp_path, "tum").values()} == {scene}


def test_files_that_no_list_names_or_that_are_gone_are_reported(tmp_path):
    write_tree(tmp_path, ending="PNG")
    write_image(tmp_path / SCAN / "rgb/7.png")
    (tmp_path / SCAN / f"depth/{DEPTHS[0]}.PNG").unlink()
    found = frames_of(tmp_path, "tum")
    assert found[f"{PREFIX}/7"].reason == "unlisted_file"
    assert f"{SCAN}/rgb/7.png is not listed in rgb.txt" in found[f"{PREFIX}/7"].problem
    assert found[f"{PREFIX}/{IMAGES[0]}"].members.keys() == {"rgb"}
    assert found[f"{PREFIX}/{IMAGES[1]}"].members.keys() == {"rgb", "depth"}


@pytest.mark.parametrize(
    ("name", "line", "wanted"),
    [
        ("rgb.txt", "1305031102.175304", "expected a time and a path"),
        ("depth.txt", "noon depth/1.png", "expected a number, received 'noon'"),
        ("depth.txt", "nan depth/1.png", "expected a time and a path"),
        ("groundtruth.txt", "1305031102.1 0 0 0 0 0 0", "expected 8 numbers"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(tmp_path, name, line, wanted):
    write_tree(tmp_path)
    path = tmp_path / SCAN / name
    write(path, *path.read_text().splitlines()[:2], line)
    with pytest.raises(SourceError, match=rf"{SCAN}/{name} of .*, line 3: {wanted}.*Restore"):
        list(frames(list_tree(str(tmp_path))))


def test_scans_of_one_name_keep_their_folders(tmp_path):
    for place in ("a", "b"):
        write_tree(tmp_path / place)
    assert {frame.scan for frame in frames_of(tmp_path, "tum").values()} == {"a/freiburg1_desk", "b/freiburg1_desk"}


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "tree")
    same_in_archive(tmp_path / "tree", tmp_path / "tum.tar.gz", "tum")


def test_a_list_that_is_a_link_in_an_archive_is_named(tmp_path):
    write_tree(tmp_path / "tree")
    (tmp_path / "tree" / SCAN / "rgb.txt").rename(tmp_path / "tree" / SCAN / "all.txt")
    (tmp_path / "tree" / SCAN / "rgb.txt").symlink_to("all.txt")
    with pytest.raises(SourceError, match=f"{SCAN}/rgb.txt of .* is a link to all.txt"):
        archived(tmp_path / "tree", tmp_path / "tum.tar.gz", "tum")


def test_a_real_frame(tmp_path, shared):
    source = real(shared, "single/TUM_color.png")
    for name in ("color", "depth"):
        (tmp_path / SCAN / name).mkdir(parents=True)
        shutil.copy(source.with_name(f"TUM_{name}.png"), tmp_path / SCAN / name / "1.5.png")
    write(tmp_path / SCAN / "rgb.txt", "1.5 color/1.5.png")
    write(tmp_path / SCAN / "depth.txt", "1.51 depth/1.5.png")
    values = cv2.imread(str(source.with_name("TUM_depth.png")), cv2.IMREAD_UNCHANGED)
    row, depth_m, _ = sample(frames_of(tmp_path, "tum")[f"{PREFIX}/1.5"], *values.shape)
    np.testing.assert_allclose(depth_m, np.where(values == 0, np.nan, values / 5000), rtol=1e-5)
    assert (row["fx_px"], row["cx_px"]) == (517.3, pytest.approx(319.1))
    assert 0.3 < row["depth_median_m"] < 5
