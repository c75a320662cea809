"""Mini-DIODE: the layout, the determinism, the mask, and that its depth is exact."""

import dataclasses
import hashlib
import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from depthflow.datasets.camera import DIODE_CAMERA
from depthflow.synthetic.raycast import Solid, cast, lit, look, pixel_rays, span, surface
from depthflow.synthetic.scenes import Thing
from depthflow.synthetic.synthesize import Scan, build_scene, plan, synthesize
from depthflow.synthetic.textures import sample, texture
from depthflow.synthetic.views import AutoExposure, garbage, measured, render, see, shade, standpoint

ARGUMENTS = {"scans": 4, "samples_per_scan": 2, "height": 48, "width": 64, "seed": 7}
STEM = re.compile(
    r"(train|val)/(indoors|outdoor)/scene_(\d{5})/scan_(\d{5})/\3_\4_\2_(\d{3})_000(\.png|_depth\.npy|_depth_mask\.npy)"
)
RANGE_M = {"indoors": (0.6, 12.0), "outdoor": (0.6, 200.0)}
BOX = Solid(shape="box", centre_m=(0.0, 0.0, 0.0), half_m=(1.0, 2.0, 3.0))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("mini") / "diode"
    assert synthesize(out=out, **ARGUMENTS) == 8
    return out


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def views(root: Path):
    """(scene_type, rgb, depth (H, W, 1), mask) of every sample."""
    for image in sorted(root.rglob("*.png")):
        stem = str(image).removesuffix(".png")
        rgb = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        yield image.parts[-4], rgb, np.load(f"{stem}_depth.npy"), np.load(f"{stem}_depth_mask.npy")


def one_view(scene_type: str, *, view: int = 0, height: int = 48, width: int = 64, seed: int = 3):
    scan = Scan(split="train", scene_type=scene_type, scene=0, scan=0)
    scene, camera = build_scene(scan, seed=seed), DIODE_CAMERA.resized(height=height, width=width)
    return scene, camera, render(scene=scene, camera=camera, rng=np.random.default_rng([seed, view]))


# --- the tree ---


def test_layout_has_three_files_a_sample_and_the_camera(tree):
    names = set(digests(tree))
    assert "camera.json" in names
    matches = [STEM.fullmatch(name) for name in names - {"camera.json"}]
    assert all(matches), names
    assert len(matches) == 8 * 3
    assert {match[5] for match in matches} == {"000", "010"}
    assert {(match[1], match[2]) for match in matches} == set(
        itertools.product(("train", "val"), ("indoors", "outdoor"))
    )


def test_files_have_the_dtypes_and_shapes_of_diode(tree):
    for _, rgb, depth_m, mask in views(tree):
        assert (rgb.dtype, rgb.shape) == (np.uint8, (48, 64, 3))
        assert (depth_m.dtype, depth_m.shape) == (np.float32, (48, 64, 1))
        assert (mask.dtype, mask.shape) == (np.float32, (48, 64))
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert rgb.std() > 5


def test_camera_is_diodes_scaled(tree):
    assert json.loads((tree / "camera.json").read_text()) == pytest.approx(
        {"width": 64, "height": 48, "fx_px": 55.425625, "fy_px": 57.94125, "cx_px": 32.0, "cy_px": 24.0}
    )


def test_the_png_holds_the_rendered_colours_in_rgb_order(tree):
    _, rgb, _, _ = next(views(tree))
    scan = next(scan for scan in plan(scans=4, val_fraction=0.25) if scan.scan == 0)
    view = render(
        scene=build_scene(scan, seed=7),
        camera=DIODE_CAMERA.resized(height=48, width=64),
        rng=np.random.default_rng([7, 2, 0, 0, 0]),
    )
    assert np.array_equal(rgb, view.rgb)
    assert not np.array_equal(rgb, view.rgb[..., ::-1])


