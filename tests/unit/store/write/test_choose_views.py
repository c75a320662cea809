"""Which frames are a frame's neighbours, and which frames lack the views that their store needs."""

import dataclasses

import numpy as np
import pytest

from depthflow.datasets.camera import Camera
from depthflow.datasets.frames import DepthEncoding, Frame
from depthflow.store.write.choose_views import to_be_matched, with_neighbours, with_views
from depthflow.store.write.plan import PlannedSample, planned_samples
from tests.plans import packed

CAMERA = Camera(width=64, height=48, fx_px=50, fy_px=50, cx_px=32, cy_px=24)


def frame(name, **changes):
    members = {"rgb": f"{name}.png", "depth": f"{name}.npy"}
    defaults = {"split": "train", "scene_type": "indoors", "scene": "own/x", "scan": "a", "dataset": "own"}
    return Frame(**{**defaults, "sample_id": name, "members": members, "camera": CAMERA, **changes})


def members(*views):
    views = views or ("right", "previous", "next")
    return {"rgb": "a.png", "depth": "a.npy", **{view: f"{view}.png" for view in views}}


def pose(x_m):
    matrix = np.eye(4)
    matrix[0, 3] = x_m
    return tuple(matrix.ravel())


def planned(*frames, sources=()):
    sources = [*sources, *["tree"] * (len(frames) - len(sources))]
    return packed([PlannedSample(frame=one, source=source) for one, source in zip(frames, sources, strict=True)])


def neighbours(rows, frame_step=1):
    """Id to its neighbours' images."""
    found = with_neighbours(rows, frame_step).to_pylist()
    return {row["sample_id"]: (row["previous_image"], row["next_image"]) for row in found}


def refused(rows, kind, **changes):
    """Id to the reason."""
    found = with_views(rows, kind, **{"frame_step": 1, "min_motion_m": 0.005, **changes}).to_pylist()
    return {row["sample_id"]: row["reason"] for row in found if row["reason"]}


@pytest.mark.parametrize(
    ("frame_step", "wanted"),
    [
        (1, {"1": (None, b"2.png"), "2": (b"1.png", b"3.png"), "3": (b"2.png", b"4.png"), "4": (b"3.png", None)}),
        (2, {"1": (None, b"3.png"), "2": (None, b"4.png"), "3": (b"1.png", None), "4": (b"2.png", None)}),
        (4, dict.fromkeys("1234", (None, None))),
    ],
)
def test_neighbours_are_so_many_frames_away(frame_step, wanted):
    assert neighbours(planned(*map(frame, "3142")), frame_step) == wanted


def test_the_order_is_by_time():
    rows = planned(frame("a", time_s=3.0), frame("b", time_s=1.0), frame("c", time_s=2.0))
    assert neighbours(rows) == {"a": (b"c.png", None), "b": (None, b"c.png"), "c": (b"b.png", b"a.png")}


def test_a_scan_with_an_unknown_time_is_in_the_order_of_its_ids():
    rows = planned(frame("9", time_s=3.0), frame("10", time_s=1.0), frame("11"))
    assert neighbours(rows)["10"] == (b"9.png", b"11.png")


@pytest.mark.parametrize("change", [{"split": "val"}, {"scan": "b"}, {"scene": "own/y"}])
def test_neighbours_are_of_one_scan_and_split(change):
    rows = planned(frame("1"), frame("2", **change), frame("3"), frame("4", **change))
    assert neighbours(rows) == {
        "1": (None, b"3.png"),
        "2": (None, b"4.png"),
        "3": (b"1.png", None),
        "4": (b"2.png", None),
    }


def test_neighbours_are_of_one_source():
    assert neighbours(planned(frame("1"), frame("2"), sources=("a.tar", "b.tar"))) == {
        "1": (None, None),
        "2": (None, None),
    }


@pytest.mark.parametrize("change", [{"reason": "split_gap"}, {"members": {"depth": "2.npy"}, "reason": "x"}])
def test_a_reject_is_no_neighbour(change):
    found = neighbours(planned(frame("1"), frame("2", **change), frame("3")))
    assert (found["1"], found["3"]) == ((None, b"3.png"), (b"1.png", None))


def test_neighbours_have_their_own_pose_and_camera():
    zoomed = dataclasses.replace(CAMERA, fx_px=51.0)
    rows = planned(
        frame("1", pose=pose(1)), frame("2", pose=pose(2), camera=zoomed), frame("3", camera=zoomed), frame("4")
    )
    found = {row["sample_id"]: row for row in with_neighbours(rows, 1).to_pylist()}
    assert found["2"]["previous_pose"] == [*pose(1)]
    assert found["2"]["next_pose"] is None
    assert found["3"]["previous_pose"] == [*pose(2)]
    assert found["1"]["next_camera"] == [51, 50, 32, 24]
    assert found["2"]["previous_camera"] == [50, 50, 32, 24]
    assert found["2"]["next_camera"] is None
    assert found["1"]["previous_camera"] is None


