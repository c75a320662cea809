"""Middlebury's pairs: calib.txt gives camera, baseline and doffs, and those of 2003 have none."""

import json
import shutil

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import Camera
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.listing import list_tree
from depthflow.datasets.middlebury import frames
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from tests.layout_trees import HEIGHT, WIDTH, contents, decoded, frames_of, real, same_in_archive, sample, write_image
from tests.layout_trees import write_text as write

CALIBRATION = (
    "cam0=[100.5 0 30.25; 0 100.5 23; 0 0 1]",
    "cam1=[100.5 0 33.5; 0 100.5 23; 0 0 1]",
    "doffs=3.25",
    "baseline=193.001",
    f"width={WIDTH}",
    f"height={HEIGHT}",
    "ndisp=20",
    "isint=0",
)


def write_pfm(path, values):
    """As Middlebury does: from the last row up, with a scale that means nothing."""
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-0.003922\n".encode()
    path.write_bytes(header + values[::-1].astype("<f4").tobytes())


def write_new(folder, truth="disp0.pfm"):
    """A pair of 2014; returns its disparities, unknown in one pixel and behind the camera in another."""
    write_image(folder / "im0.png", key=1)
    write_image(folder / "im1.png", key=2)
    write_image(folder / "im1E.png", key=3)
    write(folder / "calib.txt", *CALIBRATION)
    values = np.random.default_rng(0).uniform(-3, 16, (HEIGHT, WIDTH)).astype(np.float32)
    values[3, 5], values[4, 6] = np.inf, -3.5
    write_pfm(folder / truth, values)
    write_pfm(folder / "disp1.pfm", values + 9)
    return values


def write_old(folder, images=".png", truth=".png"):
    """A pair of 2003; returns the values of its disparity map."""
    for number in (0, 2, 6):
        write_image(folder / f"im{number}{images}", key=number)
    values = np.random.default_rng(0).integers(1, 220, (HEIGHT, WIDTH), dtype=np.uint8)
    values[3, 5] = 0
    for name in ("disp2", "disp6"):
        cv2.imwrite(str(folder / f"{name}{truth}"), values)
    return values


@pytest.mark.parametrize("truth", ["disp0.pfm", "disp0GT.pfm"])
def test_a_pair_with_calibration(tmp_path, truth):
    values = write_new(tmp_path / "trainingQ/Adirondack", truth)
    [(name, frame)] = frames_of(tmp_path, "middlebury").items()
    assert name == "middlebury/Adirondack/im0"
    assert frames_of(tmp_path / "trainingQ/Adirondack", "middlebury") == {name: frame}
    assert (frame.split, frame.scene_type, frame.scene, frame.scan) == ("train", "indoors", "Adirondack", "Adirondack")
    assert (frame.baseline_m, frame.right_cx_px) == (0.193001, 34.0)
    assert frame.camera == Camera(width=WIDTH, height=HEIGHT, fx_px=100.5, fy_px=100.5, cx_px=30.75, cy_px=23.5)
    row, depth_m, rgb = sample(frame)
    known = np.isfinite(values) & (values > -3.25)
    np.testing.assert_array_equal(np.isfinite(depth_m), known)
    np.testing.assert_allclose(depth_m[known], 0.193001 * 100.5 / (values[known] + 3.25), rtol=1e-4)
    np.testing.assert_array_equal(rgb, cv2.imread(frame.members["rgb"])[..., ::-1])
    assert frame.members["right"].endswith("im1.png")
    assert row["fx_px"] == 100.5


def test_two_versions_are_one_scene_and_two_sizes_two_scans(tmp_path):
    for folder in ("2014/Piano-perfect", "2014/Piano-imperfect", "trainingQ/Pipes", "trainingH/Pipes"):
        write_new(tmp_path / folder)
    found = [(frame.scene, frame.scan) for frame in frames_of(tmp_path, "middlebury").values()]
    assert found == [
        ("Piano", "Piano-imperfect"),
        ("Piano", "Piano-perfect"),
        ("Pipes", "trainingH/Pipes"),
        ("Pipes", "trainingQ/Pipes"),
    ]


