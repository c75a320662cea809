"""Folders of images without depth: frames of a video, which a store of kind depth rejects."""

import json

import pytest

from depthflow.datasets.camera import Camera
from depthflow.datasets.frame_table import frame_table
from depthflow.datasets.layouts import recognised
from depthflow.datasets.listing import list_tree
from depthflow.datasets.photos import frames
from depthflow.errors import SourceError
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import plan_rows
from depthflow.store.write.sources import read_tree
from tests.layout_trees import HEIGHT, WIDTH, fitting, frames_of, same_in_archive, write_depth, write_image, write_text


def write_walk(root, count=3, ending="jpg"):
    for number in range(count):
        write_image(root / f"{number:06d}.{ending}", key=number)


def test_a_folder_is_a_scan_in_the_order_of_names(tmp_path):
    write_walk(tmp_path / "walks/kitchen")
    write_walk(tmp_path / "walks/outdoor/garden", ending="PNG")
    write_walk(tmp_path / "val/hall", 1)
    write_text(tmp_path / "walk.MP4", "the video itself")
    found = frames_of(tmp_path, "photos")
    assert [*found] == [
        "photos/hall/000000",
        *(f"photos/kitchen/00000{n}" for n in range(3)),
        *(f"photos/garden/00000{n}" for n in range(3)),
    ]
    frame = found["photos/kitchen/000001"]
    assert (frame.split, frame.scene_type, frame.scene, frame.scan) == ("train", "indoors", "kitchen", "kitchen")
    assert (frame.camera, frame.time_s, frame.members.keys()) == (None, None, {"rgb"})
    assert found["photos/garden/000001"].scene_type == "outdoor"
    assert found["photos/hall/000000"].split == "val"
    assert frames_of(tmp_path / "walks/kitchen", "photos").keys() == {f"photos/kitchen/00000{n}" for n in range(3)}


def test_a_camera_file_states_the_camera_of_all(tmp_path):
    write_walk(tmp_path)
    stated = {"width": WIDTH, "height": HEIGHT, "fx_px": 70.0, "fy_px": 71.0, "cx_px": 32.0, "cy_px": 24.0}
    write_text(tmp_path / "camera.json", json.dumps(stated))
    assert {frame.camera for frame in frames_of(tmp_path, "photos").values()} == {Camera(**stated)}


def test_a_store_of_kind_depth_rejects_each_and_says_why(tmp_path):
    write_walk(tmp_path / "walk")
    rows = frame_table(frames(list_tree(str(tmp_path)))).to_pylist()
    assert [row["reason"] for row in rows] == ["missing_member"] * 3
    source = read_tree(str(tmp_path), ("train", "val"), "photos")
    config = PreprocessConfig(source=(str(tmp_path),), out=str(tmp_path / "out"))
    with pytest.raises(SourceError, match=r"'missing_member': 3.*walk/000000: there is no depth file.*--kind video"):
        plan_rows(config, [source])


def test_images_alone_are_recognised_where_no_depth_is_needed(tmp_path):
    write_walk(tmp_path / "walk")
    found = read_tree(str(tmp_path), ("train", "val"), needed=("rgb", "previous", "next"))
    assert found.layout == "photos"
    assert found.frames.select(("reason", "problem")).to_pylist() == [{"reason": "", "problem": ""}] * 3
    with pytest.raises(SourceError, match="fit no layout of diode"):
        read_tree(str(tmp_path), ("train", "val"))


@pytest.mark.parametrize("name", ["depth/000000.png", "disparities/a.png", "0_Depth.png", "a.npy", "scan.exr"])
def test_images_beside_what_may_be_depth_are_no_photos(tmp_path, name):
    write_walk(tmp_path)
    write_depth(tmp_path / "a.png", [[1]])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a.png").rename(tmp_path / name)
    assert fitting(list_tree(str(tmp_path))) == []
    assert len(list(frames(list_tree(str(tmp_path))))) >= 3


def test_no_image_is_no_photo(tmp_path):
    write_text(tmp_path / "notes.txt", "nothing")
    assert fitting(list_tree(str(tmp_path))) == []


def test_another_layout_comes_first(tmp_path):
    for number in range(2):
        write_image(tmp_path / f"image_2/{number:06d}.png", key=number)
        write_image(tmp_path / f"image_3/{number:06d}.png", key=number + 1)
    assert recognised(list_tree(str(tmp_path)), needed=("rgb", "right")) == "kitti_stereo"


def test_an_archive_holds_the_same_frames(tmp_path):
    write_walk(tmp_path / "tree/walk")
    same_in_archive(tmp_path / "tree", tmp_path / "walk.tar.gz", "photos")
