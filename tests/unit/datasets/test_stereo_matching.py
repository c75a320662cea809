"""Semi-global matching of pairs of known disparity, and which pairs are rectified."""

import itertools

import cv2
import numpy as np
import pytest

from depthflow.datasets.stereo_matching import disparity_by_matching, is_rectified
from tests.layout_trees import real
from tests.stereo_pairs import FAR_PX, HEIGHT, NEAR_PX, SPOILED, SQUARE, WIDTH, pair, seen_by_both, texture

REAL = {
    "Motorcycle": ("middlebury_2014/Motorcycle/im0.png", "middlebury_2014/Motorcycle/im1.png"),
    "cones": ("middlebury_2003/cones/im2.png", "middlebury_2003/cones/im6.png"),
    "KITTI": ("kitti_2015/image_2/000046_10.png", "kitti_2015/image_3/000046_10.png"),
}


def real_pair(shared, name):
    return [cv2.imread(str(real(shared, "stereo") / file))[..., ::-1].copy() for file in REAL[name]]


@pytest.mark.parametrize("doffs", [0, 7, -3])
def test_a_known_disparity_is_found(doffs):
    left, right, truth = pair(doffs=doffs)
    found = disparity_by_matching(left, right, doffs_px=doffs)
    assert (found.shape, found.dtype) == ((HEIGHT, WIDTH), np.float32)
    sure = seen_by_both(truth)
    assert np.isfinite(found[sure]).mean() > 0.99
    assert np.nanmax(np.abs(found[sure] - truth[sure])) < 0.5


def test_what_the_right_image_does_not_show_has_none():
    left, right, _ = pair()
    found = disparity_by_matching(left, right)
    rows, columns = SQUARE
    hidden = found[rows, columns.start - (NEAR_PX - FAR_PX) + 2 : columns.start - 3]  # Left of the square, behind it.
    assert np.isnan(hidden).mean() > 0.9
    assert np.isnan(found[:, : FAR_PX - 1]).all()


def test_nothing_beyond_the_range_is_found():
    left, right, truth = pair()
    found = disparity_by_matching(left, right, range_px=16)
    assert 0 <= np.nanmin(found) <= np.nanmax(found) < 16 < NEAR_PX
    assert np.isfinite(found[seen_by_both(truth) & (truth == FAR_PX)]).mean() > 0.95


def test_a_small_image_is_matched():
    left, right = (texture(0, 64)[:16, start : start + 32] for start in (0, 2))
    found = disparity_by_matching(left, right)
    assert np.nanmedian(found) == pytest.approx(2, abs=0.25)


def test_threads_change_nothing():
    left, right, _ = pair()
    threads, found = cv2.getNumThreads(), []
    for count in (1, 2, 5):
        cv2.setNumThreads(count)
        found.append(disparity_by_matching(left, right))
    cv2.setNumThreads(threads)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_images_of_two_sizes_are_no_pair():
    left, right, _ = pair()
    with pytest.raises(ValueError, match=r"one shape\. Received: .*\(120, 192, 3\) and \(120, 191, 3\)"):
        disparity_by_matching(left, right[:, 1:])


@pytest.mark.parametrize("doffs", [0, 7])
def test_a_rectified_pair_is_accepted(doffs):
    left, right, _ = pair(doffs=doffs)
    assert is_rectified(left, right, doffs_px=doffs) == ""
    if doffs:
        assert "swapped" in is_rectified(left, right)  # Its background has negative disparities.


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_pair_is_not(how):
    left, right, _ = pair()
    reason = is_rectified(*SPOILED[how](left, right))
    assert ("swapped" in reason) == (how in ("swapped", "mirrored"))
    assert "feature" in reason


def test_unrelated_images_are_no_pair():
    assert "do not show one scene" in is_rectified(texture(0, WIDTH), texture(1, WIDTH))


def test_images_without_features_are_not_judged():
    blank = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    assert is_rectified(blank, blank) == ""
    assert is_rectified(blank, texture(0, WIDTH)) == ""


@pytest.mark.parametrize("scale", [1, 0.5, 2])
@pytest.mark.parametrize("name", REAL)
def test_real_pairs_are_accepted_at_any_size(shared, name, scale):
    left, right = (cv2.resize(image, None, fx=scale, fy=scale) for image in real_pair(shared, name))
    assert is_rectified(left, right) == ""


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", REAL)
def test_spoiled_real_pairs_are_not(shared, name, how):
    left, right = real_pair(shared, name)
    assert "feature" in is_rectified(*SPOILED[how](left, right))


def test_unrelated_real_photos_are_not(shared):
    images = {name: real_pair(shared, name)[0] for name in REAL}
    for one, other in itertools.permutations(images, 2):
        assert is_rectified(images[one], images[other]) != ""