def test_what_is_missing_is_reported(tmp_path):
    names = {"im0.png": "rgb", "im1.png": "right", "disp0.pfm": "depth"}
    for number, name in enumerate(names):
        write_new(tmp_path / f"scene{number}")
        (tmp_path / f"scene{number}" / name).unlink()
    found = [{*frame.members} for frame in frames_of(tmp_path, "middlebury").values()]
    assert found == [{*names.values()} - {member} for member in names.values()]


@pytest.mark.parametrize(
    ("number", "line", "wanted"),
    [
        (1, "cam0=[100.5 0 30; 0 100.5]", "line 1: expected 9 numbers"),
        (1, "cam0=[-1 0 30; 0 -1 30; 0 0 1]", "line 1: expected intrinsics"),
        (3, "doffs=wide", "line 3: expected a number"),
        (4, "baseline=0", "line 4: expected a positive baseline"),
        (4, "baseline=nan", "line 4: expected a positive baseline"),
        (4, "length=193", "line 1: expected a number"),
        (5, "width=inf", "expected intrinsics"),
    ],
)
def test_a_damaged_calibration_is_named_with_the_line(tmp_path, number, line, wanted):
    write_new(tmp_path)
    write(tmp_path / "calib.txt", *CALIBRATION[: number - 1], line, *CALIBRATION[number:])
    with pytest.raises(SourceError, match=f"calib.txt .*{wanted}.* remove it"):
        list(frames(list_tree(str(tmp_path))))


def reason_of(frame):
    with pytest.raises(RejectError) as info:
        decoded(frame)
    return info.value.reason


@pytest.mark.parametrize(("images", "truth"), [(".png", ".png"), (".ppm", ".pgm")])
def test_a_pair_of_2003_needs_a_camera_and_a_baseline(tmp_path, images, truth):
    values = write_old(tmp_path / "teddy", images, truth)
    [(name, frame)] = frames_of(tmp_path, "middlebury").items()
    assert (name, frame.camera, reason_of(frame)) == ("middlebury/teddy/im2", None, "no_camera")
    assert frame.members["right"].endswith(f"im6{images}")
    stated = {"width": WIDTH, "height": HEIGHT, "fx_px": 100.0, "fy_px": 100.0, "cx_px": 32.0, "cy_px": 24.0}
    write(tmp_path / "camera.json", json.dumps(stated))
    [frame] = frames_of(tmp_path, "middlebury").values()
    assert (frame.camera, reason_of(frame)) == (Camera(**stated), "no_baseline")
    depth_m = decode_frame(contents(frame), frame.encoding, camera=frame.camera, baseline_m=0.2).depth_m
    known = values > 0
    np.testing.assert_allclose(depth_m[known], 0.2 * 100 / (values[known] / 4), rtol=1e-6)


def test_an_archive_holds_the_same_frames(tmp_path):
    write_new(tmp_path / "tree/Vintage")
    write_old(tmp_path / "tree/cones")
    same_in_archive(tmp_path / "tree", tmp_path / "pairs.tar.gz", "middlebury")


def test_real_pairs(tmp_path, shared):
    for name in ("middlebury_2014/Motorcycle", "middlebury_2003/cones"):
        shutil.copytree(real(shared, f"stereo/{name}"), tmp_path / name)
    found = frames_of(tmp_path, "middlebury")
    assert found.keys() == {"middlebury/Motorcycle/im0", "middlebury/cones/im2"}
    frame = found["middlebury/Motorcycle/im0"]
    disparity = decode_depth((tmp_path / "middlebury_2014/Motorcycle/disp0GT.pfm").read_bytes())
    known = np.isfinite(disparity)
    depth_m = decoded(frame).depth_m
    np.testing.assert_allclose(depth_m[known], 0.193001 * 999.421 / (disparity[known] + 32.778), rtol=1e-6)
    assert 2 < np.median(depth_m[known]) < 4
    assert reason_of(found["middlebury/cones/im2"]) == "no_camera"