def test_same_seed_same_bytes_other_seed_other_pictures(tree, tmp_path):
    synthesize(out=tmp_path / "again", **ARGUMENTS)
    synthesize(out=tmp_path / "other", **{**ARGUMENTS, "seed": 8})
    first, again, other = digests(tree), digests(tmp_path / "again"), digests(tmp_path / "other")
    assert again == first
    assert not {first[name] for name in first if name != "camera.json"} & set(other.values())
    assert len(set(first.values())) == len(first), "two samples are the same"


def test_a_scan_does_not_depend_on_how_many_there_are(tree, tmp_path):
    synthesize(out=tmp_path / "more", **{**ARGUMENTS, "scans": 5, "samples_per_scan": 1})
    same = digests(tree).items() & digests(tmp_path / "more").items()
    assert sum(name.endswith(".png") for name, _ in same) == 3  # scene 2 moves from val to train


def test_mini_diode_is_what_it_has_always_been(tree):
    sums = [(int(rgb.sum()), int(mask.sum()), float(d[..., 0][mask == 1].sum())) for _, rgb, d, mask in views(tree)]
    colours, valid, depths_m = zip(*sums, strict=True)
    assert colours == pytest.approx(
        [1401993, 1258879, 1298606, 1232473, 1536913, 1537826, 1386773, 1416461], abs=2
    )  # Another processor may round a few values of 255 the other way.
    assert valid == (3067, 2888, 3065, 2518, 3063, 3063, 3040, 3068)
    assert depths_m == pytest.approx(
        [9637.08, 10948.33, 20771.74, 56880.86, 13605.1, 12480.8, 14558.79, 20048.87], abs=0.02
    )


def test_progress_counts_every_sample(tmp_path):
    calls = []
    arguments = {**ARGUMENTS, "scans": 2, "height": 16, "width": 16}
    synthesize(out=tmp_path / "diode", progress=lambda done, of: calls.append((done, of)), **arguments)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


# --- the plan ---


@pytest.mark.parametrize("scans", [2, 3, 4, 5, 8, 15, 16, 17, 40])
@pytest.mark.parametrize("val_fraction", [0.01, 0.25, 0.5, 0.99])
def test_splits_share_no_scene_and_neither_is_empty(scans, val_fraction):
    scans_of = {"train": [], "val": []}
    for scan in plan(scans=scans, val_fraction=val_fraction):
        scans_of[scan.split].append(scan)
    scenes = {split: {scan.scene for scan in found} for split, found in scans_of.items()}
    types = {split: {scan.scene_type for scan in found} for split, found in scans_of.items()}
    assert scenes["train"] and scenes["val"] and not scenes["train"] & scenes["val"]
    assert sorted(scan.scan for found in scans_of.values() for scan in found) == list(range(scans))
    if scans >= 4:
        assert types["train"] == types["val"] == {"indoors", "outdoor"}


def test_plan_alternates_types_and_pairs_scans_from_sixteen_on():
    few, many = plan(scans=4, val_fraction=0.25), plan(scans=16, val_fraction=0.25)
    assert [(scan.scene_type, scan.scene, scan.split) for scan in few] == [
        ("indoors", 0, "train"),
        ("outdoor", 1, "train"),
        ("indoors", 2, "val"),
        ("outdoor", 3, "val"),
    ]
    assert [scan.scene for scan in many] == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7]
    assert [scan.scene for scan in many if scan.split == "val"] == [6, 7, 6, 7]


def test_names_keep_three_digits():
    scan = Scan(split="val", scene_type="outdoor", scene=19, scan=183)
    assert str(scan.folder) == "val/outdoor/scene_00019/scan_00183"
    assert scan.stem(7) == "00019_00183_outdoor_070_000"
    assert scan.stem(123) == "00019_00183_outdoor_230_010"
    assert len({scan.stem(view) for view in range(10_000)}) == 10_000


# --- depth and mask ---


def test_valid_depth_is_finite_and_in_range(tree):
    for scene_type, _, depth_m, mask in views(tree):
        low, high = RANGE_M[scene_type]
        valid = depth_m[..., 0][mask == 1]
        assert valid.size >= 0.2 * mask.size
        assert np.isfinite(valid).all() and valid.min() >= low and valid.max() <= high