def test_a_scan_that_names_neighbours_is_left_as_it_is():
    named = frame("2", members={"rgb": "2.png", "previous": "x.png", "next": "y.png"}, previous_pose=pose(7))
    others = [frame("5", scan="b"), frame("6", scan="b")]
    rows = planned(frame("1"), named, frame("3"), *others)
    assert neighbours(rows) == {
        "1": (None, None),
        "2": (b"x.png", b"y.png"),
        "3": (None, None),
        "5": (None, b"6.png"),
        "6": (b"5.png", None),
    }
    assert with_neighbours(rows, 1)["previous_pose"].to_pylist()[1] == [*pose(7)]


def test_an_empty_plan_has_no_neighbours():
    assert with_neighbours(planned(frame("1")).slice(0, 0), 1).num_rows == 0


def test_a_frame_of_video_needs_both_neighbours():
    assert refused(planned(*map(frame, "123")), "video") == {"1": "no_neighbour", "3": "no_neighbour"}


def test_a_reject_keeps_its_reason():
    rows = planned(frame("1", reason="duplicate"), frame("2"), frame("3"), frame("4"))
    assert refused(rows, "video") == {"1": "duplicate", "2": "no_neighbour", "4": "no_neighbour"}


@pytest.mark.parametrize(
    ("places_m", "is_moving"),
    [((0, 0.004, 0.008), False), ((0, 0.004, 0.0091), True), ((0.006, 0, 0), True), ((0, 0, None), True)],
)
def test_one_neighbour_must_be_far_enough(places_m, is_moving):
    rows = planned(*(frame(str(n), pose=None if x is None else pose(x)) for n, x in enumerate(places_m)))
    assert (refused(rows, "video").get("1") == "no_motion") is not is_moving
    assert "1" not in refused(rows, "video", min_motion_m=0.0)


def test_a_pair_needs_a_partner():
    pair = frame("1", members=members("right"))
    assert refused(planned(pair, frame("2")), "stereo") == {"2": "no_partner"}


@pytest.mark.parametrize("kind", ["stereo", "video"])
def test_views_need_a_camera(kind):
    rows = planned(frame("1", members=members()), frame("2", members=members(), camera=None))
    assert refused(rows, kind) == {"2": "no_camera"}


def test_a_frame_of_diode_may_have_its_camera_by_its_size():
    one = frame("1", members=members("right"), camera=None, dataset="diode")
    assert refused(planned(one), "stereo") == {}


def test_what_a_kind_does_not_need_is_left_out():
    rows = planned(
        frame("1", members=members(), baseline_m=1.0, right_cx_px=3.0, previous_pose=pose(1), next_camera=(1.0,) * 4)
    )
    names = ("right_image", "baseline_m", "right_cx_px", "previous_image", "previous_pose", "next_camera")

    def kept(kind, rows=rows):
        (row,) = with_views(rows, kind, frame_step=1, min_motion_m=0.0).to_pylist()
        return [name for name in names if row[name] is not None]

    assert kept("depth") == []
    assert kept("stereo") == ["right_image", "baseline_m", "right_cx_px"]
    assert kept("video") == ["previous_image", "previous_pose", "next_camera"]
    disparity = rows.set_column(rows.schema.get_field_index("depth_kind"), "depth_kind", [["disparity"]])
    assert kept("depth", disparity) == ["baseline_m", "right_cx_px"]


def test_pairs_to_be_matched_have_no_depth_files_and_need_a_baseline():
    coded = DepthEncoding(units_per_m=1000, invalid=(0, 9), packing="sun_rgbd", min_confidence=2)
    files = {**members("right"), "mask": "m.npy", "confidence": "c.png"}
    good = frame("good", members=files, encoding=coded, depth_camera=CAMERA, baseline_m=0.1, right_cx_px=33.0)
    rows = with_views(planned(good, frame("far", members=members("right")), frame("lone")), "stereo")
    found = {planned.frame.sample_id: planned.frame for planned in planned_samples(to_be_matched(rows))}
    wanted = {"members": {"rgb": "a.png", "right": "right.png"}, "encoding": DepthEncoding(kind="disparity")}
    assert found["good"] == dataclasses.replace(good, **wanted, depth_camera=None, required=found["good"].required)
    assert {name: one.reason for name, one in found.items()} == {"good": "", "far": "no_baseline", "lone": "no_partner"}
