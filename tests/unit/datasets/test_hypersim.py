"""Hypersim's layout: rays to metres, the tables, and what is missing."""

import io
import math

import cv2
import h5py
import numpy as np
import pytest

from depthflow.datasets.archive import archive_listing, scan_archive
from depthflow.datasets.camera import Camera
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.hypersim import CAMERA, CAMERAS_FILE, SPLITS_FILE, camera_of_rays, fits, frames
from depthflow.datasets.layouts import recognised
from depthflow.datasets.listing import list_tree
from depthflow.errors import SourceError
from depthflow.store.write.sources import read_member
from tests.archives import pack

SIZE = HEIGHT, WIDTH = 6, 8
DISTANCE_M = np.full(SIZE, 2.5, np.float16)
DISTANCE_M[0, :3] = np.nan, np.inf, 0
CAMERA_COLUMNS = ["scene_name", "settings_output_img_width", "settings_output_img_height"]
CAMERA_COLUMNS += [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
NOMINAL = np.diag([math.tan(math.pi / 6), 0.75 * math.tan(math.pi / 6), -1.0])
"""The rays of most scenes: 60 degrees wide, 4 to 3."""


def write_frame(root, scene="ai_001_001", cam="00", number="0000", image="tonemap.jpg", depth=DISTANCE_M):
    images = root / scene / "images"
    for kind in ("final_preview", "geometry_hdf5"):
        (images / f"scene_cam_{cam}_{kind}").mkdir(parents=True, exist_ok=True)
    if image:
        content = cv2.imencode(".jpg", np.full((*SIZE, 3), 90, np.uint8))[1].tobytes()
        (images / f"scene_cam_{cam}_final_preview" / f"frame.{number}.{image}").write_bytes(content)
    if depth is not None:
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            file.create_dataset("dataset", data=depth, compression="gzip")
        place = images / f"scene_cam_{cam}_geometry_hdf5" / f"frame.{number}.depth_meters.hdf5"
        place.write_bytes(stream.getvalue())


def cameras_csv(**rays):
    lines = [",".join(CAMERA_COLUMNS)]
    lines += [f"{scene},{WIDTH}.0,{HEIGHT}.0," + ",".join(map(str, m.reshape(-1))) for scene, m in rays.items()]
    return "\n".join(lines) + "\n"


def decoded(frame):
    members = {name: read_member(place) for name, place in frame.members.items()}
    return decode_frame(members, frame.encoding, camera=frame.camera)


def listed(root):
    listing = list_tree(str(root))
    assert recognised(listing) == "hypersim" and fits(listing)
    return list(frames(listing))


def test_distances_along_rays_become_metres(tmp_path):
    write_frame(tmp_path)
    (frame,) = listed(tmp_path)
    assert (frame.sample_id, frame.split) == ("hypersim/ai_001_001/cam_00/0000", "train")
    assert (frame.scene_type, frame.scene, frame.scan, frame.time_s) == ("indoors", "ai_001_001", "cam_00", None)
    assert frame.camera == CAMERA and not frame.problem
    found = decoded(frame)
    for y, x in ((5, 7), (2, 3), (0, 4)):
        direction = ((x + 0.5) / WIDTH * 1024 - 512) / 886.81, ((y + 0.5) / HEIGHT * 768 - 384) / 886.81
        assert found.depth_m[y, x] == pytest.approx(2.5 / math.hypot(1, *direction), rel=1e-6)
    assert found.valid_mask.sum() == HEIGHT * WIDTH - 3 and not found.valid_mask[0, :3].any()


@pytest.mark.parametrize("below", ["ai_001_001", "ai_001_001/images"])
def test_a_source_may_be_one_scene(tmp_path, below):
    write_frame(tmp_path)
    (frame,) = listed(tmp_path / below)
    assert frame.sample_id == "hypersim/ai_001_001/cam_00/0000" and decoded(frame).valid_mask.any()


def test_incomplete_and_second_images(tmp_path):
    write_frame(tmp_path, number="0000", image="color.JPG")
    write_frame(tmp_path, number="0001", image=None)
    write_frame(tmp_path, number="0002", depth=None)
    write_frame(tmp_path, number="0003")
    write_frame(tmp_path, number="0003", image="color.jpg", depth=None)
    (tmp_path / "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0009.normal_cam.hdf5").write_bytes(b"x")
    found = {frame.sample_id.split("/")[-1]: frame for frame in listed(tmp_path)}
    assert {number: sorted(frame.members) for number, frame in found.items()} == {
        "0000": ["depth", "rgb"],
        "0001": ["depth"],
        "0002": ["rgb"],
        "0003": ["depth", "rgb"],
    }
    assert found["0003"].members["rgb"].endswith("tonemap.jpg")


def test_the_tables_state_camera_and_split(tmp_path, caplog):
    for scene in ("ai_001_001", "ai_001_002", "ai_002_001"):
        write_frame(tmp_path, scene=scene)
    write_frame(tmp_path, scene="ai_001_001", number="0007")
    shifted = NOMINAL.copy()
    shifted[1, 2] = 0.1
    (tmp_path / "metadata_camera_parameters.csv").write_text(cameras_csv(ai_001_001=NOMINAL, ai_001_002=shifted))
    (tmp_path / "metadata_images_split_scene_v1.csv").write_text(
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"
        "ai_001_001,cam_00,0,True,,train\nai_001_001,cam_00,7,True,,test\nai_001_002,cam_00,0,True,,val\n"
    )
    found = {frame.sample_id.removeprefix("hypersim/"): frame for frame in listed(tmp_path)}
    assert {name: frame.split for name, frame in found.items()} == {
        "ai_001_001/cam_00/0000": "train",
        "ai_001_001/cam_00/0007": "val",
        "ai_001_002/cam_00/0000": "val",
        "ai_002_001/cam_00/0000": "train",
    }
    assert found["ai_001_001/cam_00/0000"].camera.fx_px == pytest.approx(WIDTH / 2 / math.tan(math.pi / 6))
    assert found["ai_002_001/cam_00/0000"].camera == CAMERA
    assert "1 scenes, such as ai_002_001, have no row" in caplog.text


def test_the_nominal_camera_is_sixty_degrees_wide():
    found = camera_of_rays(NOMINAL, height=768, width=1024)
    assert isinstance(found, Camera)
    assert [found.fx_px, found.fy_px, found.cx_px, found.cy_px] == pytest.approx([886.81, 886.81, 512, 384], abs=0.01)


@pytest.mark.parametrize("turn_deg", [0, 7])
@pytest.mark.parametrize("scale", [1, 0.25])
def test_a_shifted_and_turned_camera_projects_every_pixel_as_its_rays_do(turn_deg, scale):
    """Angles between rays are those of the table; a turn of the whole camera changes none of them."""
    shifted = np.array([[0.5, 0, 0.03], [0, 0.4, -0.2], [0, 0, -1.0]])
    angle = math.radians(turn_deg)
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    camera = camera_of_rays(scale * turn @ shifted, height=768, width=1024)
    assert isinstance(camera, Camera)
    pixels = np.array([[3.5, 900.5, 511.5], [700.5, 20.5, 383.5]])
    u, v = pixels[0] / 512 - 1, 1 - pixels[1] / 384
    expected = turn @ shifted @ np.stack([u, v, np.ones(3)])
    own = np.stack([(pixels[0] - camera.cx_px) / camera.fx_px, (pixels[1] - camera.cy_px) / camera.fy_px, np.ones(3)])
    expected, own = expected / np.linalg.norm(expected, axis=0), own / np.linalg.norm(own, axis=0)
    np.testing.assert_allclose(own.T @ own, expected.T @ expected, atol=1e-9)


def test_a_camera_with_skewed_pixels_is_rejected(tmp_path):
    write_frame(tmp_path)
    skewed = NOMINAL.copy()
    skewed[0, 1] = 0.05
    (tmp_path / "metadata_camera_parameters.csv").write_text(cameras_csv(ai_001_001=skewed))
    (frame,) = listed(tmp_path)
    assert frame.reason == "no_camera" and "skewed, by 0.115 of" in frame.problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata_camera_parameters.csv",
            "scene_name\nai_001_001\n",
            "line 2 is damaged: KeyError.*It needs scene_name",
        ),
        (
            "metadata_camera_parameters.csv",
            cameras_csv(a=NOMINAL).replace("-1.0", "x"),
            "line 2 is damaged: ValueError",
        ),
        (CAMERAS_FILE, cameras_csv(a=0 * NOMINAL), "line 2 is damaged: LinAlgError"),
        (CAMERAS_FILE, cameras_csv(a=NOMINAL)[:-30], "line 2 is damaged"),
        (SPLITS_FILE, "scene_name,frame_id\na,1\n", "line 2 is damaged.*split_partition_name"),
    ],
)
def test_a_damaged_table_ends_the_listing(tmp_path, name, content, message):
    write_frame(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path)


def test_an_archive_holds_the_same_frames(tmp_path):
    tree = tmp_path / "tree"
    write_frame(tree)
    (tree / "metadata_camera_parameters.csv").write_text(cameras_csv(ai_001_001=NOMINAL))
    (expected,) = listed(tree)
    archive = pack(tmp_path / "some.tar.gz", tree)
    contents = scan_archive(archive, str(tmp_path / "index"), threads=1, progress=lambda name, done: None)
    (found,) = frames(archive_listing(archive, contents))
    assert (found.sample_id, found.camera, sorted(found.members)) == (
        expected.sample_id,
        expected.camera,
        sorted(expected.members),
    )
