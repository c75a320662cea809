"""A pair's files to the disparity that stands in for a depth file, or to the reason why not."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from depthflow.datasets.camera import Camera
from depthflow.datasets.frames import Frame
from depthflow.datasets.npy_file import decode_npy
from depthflow.datasets.reject import RejectError
from depthflow.datasets.stereo_pair import matched_disparity
from tests.stereo_pairs import HEIGHT, SPOILED, WIDTH, pair, seen_by_both

CAMERA = Camera(width=2 * WIDTH, height=2 * HEIGHT, fx_px=300.0, fy_px=300.0, cx_px=float(WIDTH), cy_px=float(HEIGHT))


def png(rgb):
    return cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def upside_down(rgb):
    """A PNG whose EXIF data ask for half a turn."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[Base.Orientation] = 3
    Image.fromarray(rgb).save(stream, "PNG", exif=exif)
    return stream.getvalue()


def frame(**fields):
    names = {"sample_id": "a", "split": "train", "scene_type": "indoors", "scene": "a", "scan": "a", "members": {}}
    return Frame(**names, camera=CAMERA, **fields)


def reason(content, **fields):
    with pytest.raises(RejectError) as info:
        matched_disparity(frame(**fields), content)
    return info.value.reason, info.value.message


@pytest.mark.parametrize("doffs", [0, 7])
def test_the_principal_point_of_the_right_image_counts_at_the_images_size(doffs):
    left, right, truth = pair(doffs=doffs)
    content = matched_disparity(frame(right_cx_px=WIDTH + 2.0 * doffs), {"rgb": png(left), "right": png(right)})
    found, sure = decode_npy(content, "depth"), seen_by_both(truth)
    assert np.isfinite(found[sure]).mean() > 0.99
    assert np.nanmax(np.abs(found[sure] - truth[sure])) < 0.5


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_pair_is_rejected(how):
    left, right = SPOILED[how](*pair()[:2])
    code, message = reason({"rgb": png(left), "right": png(right)})
    assert code == "not_rectified"
    assert "features" in message and "Rectify the pair" in message


def test_damaged_turned_and_unequal_images_are_rejected():
    left, right, _ = pair()
    good = {"rgb": png(left), "right": png(right)}
    assert reason({**good, "right": b""}) == ("empty_file", "its right image: the image file has no bytes")
    assert reason({**good, "right": b"GIF89a"})[0] == "unreadable_image"
    assert reason({**good, "right": upside_down(right)})[0] == "turned_image"
    code, message = reason({**good, "right": png(right[:, 2:])})
    assert (code, message) == ("shape_mismatch", "the image (120, 192) and the right one (120, 190) differ")