def test_depth_under_the_mask_is_garbage(tree):
    for wanted in ("indoors", "outdoor"):
        lost = np.concatenate([d[..., 0][m == 0] for kind, _, d, m in views(tree) if kind == wanted])
        assert lost.size > 0
        plausible = np.isfinite(lost) & (lost > 0) & (lost <= 200)
        assert not plausible.any()
    assert np.isnan(lost).any() and np.isposinf(lost).any() and np.isneginf(lost).any()
    assert (lost == 0).any() and (lost[np.isfinite(lost)] < 0).any() and (lost[np.isfinite(lost)] > 1e3).any()


def test_garbage_has_six_kinds_in_equal_parts():
    lost = garbage((60, 100), np.random.default_rng(0))
    counts = [
        np.isnan(lost),
        lost == np.inf,
        lost == -np.inf,
        lost == 0,
        lost < 0,
        np.isfinite(lost) & (lost > 0),
    ]
    shares = [count.mean() for count in counts]
    assert shares == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 3, 1 / 6], abs=0.03)  # -inf is negative, too


@pytest.mark.parametrize("scene_type", ["indoors", "outdoor"])
@pytest.mark.parametrize("seed", range(4))
def test_every_valid_pixel_lies_on_a_surface(scene_type, seed):
    scene, camera, view = one_view(scene_type, seed=seed)
    points_m = view.pose.origin_m[:, None] + pixel_rays(camera, view.pose)[:, view.valid_mask] * (
        view.depth_m[view.valid_mask].astype(np.float64)
    )
    nearest_m = np.full(points_m.shape[1], np.inf)
    for thing in scene.things:
        local = thing.solid.local(points_m)
        radius = np.hypot(local[0], local[1])
        beyond = {
            "box": np.abs(local).max(axis=0) - 1,
            "cylinder": np.maximum(radius, np.abs(local[2])) - 1,
            "ellipsoid": np.linalg.norm(local, axis=0) - 1,
        }[thing.solid.shape]
        nearest_m = np.minimum(nearest_m, np.abs(beyond) * max(thing.solid.half_m))
    assert nearest_m.max() < 1e-4 * (1 if scene_type == "indoors" else 10)
    if scene_type == "indoors":
        room = scene.things[0].solid
        assert (np.abs(room.local(points_m)) <= 1 + 1e-6).all()


@pytest.mark.parametrize("scene_type", ["indoors", "outdoor"])
def test_no_surface_is_seen_through_another(scene_type):
    scene, camera, view = one_view(scene_type)
    rays = pixel_rays(camera, view.pose)[:, view.valid_mask]
    for thing in scene.things:
        entry, leave = span(thing.solid, view.pose.origin_m, rays)
        met = leave if thing.solid.inward else entry
        in_front = (entry < leave) & (leave > 0) & (met < view.depth_m[view.valid_mask] - 1e-4)
        assert not in_front.any(), thing.solid


def test_a_picture_of_another_size_sees_the_same():
    scene, small, view = one_view("indoors", height=24, width=32)
    large = DIODE_CAMERA.resized(height=72, width=96)
    solids = [thing.solid for thing in scene.things]
    depth_small, _ = cast(solids, small, view.pose)
    depth_large, _ = cast(solids, large, view.pose)
    assert np.allclose(depth_small, depth_large[1::3, 1::3], rtol=1e-9)  # the middle one of 3 x 3 pixels


