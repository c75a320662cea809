"""Walks, and pairs and video as a reader finds them: cameras and poses take depth and colours to other views."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from depthflow.datasets.frame_table import frames_of
from depthflow.datasets.layouts import find_frames, recognised
from depthflow.datasets.listing import list_tree
from depthflow.synthetic.raycast import Solid
from depthflow.synthetic.scenes import Thing
from depthflow.synthetic.synthesize import Scan, build_scene, synthesize
from depthflow.synthetic.textures import texture
from depthflow.synthetic.walks import Mover, walk

ARGUMENTS = {"scans": 4, "samples_per_scan": 4, "height": 64, "width": 128, "seed": 5}


def tree_of(folder, **changes):
    assert synthesize(out=folder, **{**ARGUMENTS, **changes}) == 16
    return folder


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    return tree_of(tmp_path_factory.mktemp("stereo") / "tree", kind="stereo", baseline_m=0.25)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return tree_of(tmp_path_factory.mktemp("video") / "tree", kind="video")


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    return tree_of(tmp_path_factory.mktemp("moving") / "tree", kind="video", moving_objects=3)


def frames_in(tree):
    listing = list_tree(str(tree))
    assert recognised(listing) == "table"
    found = find_frames(listing, "table", ("train", "val"))
    assert set(found["reason"].to_pylist()) == {""}
    return frames_of(found)


def image(frame, member="rgb"):
    return cv2.imread(frame.members[member]).astype(np.float32) / 255


def depth(frame):
    """Metres, NaN where invalid."""
    return np.where(np.load(frame.members["mask"]) > 0, np.load(frame.members["depth"]), np.nan)


def seen_from(frame, to_view):
    """Where the pixels of a frame are in another view, (H, W) each: column, row and depth; NaN outside it."""
    camera = frame.camera
    x, y, z = np.moveaxis(camera.unproject(depth(frame)) @ to_view[:3, :3].T + to_view[:3, 3], -1, 0)
    column, row = x / z * camera.fx_px + camera.cx_px, y / z * camera.fy_px + camera.cy_px
    inside = (z > 0) & (column > 1) & (column < camera.width - 1) & (row > 1) & (row < camera.height - 1)
    return np.where(inside, [column, row, z], np.nan)


def sampled(picture, column, row):
    return cv2.remap(picture, np.float32(column - 0.5), np.float32(row - 0.5), cv2.INTER_LINEAR)


def error_ratio(frame, other, to_view):
    """Mean absolute difference to the other image, warped to the frame, relative to that without warping."""
    column, row, _ = seen_from(frame, to_view)
    inside = np.isfinite(column)
    assert inside.mean() > 0.4
    difference = np.abs(sampled(other, column, row) - image(frame))[inside].mean()
    return difference / np.abs(other - image(frame))[inside].mean()


def step_of(first, second):
    """4 x 4, takes points of the first frame's camera to the second's."""
    return np.linalg.inv(np.reshape(second.pose, (4, 4))) @ np.reshape(first.pose, (4, 4))


def steps(frames):
    """(first, second) of all frames that follow each other in a walk."""
    return [pair for pair in itertools.pairwise(frames) if pair[0].scan == pair[1].scan]


@pytest.mark.parametrize("kind", ["stereo", "video"])
def test_the_table_says_what_the_frames_are(kind, request):
    frames = frames_in(request.getfixturevalue(kind))
    assert len({frame.sample_id for frame in frames}) == 16
    assert {(frame.split, frame.scene_type, frame.scene) for frame in frames} == {
        ("train", "indoors", "synthetic/scene_00000"),
        ("train", "outdoor", "synthetic/scene_00001"),
        ("val", "indoors", "synthetic/scene_00002"),
        ("val", "outdoor", "synthetic/scene_00003"),
    }
    camera = frames[0].camera
    assert (camera.width, camera.height, camera.cx_px, camera.cy_px) == (128, 64, 64.0, 32.0)
    assert (camera.fx_px, camera.fy_px) == pytest.approx((886.81 / 8, 927.06 / 12))
    assert {frame.baseline_m for frame in frames} == ({0.25} if kind == "stereo" else {None})
    assert [frame.time_s for frame in frames[:4]] == ([None] * 4 if kind == "stereo" else [0.0, 0.2, 0.4, 0.6])
    for frame in frames:
        rotation = np.reshape(frame.pose, (4, 4))[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12) and np.linalg.det(rotation) > 0
        assert rotation[2, 1] < -0.9  # The y axis of a camera that is held upright points down.
        assert image(frame).shape == (64, 128, 3) and depth(frame).shape == (64, 128)


def test_left_images_of_pairs_have_the_depth_of_single_images(stereo, tmp_path):
    single = tree_of(tmp_path / "single")
    for number, frame in enumerate(frames_in(stereo)):
        scan, view = divmod(number, 4)
        stem = next(single.glob(f"*/*/*/scan_{scan:05d}/*_{view * 10:03d}_000.png")).with_suffix("")
        mask = np.load(f"{stem}_depth_mask.npy") > 0
        assert np.array_equal(
            depth(frame), np.where(mask, np.load(f"{stem}_depth.npy")[..., 0], np.nan), equal_nan=True
        )


def test_disparity_takes_the_right_image_to_the_left(stereo):
    ratios = []
    for frame in frames_in(stereo):
        to_right = np.eye(4)
        to_right[0, 3] = -frame.baseline_m
        column, row, z = seen_from(frame, to_right)
        disparity = np.arange(128) + 0.5 - column
        assert np.nanmax(np.abs(disparity - frame.camera.fx_px * 0.25 / z)) < 1e-3
        assert np.nanmax(np.abs(row - np.arange(64)[:, None] - 0.5)) < 1e-3
        ratios.append(error_ratio(frame, image(frame, "right"), to_right))
        away = error_ratio(frame, image(frame, "right"), np.linalg.inv(to_right))
        assert away > ratios[-1], "the right camera is on the right"
    assert np.median(ratios) < 0.5


def test_both_images_of_a_pair_have_one_exposure_and_noise_of_their_own(stereo):
    for frame in frames_in(stereo):
        left, right = image(frame), image(frame, "right")
        column, row, _ = seen_from(frame, np.array([[1, 0, 0, -0.25], *np.eye(4)[1:]]))
        difference = (sampled(right, column, row) - left)[np.isfinite(column)]
        assert abs(np.median(difference)) < 0.01
        assert np.std(difference) > 0.003


def test_poses_take_depth_to_the_next_frames_depth(video):
    for first, second in steps(frames_in(video)):
        column, row, z = seen_from(first, step_of(first, second))
        ratio = z * sampled(1 / depth(second), column, row)  # On a plane, 1 / depth is linear in the image.
        ratio = ratio[np.isfinite(ratio)]
        assert ratio.size > 0.3 * z.size
        assert np.median(np.abs(ratio - 1)) < 1e-3
        assert (ratio < 0.99).mean() < 0.05, "only beside an edge is something farther there"
        assert (ratio > 1.01).mean() < 0.2, "something nearer hides it"


def test_poses_take_the_next_image_to_the_frame(video):
    ratios = [error_ratio(first, image(second), step_of(first, second)) for first, second in steps(frames_in(video))]
    assert np.median(ratios) < 0.5
    assert max(ratios) < 0.9


def test_frames_move_far_enough_to_learn_from(video):
    for first, second in steps(frames_in(video)):
        step = step_of(first, second)
        least_m, most_m = (0.12, 0.35) if first.scene_type == "indoors" else (0.45, 1.5)
        assert least_m < np.linalg.norm(step[:3, 3]) < most_m
        assert np.degrees(np.arccos((np.trace(step[:3, :3]) - 1) / 2)) < 4
        column, row, _ = seen_from(first, step)
        flow_px = np.hypot(column - np.arange(128) - 0.5, row - np.arange(64)[:, None] - 0.5)
        assert 0.5 < np.nanmedian(flow_px) < 20


def test_things_move_and_the_camera_does_not_care(video, moving):
    nearer = []
    for still, frame in zip(frames_in(video), frames_in(moving), strict=True):
        assert frame.pose == still.pose
        both = depth(frame) - depth(still)
        assert not (both > 1e-4).any(), "nothing is behind what was there"
        nearer.append((both < -0.1).mean())
    assert np.mean(nearer) > 0.03


def test_the_exposure_of_a_walk_is_smooth(video):
    for first, second in steps(frames_in(video)):
        column, row, _ = seen_from(first, step_of(first, second))
        change = (sampled(image(second), column, row) - image(first))[np.isfinite(column)]
        assert abs(np.median(change)) < 0.02


def test_walks_depend_on_the_seed_and_their_scan_alone(video, tmp_path):
    again = tree_of(tmp_path / "again", kind="video")
    assert {path.name for path in again.iterdir()} == {"frames.csv", *(f"scan_{number:05d}" for number in range(4))}
    files = [path.relative_to(again) for path in again.rglob("*") if path.is_file()]
    assert len(files) == 3 * 16 + 1
    assert all((again / file).read_bytes() == (video / file).read_bytes() for file in files)
    synthesize(out=tmp_path / "more", **{**ARGUMENTS, "scans": 5}, kind="video")
    for file in files:
        if file.name != "frames.csv":
            assert (tmp_path / "more" / file).read_bytes() == (video / file).read_bytes()


# --- the walk itself ---


def walked(scene_type: str, *, seed: int, frames: int = 24, moving_objects: int = 0):
    scene = build_scene(Scan(split="train", scene_type=scene_type, scene=0, scan=0), seed=seed)
    rngs = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    return scene, walk(scene, frames=frames, moving_objects=moving_objects, rngs=rngs)


@pytest.mark.parametrize("scene_type", ["indoors", "outdoor"])
@pytest.mark.parametrize("seed", range(3))
def test_the_camera_passes_by_everything(scene_type, seed):
    scene, (poses, _) = walked(scene_type, seed=seed, frames=40)
    at_m = np.array([pose.origin_m for pose in poses])
    way_m = np.concatenate([np.linspace(a, b, 20) for a, b in itertools.pairwise(at_m)]).T
    for thing in scene.things:
        beyond = (np.abs(thing.solid.local(way_m)) - 1.0) * np.asarray(thing.solid.half_m)[:, None]
        gap_m = -beyond.max(axis=0) if thing.solid.inward else beyond.max(axis=0)
        assert gap_m.min() > 0.35


@pytest.mark.parametrize("scene_type", ["indoors", "outdoor"])
def test_the_camera_goes_forward_at_first(scene_type):
    forward = []
    for seed in range(6):
        _, (poses, _) = walked(scene_type, seed=seed, frames=12)
        along = np.diff([pose.origin_m for pose in poses], axis=0)
        forward.append(all(step @ pose.rotation[:, 2] > 0 for step, pose in zip(along, poses, strict=False)))
    assert sum(forward) >= 5  # A room may be too narrow.


@pytest.mark.parametrize("scene_type", ["indoors", "outdoor"])
def test_every_other_thing_stays_ahead_of_the_camera(scene_type):
    least_m = 1.0 if scene_type == "indoors" else 2.8
    for seed in range(3):
        scene, (poses, movers) = walked(scene_type, seed=seed, moving_objects=4)
        camera_m = np.array([pose.origin_m[:2] for pose in poses])
        forward = np.array([pose.rotation[:2, 2] / np.linalg.norm(pose.rotation[:2, 2]) for pose in poses])
        for number, mover in enumerate(movers):
            away_m = mover.places_m - camera_m
            apart_m = np.linalg.norm(away_m, axis=1)
            assert apart_m.min() >= least_m
            along_m = (away_m * forward).sum(axis=1)
            assert np.allclose([apart_m, along_m], [[apart_m[0]], [along_m[0]]]) == (number % 2 == 0)
            assert number % 2 or along_m[0] > 0.9 * apart_m[0]
            assert (np.linalg.norm(np.diff(mover.places_m, axis=0), axis=1) > 0).any()
        there = walked(scene_type, seed=seed, moving_objects=4)[1].scene_at(scene, 5).things
        assert len(there) == len(scene.things) + sum(len(mover.things) for mover in movers)


def test_a_thing_turns_and_moves_with_its_heading():
    skin = texture(np.full((256, 256, 3), 0.5), (1.0, 1.0))
    ahead = Thing(solid=Solid(shape="box", centre_m=(0.0, 1.0, 0.5), half_m=(0.1, 0.2, 0.5)), side=skin, top=skin)
    mover = Mover((ahead,), np.array([[0.0, 0.0], [10.0, 20.0]]), np.array([0.0, np.pi / 2]))
    still, moved = mover.at(0)[0].solid, mover.at(1)[0].solid
    assert (still.centre_m, still.yaw_rad) == ((0.0, 1.0, 0.5), 0.0)
    assert moved.centre_m == pytest.approx((11.0, 20.0, 0.5))  # It heads east.
    tip = moved.local(np.array([[11.2], [20.0], [0.5]]))  # Its north side, 0.2 m from its centre, is east now.
    assert tip[:, 0] == pytest.approx([0.0, 1.0, 0.0], abs=1e-9)


def test_a_scene_without_room_is_refused():
    scene, _ = walked("indoors", seed=0)
    corner = dataclasses.replace(scene, stand_m=((0.0, 0.1), (0.0, 0.1), (1.2, 1.8)))
    with pytest.raises(RuntimeError, match=r"no room for a walk. Received: stand_m=\(\(0.0, 0.1\)"):
        walk(corner, frames=4, moving_objects=0, rngs=(np.random.default_rng(0), np.random.default_rng(1)))
