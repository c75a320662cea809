"""Pinhole intrinsics: how they scale, and where they are read from."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.datasets.camera import DIODE_CAMERA, Camera, Intrinsics, camera_of_frame, parse_camera
from depthflow.datasets.listing import read_camera
from depthflow.errors import SourceError

CAMERA = Camera(width=400, height=300, fx_px=200.0, fy_px=210.0, cx_px=190.0, cy_px=160.0)


def write(folder, camera=CAMERA, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "camera.json").write_text(json.dumps({**dataclasses.asdict(camera), **changes}))


def test_resized_by_hand():
    small = CAMERA.resized(height=150, width=100)
    assert small == Camera(width=100, height=150, fx_px=50.0, fy_px=105.0, cx_px=47.5, cy_px=80.0)


def test_intrinsics_are_those_of_the_image_whatever_its_size():
    intrinsics = Intrinsics(fx_px=200.0, fy_px=210.0, cx_px=190.0, cy_px=160.0)
    assert camera_of_frame(intrinsics, dataset="sun_rgbd", height=300, width=400) == CAMERA
    with pytest.raises(ValueError, match="fx_px must be a positive number"):
        dataclasses.replace(intrinsics, fx_px=0.0)


def test_diodes_camera_at_the_stored_size_by_hand():
    stored = DIODE_CAMERA.resized(height=256, width=256)
    assert stored.fx_px == pytest.approx(886.81 / 4)
    assert stored.fy_px == pytest.approx(927.06 / 3)
    assert (stored.cx_px, stored.cy_px) == (pytest.approx(128.0), pytest.approx(128.0))


sizes = st.integers(1, 4000)


@given(width=sizes, height=sizes, x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_resize_keeps_every_ray(width, height, x, y):
    resized = CAMERA.resized(height=height, width=width)
    for share, size, focal, centre in ((x, "width", "fx_px", "cx_px"), (y, "height", "fy_px", "cy_px")):
        before = (share * getattr(CAMERA, size) - getattr(CAMERA, centre)) / getattr(CAMERA, focal)
        after = (share * getattr(resized, size) - getattr(resized, centre)) / getattr(resized, focal)
        assert after == pytest.approx(before, rel=1e-9, abs=1e-9)


@given(width=sizes, height=sizes)
def test_no_resize_changes_the_relative_focal_length(width, height):
    """sqrt(200 / 400 x 210 / 300) by hand; a resize that distorts the image changes fx and fy apart."""
    assert CAMERA.relative_focal == pytest.approx(0.35**0.5)
    assert CAMERA.resized(height=height, width=width).relative_focal == pytest.approx(0.35**0.5)


def test_camera_of_a_field_of_view_by_hand():
    """90 degrees across 400 px: fx is 200 px."""
    found = Camera.of_fov(90.0, height=100, width=400)
    assert found == Camera(width=400, height=100, fx_px=found.fx_px, fy_px=found.fx_px, cx_px=200.0, cy_px=50.0)
    assert found.fx_px == pytest.approx(200.0)
    assert found.relative_focal == pytest.approx(1.0)  # sqrt(200 / 400 x 200 / 100)


def test_a_tree_without_a_camera_has_none(tmp_path):
    assert read_camera(str(tmp_path)) is None


@pytest.mark.parametrize("source", [".", "train", "val"])
def test_a_trees_camera_is_read(tmp_path, source):
    write(tmp_path)
    (tmp_path / source).mkdir(exist_ok=True)
    assert read_camera(str(tmp_path / source)) == CAMERA


def test_a_splits_camera_takes_precedence_over_its_trees(tmp_path):
    write(tmp_path)
    write(tmp_path / "val", width=401)
    assert read_camera(str(tmp_path / "val")).width == 401


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "{}", '{"width": 4}', "\xff"])
def test_the_message_names_a_file_that_is_not_a_camera(tmp_path, text):
    (tmp_path / "camera.json").write_bytes(text.encode("latin1"))
    with pytest.raises(SourceError, match=r"camera\.json is not a camera.*fx_px"):
        read_camera(str(tmp_path))


def test_an_unknown_field_is_rejected(tmp_path):
    write(tmp_path, k1=0.1)
    with pytest.raises(SourceError, match="k1"):
        read_camera(str(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [{"fx_px": "wide"}, {"width": 0}, {"fy_px": -1.0}, {"cx_px": None}, {"height": True}, {"cy_px": float("inf")}],
)
def test_impossible_camera_values_are_rejected(tmp_path, changes):
    write(tmp_path, **changes)
    with pytest.raises(SourceError):
        read_camera(str(tmp_path))


def test_a_tree_does_not_use_its_parent_folders_camera(tmp_path):
    write(tmp_path)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    assert read_camera(str(tmp_path / "mine")) is None


def test_a_split_folder_as_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "val").mkdir()
    monkeypatch.chdir(tmp_path / "val")
    assert read_camera(".") == CAMERA


def test_camera_of_frame():
    """Frames of DIODE's size have its camera only in DIODE."""

    def found(stated, height, width, dataset="diode"):
        return camera_of_frame(stated, dataset=dataset, height=height, width=width)

    assert found(CAMERA, 600, 200) == CAMERA.resized(height=600, width=200)
    assert found(CAMERA, 768, 1024) == CAMERA.resized(height=768, width=1024)
    assert found(None, 768, 1024) == DIODE_CAMERA
    assert found(None, 768, 1024, dataset="tum") is None
    assert found(None, 1024, 768) is None
    assert found(None, 192, 256) is None


def test_parse_camera():
    content = json.dumps(dataclasses.asdict(CAMERA)).encode()
    assert parse_camera(content, where="an archive") == CAMERA
    with pytest.raises(SourceError, match=r"camera\.json of a\.tar\.gz is not a camera"):
        parse_camera(content[:-1], where="camera.json of a.tar.gz")


@pytest.mark.parametrize("source", [".", "train"])
def test_a_folder_named_like_a_camera_file_is_ignored(tmp_path, source):
    (tmp_path / "train/camera.json").mkdir(parents=True)
    (tmp_path / "camera.json").mkdir()
    assert read_camera(str(tmp_path / source)) is None