def test_glass_the_sky_and_grazing_pixels_are_invalid():
    for seed in range(12):
        scene, camera, view = one_view("outdoor", seed=seed)
        solids = [thing.solid for thing in scene.things]
        _, which = cast(solids, camera, view.pose)
        assert not view.valid_mask[which < 0].any()
        ground = which == 0
        rays = pixel_rays(camera, view.pose)[:, ground]
        flat = np.abs(rays[2]) / np.linalg.norm(rays, axis=0) < 0.06
        assert not view.valid_mask[ground][flat].any()
        if (which < 0).any() and flat.any():
            break
    else:
        pytest.fail("no view had sky and grazing road")
    for seed in range(40):
        scene, camera, view = one_view("indoors", seed=seed)
        _, which = cast([thing.solid for thing in scene.things], camera, view.pose)
        glass = ~np.array([thing.returns for thing in scene.things])[which]
        assert not view.valid_mask[glass].any()
        if glass.any():
            return
    pytest.fail("no view had a window")


def test_what_the_laser_cannot_reach_is_invalid():
    scene, camera, view = one_view("outdoor")
    geometry = see(scene, camera, view.pose)
    seen_m = geometry.depth_m[measured(scene, geometry)]
    near_m, far_m = np.percentile(seen_m, [20, 80])
    shorter = dataclasses.replace(scene, near_m=near_m, far_m=far_m)
    kept_m = geometry.depth_m[measured(shorter, geometry)]
    assert near_m <= kept_m.min() and kept_m.max() <= far_m
    assert kept_m.size == pytest.approx(0.6 * seen_m.size, rel=0.02)


def test_standpoints_keep_the_least_distance():
    for scene_type, seed in itertools.product(("indoors", "outdoor"), range(3)):
        scene = build_scene(Scan(split="train", scene_type=scene_type, scene=0, scan=0), seed=seed)
        camera = DIODE_CAMERA.resized(height=24, width=32)
        pose = standpoint(scene, np.random.default_rng(seed))
        depth_m, _ = cast([thing.solid for thing in scene.things], camera, pose)
        assert depth_m.min() >= 0.6
        assert all(low <= at <= high for at, (low, high) in zip(pose.origin_m, scene.stand_m, strict=True))


# --- the ray caster, by hand ---


def test_centre_rays_measure_the_walls_of_an_empty_room():
    room = Solid(shape="box", centre_m=(2.0, 3.0, 1.25), half_m=(2.0, 3.0, 1.25), inward=True)
    camera = DIODE_CAMERA.resized(height=3, width=5)
    for yaw_rad, wall_m in ((0.0, 5.0), (np.pi / 2, 3.0), (np.pi, 1.0), (-np.pi / 2, 1.0)):
        depth_m, which = cast([room], camera, look(origin_m=(1.0, 1.0, 1.5), yaw_rad=yaw_rad, pitch_rad=0.0))
        assert depth_m[1, 2] == pytest.approx(wall_m, abs=1e-12)
        assert (which == 0).all()
    down, _ = cast([room], camera, look(origin_m=(1.0, 1.0, 1.5), yaw_rad=0.0, pitch_rad=-np.pi / 6))
    assert down[1, 2] == pytest.approx(3.0)  # 1.5 m high, 30 degrees down


def test_depth_is_along_the_axis_not_along_the_ray():
    wall = Solid(shape="box", centre_m=(0.0, 10.0, 0.0), half_m=(50.0, 1.0, 50.0))
    camera = DIODE_CAMERA.resized(height=48, width=64)
    depth_m, _ = cast([wall], camera, look(origin_m=(0.0, 0.0, 0.0), yaw_rad=0.0, pitch_rad=0.0))
    assert np.allclose(depth_m, 9.0, atol=1e-12)


def test_a_floor_pixel_has_the_depth_of_its_row():
    floor = Solid(shape="box", centre_m=(0.0, 0.0, -1.0), half_m=(99.0, 99.0, 1.0))
    camera = DIODE_CAMERA
    depth_m, which = cast([floor], camera, look(origin_m=(0.0, 0.0, 1.5), yaw_rad=0.3, pitch_rad=0.0))
    assert depth_m[600, 17] == pytest.approx(1.5 * 927.06 / (600.5 - 384.0))
    assert (which[:384] == -1).all() and np.isinf(depth_m[:384]).all()


