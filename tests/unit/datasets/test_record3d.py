"""Record3D: EXR depth in metres; cameras, times and poses from metadata.json."""

import json

import numpy as np
import OpenEXR
import pytest

from depthflow.datasets.camera import Camera
from depthflow.datasets.layouts import find_frames
from depthflow.datasets.listing import list_tree
from depthflow.errors import SourceError
from tests.layout_trees import frames_of, same_in_archive, sample, write_image, write_text

NAME = "2024-05-01--10-00-00"
HALF = 2**-0.5
METADATA = {
    "w": 48,
    "h": 64,
    "fps": 60,
    "K": [50.0, 0.0, 0.0, 0.0, 51.0, 0.0, 24.5, 31.5, 1.0],
    "poses": [[0, 0, 0, 1, 0, 0, 0], [0, 2 * HALF, 0, 2 * HALF, 1, 2, 3], [0, 0, 0, 0, 1, 2, 3]],
}


def write_depth(path, depth_m):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"R": depth_m.astype(np.float32)}) as file:
        file.write(str(path))


def write_tree(root, ending="jpg", **metadata):
    """Four frames, whose depth maps are half as large as the images; returns the depth in metres."""
    folder, depths = root / NAME / "EXR_RGBD", []
    for number in range(4):
        depths.append(np.random.default_rng(number).uniform(0.2, 5, (32, 24)).astype(np.float32))
        depths[-1][1, 2], depths[-1][3, 4] = np.nan, 0
        write_image(folder / f"rgb/{number}.{ending}", (64, 48), key=number)
        write_depth(folder / f"depth/{number}.exr", depths[-1])
    write_text(folder / "metadata.json", json.dumps({**METADATA, **metadata}))
    return depths


@pytest.mark.parametrize("ending", ["jpg", "PNG"])
def test_a_tree_by_hand(tmp_path, ending):
    depths = write_tree(tmp_path, ending)
    found = frames_of(tmp_path, "record3d")
    assert [*found] == [f"record3d/{NAME}/{number}" for number in range(4)]
    for number, (frame, depth_m) in enumerate(zip(found.values(), depths, strict=True)):
        assert (frame.split, frame.scene_type, frame.scene, frame.scan) == ("train", "indoors", NAME, NAME)
        assert (frame.time_s, frame.problem) == (pytest.approx(number / 60), "")
        assert frame.camera == Camera(width=48, height=64, fx_px=50, fy_px=51, cx_px=24.5, cy_px=31.5)
        row, stored, _ = sample(frame, 32, 24)
        valid = np.isfinite(depth_m) & (depth_m > 0)
        np.testing.assert_allclose(stored, np.where(valid, depth_m, np.nan), rtol=1e-5)
        assert (row["fx_px"], row["cx_px"]) == (25, 12.25)


def test_poses_turn_from_opengl(tmp_path):
    write_tree(tmp_path)
    first, second, *others = (frame.pose for frame in frames_of(tmp_path, "record3d").values())
    assert others == [None, None]  # A quaternion of no length, and no pose at all.
    np.testing.assert_allclose(np.reshape(first, (4, 4)), np.diag([1, -1, -1, 1]), atol=1e-12)
    ahead = np.reshape(second, (4, 4)) @ [0, 0, 1, 1]  # A quarter turn to the left about y, from looking along -z.
    np.testing.assert_allclose(ahead, [1 - 1, 2, 3, 1], atol=1e-12)


def test_each_frame_has_the_camera_and_the_time_that_are_stated_for_it(tmp_path):
    cameras = [[60 + number, 61, 24, 32] for number in range(3)]
    write_tree(tmp_path, perFrameIntrinsicCoeffs=cameras, frameTimestamps=[10.5, 10.6, 10.9, 11])
    found = [*frames_of(tmp_path, "record3d").values()]
    assert [frame.camera.fx_px for frame in found] == [60, 61, 62, 50]
    assert [frame.time_s for frame in found] == [10.5, 10.6, 10.9, 11]


def test_an_archive_holds_the_same_frames(tmp_path):
    write_tree(tmp_path / "phone")
    same_in_archive(tmp_path / "phone", tmp_path / "phone.tar.gz", "record3d")


def test_the_source_may_be_the_export_itself(tmp_path):
    write_tree(tmp_path)
    for source in (tmp_path / NAME, tmp_path / NAME / "EXR_RGBD"):
        assert [*frames_of(source, "record3d")] == [f"record3d/{NAME}/{number}" for number in range(4)]


def test_nothing_without_a_partner_is_dropped(tmp_path):
    write_tree(tmp_path)
    (tmp_path / NAME / "EXR_RGBD/rgb/1.jpg").unlink()
    (tmp_path / NAME / "EXR_RGBD/depth/2.exr").unlink()
    members = [frame.members.keys() for frame in frames_of(tmp_path, "record3d").values()]
    assert members == [{"rgb", "depth"}, {"depth"}, {"rgb"}, {"rgb", "depth"}]


def test_the_internal_format_is_refused_with_a_way_out(tmp_path):
    write_image(tmp_path / "unzipped/rgbd/0.jpg")
    for file in ("unzipped/rgbd/0.depth", "unzipped/rgbd/0.conf", "zipped.r3d"):
        (tmp_path / file).write_bytes(b"bvx2")
    found = frames_of(tmp_path, "record3d")
    assert found.keys() == {"record3d/unzipped/0", f"record3d/{tmp_path.name}/zipped"}
    for frame in found.values():
        assert frame.reason == "lzfse_depth"
        assert f"{frame.sample_id.rpartition('/')[2]}." in frame.problem
        assert "LZFSE, which cannot be read here. Export" in frame.problem
        assert '"EXR + JPG sequence"' in frame.problem
    with pytest.raises(SourceError, match=r"zipped.r3d is not a folder. Record3D compresses its depth with LZFSE"):
        list_tree(str(tmp_path / "zipped.r3d"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ('{"w": 4\n"h": 3}', "line 2: expected a JSON object .Expecting"),
        ("[1]", "line 1: expected a JSON object"),
        (json.dumps({**METADATA, "K": [1, 2]}), "line 1: expected K of 9 numbers"),
        (json.dumps({**METADATA, "K": [0] * 9}), "line 1: expected intrinsics .fx_px must be"),
        (json.dumps({**METADATA, "w": None}), "line 1: expected a number w"),
        (json.dumps({**METADATA, "poses": [[1, 2]]}), "line 1: expected poses of 7 numbers each"),
    ],
)
def test_damaged_metadata_is_named(tmp_path, metadata, message):
    write_tree(tmp_path)
    write_text(tmp_path / NAME / "EXR_RGBD/metadata.json", metadata)
    listing = list_tree(str(tmp_path))
    with pytest.raises(SourceError, match=rf"{NAME}/EXR_RGBD/metadata.json of .*, {message}.* received") as info:
        find_frames(listing, "record3d", ("train", "val"))
    assert len(str(info.value)) < 400
