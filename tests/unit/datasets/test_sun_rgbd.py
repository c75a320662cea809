"""SUN RGB-D: the bits of a depth value are rotated by three, and the depth as measured counts, not the filled one."""

import shutil

import cv2
import numpy as np
import pytest

from depthflow.errors import SourceError
from tests.layout_trees import depth_values, frames_of, same_in_archive, sample, write_depth, write_image, write_text

SAMPLES = ("kv1/NYUdata/NYU0001", "kv1/NYUdata/NYU0002", "xtion/sun3ddata/brown_bm_1/brown_bm_1/0000001")
INTRINSICS = ("518.857901 0.000000 284.582449 ", "0.000000 519.469611 208.736166 ", "0.000000 0.000000 1.000000 ")


def packed(depth_mm):
    """Bits rotated by three to the left."""
    return (depth_mm << 3 | depth_mm >> 13).astype(np.uint16)


def write_sample(folder, key, room="bathroom", ending="jpg"):
    depth_mm = depth_values(key=key, high=60000)
    depth_mm[2, 3] = 0
    write_image(folder / f"image/{key:07d}.{ending}", key=key)
    write_depth(folder / f"depth/{key:07d}-0001.png", packed(depth_mm))
    write_depth(folder / f"depth_bfx/{key:07d}-0001.png", packed(depth_mm + 77))
    write_image(folder / f"fullres/{key:07d}.jpg", (54, 96))
    write_text(folder / "intrinsics.txt", *INTRINSICS)
    write_text(folder / "scene.txt", room)
    write_text(folder / "extrinsics/20140808220511.txt", "1 0 0 0", "0 1 0 0", "0 0 1 0")
    return depth_mm


def write_tree(root):
    return {place: write_sample(root / place, key) for key, place in enumerate(SAMPLES)}


def test_a_tree_by_hand(tmp_path):
    depths = write_tree(tmp_path / "SUNRGBD")
    found = frames_of(tmp_path, "sun_rgbd")
    assert [*found] == [f"sun_rgbd/{place}" for place in SAMPLES]
    for place, depth_mm in depths.items():
        frame = found[f"sun_rgbd/{place}"]
        assert (frame.split, frame.scene_type, frame.problem, frame.pose) == ("train", "indoors", "", None)
        assert "/depth/" in frame.members["depth"]
        row, depth_m, rgb = sample(frame)
        np.testing.assert_allclose(depth_m, np.where(depth_mm == 0, np.nan, depth_mm / 1000), rtol=1e-5)
        np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
        focal = [row[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")]
        assert focal == pytest.approx(
            [518.857901, 519.469611, 285.082449, 209.236166]
        )  # Of the image, whatever its size.
    first, last = found[f"sun_rgbd/{SAMPLES[0]}"], found[f"sun_rgbd/{SAMPLES[2]}"]
    assert (first.scene, first.scan) == ("kv1/NYUdata/bathroom", "kv1/NYUdata")
    assert (last.scene, last.scan) == ("xtion/sun3ddata/bathroom", "xtion/sun3ddata/brown_bm_1/brown_bm_1")


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "SUNRGBD")
    same_in_archive(tmp_path / "SUNRGBD", tmp_path / "SUNRGBD.tar.gz", "sun_rgbd")


def test_a_source_may_be_one_set_or_one_sample(tmp_path):
    write_tree(tmp_path)
    assert [*frames_of(tmp_path / "kv1/NYUdata", "sun_rgbd")] == [
        "sun_rgbd/NYUdata/NYU0001",
        "sun_rgbd/NYUdata/NYU0002",
    ]
    assert [*frames_of(tmp_path / SAMPLES[0], "sun_rgbd")] == ["sun_rgbd/NYU0001"]


def test_faults(tmp_path):
    for name in ("whole", "blind", "filled", "several", "bare"):
        write_sample(tmp_path / f"kv2/set/{name}", 1, ending="JPG")
    shutil.rmtree(tmp_path / "kv2/set/blind/image")
    shutil.rmtree(tmp_path / "kv2/set/filled/depth")
    write_image(tmp_path / "kv2/set/several/image/other.png")
    for name in ("intrinsics.txt", "scene.txt"):
        (tmp_path / f"kv2/set/bare/{name}").unlink()
    found = {name.rpartition("/")[2]: frame for name, frame in frames_of(tmp_path, "sun_rgbd").items()}
    assert sample(found["whole"])[0]["fx_px"] == pytest.approx(518.857901)
    assert found["blind"].members.keys() == {"depth"}
    assert found["filled"].members.keys() == {"rgb"}
    assert (found["several"].reason, "2 images and 1 depth maps" in found["several"].problem) == ("bad_name", True)
    assert (found["bare"].camera, found["bare"].scene) == (None, "kv2/set")


@pytest.mark.parametrize(
    ("lines", "line"), [((INTRINSICS[0], "0 wide 0", INTRINSICS[2]), 2), (INTRINSICS[:2], 2), ((), 1)]
)
def test_damaged_intrinsics_are_named_with_the_line(tmp_path, lines, line):
    write_tree(tmp_path)
    write_text(tmp_path / SAMPLES[0] / "intrinsics.txt", *lines)
    with pytest.raises(
        SourceError, match=rf"{SAMPLES[0]}/intrinsics.txt of .*, line {line}: expected 3 (lines|numbers).*, received"
    ):
        frames_of(tmp_path, "sun_rgbd")


def test_the_real_frame(shared, tmp_path):
    single = shared / "frames/single"
    if not single.is_dir():
        pytest.skip(f"there are no frames at {single} (DEPTHFLOW_SHARED)")
    folder = tmp_path / "xtion/sun3ddata/real"
    write_text(folder / "intrinsics.txt", "525 0 319.5 0 525 239.5 0 0 1")
    for member, name in (("image", "SUN_color.jpg"), ("depth", "SUN_depth.png")):
        (folder / member).mkdir()
        shutil.copy(single / name, folder / member)
    (frame,) = frames_of(tmp_path, "sun_rgbd").values()
    values = cv2.imread(str(single / "SUN_depth.png"), cv2.IMREAD_UNCHANGED).astype(np.int64)
    metres = (values // 8 + values % 8 * 8192) / 1000
    row, depth_m, _ = sample(frame, 480, 640)
    np.testing.assert_allclose(depth_m, np.where(metres == 0, np.nan, metres), rtol=1e-5)
    assert 0.4 < np.nanmin(depth_m) < np.nanmedian(depth_m) < np.nanmax(depth_m) < 12
    assert row["cx_px"] == 320