@pytest.mark.parametrize(
    ("shape", "origin_m", "direction", "expected"),
    [
        ("box", (-5.0, 0.0, 0.0), (1.0, 0.0, 0.0), (4.0, 6.0)),
        ("box", (0.0, 0.0, 0.0), (0.0, 2.0, 0.0), (-1.0, 1.0)),
        ("box", (-5.0, 2.5, 0.0), (1.0, 0.0, 0.0), None),
        ("cylinder", (0.0, -8.0, 0.0), (0.0, 1.0, 0.0), (6.0, 10.0)),
        ("cylinder", (0.5, 0.0, 7.0), (0.0, 0.0, -1.0), (4.0, 10.0)),
        ("cylinder", (0.9, -8.0, 0.0), (0.0, 1.0, 0.0), (8.0 - 2 * 0.19**0.5, 8.0 + 2 * 0.19**0.5)),
        ("ellipsoid", (0.0, 0.0, 9.0), (0.0, 0.0, -1.0), (6.0, 12.0)),
        ("ellipsoid", (0.9, 1.9, 9.0), (0.0, 0.0, -1.0), None),
    ],
)
def test_spans_of_solids_of_half_size_1_2_3(shape, origin_m, direction, expected):
    solid = Solid(shape=shape, centre_m=(0.0, 0.0, 0.0), half_m=(1.0, 2.0, 3.0))
    entry, leave = span(solid, np.array(origin_m), np.array(direction)[:, None])
    if expected is None:
        assert entry[0] >= leave[0]
    else:
        assert (entry[0], leave[0]) == pytest.approx(expected)


def test_a_turned_box_is_met_at_its_edge():
    solid = Solid(shape="box", centre_m=(0.0, 0.0, 0.0), half_m=(1.0, 1.0, 1.0), yaw_rad=np.pi / 4)
    entry, _ = span(solid, np.array([-5.0, 0.0, 0.0]), np.array([[1.0], [0.0], [0.0]]))
    assert entry[0] == pytest.approx(5.0 - 2**0.5)


def test_normals_and_texture_coordinates_of_a_box():
    points_m = np.array([[1.0, -0.5, 0.25], [0.5, 2.0, -1.0], [-2.0, 1.0, 3.0]])
    normals, uv_m, level = surface(BOX, points_m)
    assert normals.T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert uv_m.T.tolist() == [[2.5, 1.0], [0.5, 4.0], [1.25, 1.0]]
    assert level.tolist() == [False, False, True]


def test_a_shadow_falls_behind_a_box_and_not_on_its_lit_face():
    points_m = np.array([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0], [-9.0, 3.0, 9.0, -9.0]])
    assert lit([BOX], np.array([0.0, 0.0, 20.0]), points_m).tolist() == [False, True, True, True]


def test_far_textures_fade_to_their_mean():
    tile = np.zeros((256, 256, 3))
    tile[::2] = 0.8  # rows 0.8 and 0 (clipped to 0.02)
    rows = texture(tile, (2.56, 2.56))
    uv_m = np.array([[0.005, 0.005], [0.005, 0.015]])
    near, far = sample(rows, uv_m, np.full(2, 0.001)), sample(rows, uv_m, np.full(2, 0.02))
    assert near[:, 0] == pytest.approx([0.8, 0.02], abs=0.02)
    assert far[:, 0] == pytest.approx([0.41, 0.41], abs=0.01)


# --- photographs ---


def painted(**colours):
    return {name: texture(np.full((256, 256, 3), colour), (1.0, 1.0)) for name, colour in colours.items()}


def test_glass_mirrors_what_is_behind_the_camera():
    grey, red = painted(side=0.5, top=0.5), painted(side=(0.9, 0.02, 0.02), top=0.5)
    room = Thing(solid=Solid(shape="box", centre_m=(2.0, 2.0, 1.5), half_m=(2.0, 2.0, 1.5), inward=True), **grey)
    pane = Thing(solid=Solid(shape="box", centre_m=(2.0, 3.98, 1.5), half_m=(0.5, 0.02, 0.5)), returns=False, **grey)
    back = Thing(solid=Solid(shape="box", centre_m=(2.0, 0.05, 1.5), half_m=(2.0, 0.05, 1.5)), **red)
    scene = dataclasses.replace(
        build_scene(Scan(split="train", scene_type="indoors", scene=0, scan=0), seed=0), things=(room, pane, back)
    )
    camera, pose = DIODE_CAMERA.resized(height=49, width=65), look(origin_m=(2.0, 2.0, 1.5), yaw_rad=0.0, pitch_rad=0.0)
    geometry = see(scene, camera, pose)
    plain, mirrored = (shade(scene, camera, pose, geometry, mirrors=mirrors) for mirrors in (False, True))
    assert np.ptp(plain[24, 32]) < 0.05 * plain[24, 32].mean()
    redness = mirrored[24, 32, 0] / mirrored[24, 32, 1]
    assert 1.2 < redness < 10
    pane_px = cv2.dilate((geometry.which == 1).astype(np.uint8), np.ones((3, 3))) > 0
    assert np.array_equal(plain[~pane_px], mirrored[~pane_px])


def test_a_mirror_shows_a_thing_where_the_law_of_reflection_says():
    """The camera is 2 m before the mirror, and a post 3 m and 1 m to the right: it shows in the mirror at 0.4 m."""
    grey, red = painted(side=0.5, top=0.5), painted(side=(0.9, 0.02, 0.02), top=(0.9, 0.02, 0.02))
    room = Thing(solid=Solid(shape="box", centre_m=(2.0, 2.0, 1.5), half_m=(2.0, 2.0, 1.5), inward=True), **grey)
    pane = Thing(solid=Solid(shape="box", centre_m=(2.0, 4.0, 1.5), half_m=(1.5, 1e-6, 1.0)), returns=False, **grey)
    post = Thing(solid=Solid(shape="cylinder", centre_m=(3.0, 1.0, 1.5), half_m=(0.1, 0.1, 1.5)), **red)
    scene = dataclasses.replace(
        build_scene(Scan(split="train", scene_type="indoors", scene=0, scan=0), seed=0), things=(room, pane, post)
    )
    camera, pose = (
        DIODE_CAMERA.resized(height=96, width=256),
        look(origin_m=(2.0, 2.0, 1.5), yaw_rad=0.0, pitch_rad=0.0),
    )
    light = shade(scene, camera, pose, see(scene, camera, pose), mirrors=True)
    row = light[48, :, 0] / light[48, :, 1]
    assert np.argwhere(row > 1.1).mean() + 0.5 == pytest.approx(128 + camera.fx_px * 0.4 / 2.0, abs=1)


def test_a_video_camera_takes_several_frames_to_get_used_to_the_light():
    expose = AutoExposure(0.25)
    gains = [expose(np.full((2, 2, 3), light, np.float32)) for light in (0.5, 1.0, 1.0)]
    assert gains == pytest.approx([0.5, 0.5 * 0.5**0.1, 0.5 * 0.5**0.19])


# --- errors ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scans": 1}, "scans must be at least 2.*Received: scans=1"),
        ({"samples_per_scan": 0}, "samples_per_scan must be 1 to 10000. Received: samples_per_scan=0"),
        ({"height": 15}, "at least 16 px. Received: height=15, width=64"),
        ({"width": 8}, "at least 16 px. Received: height=48, width=8"),
        ({"seed": -1}, "seed must be 0 or more. Received: seed=-1"),
        ({"val_fraction": 1.0}, "between 0 and 1, exclusive. Received: val_fraction=1.0"),
    ],
)
def test_refuses_bad_arguments_and_writes_nothing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        synthesize(out=tmp_path / "diode", **{**ARGUMENTS, **change})
    assert not (tmp_path / "diode").exists()


def test_refuses_a_folder_that_holds_anything(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"Received: {tmp_path}"):
        synthesize(out=tmp_path, **ARGUMENTS)
    with pytest.raises(FileExistsError, match=r"Received: .*precious\.txt"):
        synthesize(out=tmp_path / "precious.txt", **ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
