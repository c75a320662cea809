"""Blocks of time: none of val within the gap of train, nothing dropped, short scans whole."""

import contextlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.frames import Frame
from depthflow.errors import SourceError
from depthflow.store.write.plan import PlannedSample, planned_samples
from depthflow.store.write.splits import split_by_time
from tests.plans import packed

SCENES = [f"tum/room_{n}" for n in range(12)]


def planned(scene, scan, name, time_s, *, split="train", reason=""):
    frame = Frame(
        sample_id=f"{scene}/{scan}/{name}",
        split=split,
        scene_type="indoors",
        scene=scene,
        scan=scan,
        members={member: f"/data/{scan}/{name}.{member}" for member in ("rgb", "depth")},
        dataset="tum",
        time_s=time_s,
        reason=reason,
    )
    return PlannedSample(frame=frame, source="/data")


def divide(samples, *, val_fraction=0.2, gap_s=1.0, seed=0):
    rows = split_by_time(packed(samples), val_fraction=val_fraction, gap_s=gap_s, seed=seed)
    return [sample.frame for sample in planned_samples(rows)]


def scan_of(count, *, scene="tum/room_0", scan="a", hz=10):
    """Frames in no order of time, of ids that do not sort by it."""
    return [planned(scene, scan, f"{n * 7919 % count}-{n}", n / hz) for n in range(count)]


def placed(frames):
    """Split or reason of rejection to the sorted times."""
    found = defaultdict(list)
    for frame in frames:
        found[frame.reason or frame.split].append(frame.time_s)
    return {name: sorted(times) for name, times in found.items()}


def tenths(start, end):
    return [n / 10 for n in range(start, end)]


def test_by_hand_val_is_the_end_or_the_beginning():
    """100 frames of 10 s: 2 s of val, the gap of 1 s, 7 s of train. The frame 1 s from val is train's."""
    ends = {"val": tenths(80, 100), "split_gap": tenths(71, 80), "train": tenths(0, 71)}
    begins = {"val": tenths(0, 20), "split_gap": tenths(20, 29), "train": tenths(29, 100)}
    found = [placed(divide(scan_of(100), seed=seed)) for seed in range(12)]
    assert all(one in (ends, begins) for one in found)
    assert ends in found and begins in found


def test_the_draw_is_by_scene_so_that_cameras_recorded_together_are_cut_together():
    """Left and right camera of one drive see the same."""
    samples = [s for scene in SCENES for scan in "ab" for s in scan_of(60, scene=scene, scan=scan)]
    frames = divide(samples, seed=3)
    first_in_val = {(f.scene, f.scan): False for f in frames}
    first_in_val |= {(f.scene, f.scan): True for f in frames if f.split == "val" and f.time_s == 0}
    assert all(first_in_val[scene, "a"] == first_in_val[scene, "b"] for scene in SCENES)
    assert set(first_in_val.values()) == {True, False}
    assert frames == divide(samples[::-1], seed=3)


def test_a_gap_is_said_with_the_flag():
    (frame, *_) = [f for f in divide(scan_of(50), gap_s=0.25) if f.reason]
    assert (frame.reason, frame.split) == ("split_gap", "train")
    assert frame.problem == "less than 0.25 s (--gap-s) before or after the frames of val in its scan"


def test_both_splits_of_the_source_are_divided_together():
    samples = [planned("tum/x", "a", f"{n:02d}", n / 10, split="val" if n % 2 else "train") for n in range(100)]
    assert Counter(f.reason or f.split for f in divide(samples)) == {"val": 20, "split_gap": 9, "train": 71}


@pytest.mark.parametrize("time_s", [None, float("nan")])
def test_without_times_ids_are_in_order_at_30_hz_and_it_is_said(time_s, capsys):
    """frame-9 is before frame-10; one frame without a time makes the whole scan so."""
    samples = [planned("tum/x", "a", f"frame-{n}", n * 60.0 if n else time_s) for n in range(200)]
    frames = divide(samples, val_fraction=0.25, gap_s=0.5)
    numbers = defaultdict(list)
    for frame in frames:
        numbers[frame.reason or frame.split].append(int(frame.sample_id.rpartition("-")[2]))
    ends = {"val": [*range(150, 200)], "split_gap": [*range(136, 150)], "train": [*range(136)]}
    begins = {"val": [*range(50)], "split_gap": [*range(50, 64)], "train": [*range(64, 200)]}
    assert {name: sorted(of_name) for name, of_name in numbers.items()} in (ends, begins)
    told = capsys.readouterr().err
    assert told.startswith("1 of 1 scans, such as indoors/tum/x/a, have frames without a time: ")
    assert "30 per second" in told
    divide(scan_of(100))
    assert capsys.readouterr().err == ""


def test_frames_of_one_time_stay_together():
    samples = [planned("tum/x", "a", f"{n:03d}", float(n // 8)) for n in range(80)]
    for gap_s in (0.0, 1.0):
        times = placed(divide(samples, val_fraction=0.25, gap_s=gap_s))
        assert not set(times["val"]) & set(times["train"])
        assert "split_gap" not in times
        assert len(times["val"]) == 24, "a third time belongs to val in part, so all of it does"


def test_short_scans_belong_to_train_whole():
    samples = [
        *scan_of(100, scan="long"),
        *scan_of(10, scan="short"),
        *scan_of(1, scan="one"),
        *[planned("tum/room_0", "still", f"{n}", 5.0) for n in range(30)],
    ]
    frames = divide(samples)
    assert Counter((f.scan, f.reason or f.split) for f in frames) == {
        ("long", "train"): 71,
        ("long", "split_gap"): 9,
        ("long", "val"): 20,
        ("short", "train"): 10,
        ("one", "train"): 1,
        ("still", "train"): 30,
    }


def test_rejects_keep_their_reason_and_count_for_nothing():
    broken = [planned("tum/room_0", "a", f"broken-{n}", t, reason="r") for n, t in enumerate([None, 0.05, 5.05, 9.95])]
    frames = divide(scan_of(100) + broken)
    assert Counter(f.reason or f.split for f in frames) == {"val": 20, "split_gap": 9, "train": 71, "r": 4}


@pytest.mark.parametrize(("count", "gap_s"), [(1, 0.0), (2, 0.5), (100, 60.0)])
def test_a_split_that_stays_empty_fails(count, gap_s):
    with pytest.raises(SourceError, match=r"--resplit time leaves val empty: each of 1 scans.*Reduce --gap-s"):
        divide(scan_of(count), gap_s=gap_s)


frame_times = st.lists(st.integers(0, 60).map(lambda n: n / 8), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(
    scans=st.lists(frame_times, min_size=1, max_size=4),
    is_broken=st.lists(st.booleans(), min_size=160, max_size=160),
    val_fraction=st.floats(0.01, 0.99),
    gap_s=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_no_frame_of_val_is_within_the_gap_of_train(scans, is_broken, val_fraction, gap_s, seed):
    samples = [scan_of(80, scan="long")] if seed % 2 else []
    for n, times in enumerate(scans):
        scene = SCENES[n // 2]
        samples.append([planned(scene, f"s{n}", f"{k * 7 % 40}_{k}", time_s) for k, time_s in enumerate(times)])
    flat = [s for scan in samples for s in scan]
    flat = [
        planned(s.frame.scene, s.frame.scan, s.frame.sample_id, s.frame.time_s, reason="r" if broken and k % 3 else "")
        for k, (s, broken) in enumerate(zip(flat, is_broken * 2, strict=False))
    ]
    with contextlib.suppress(SourceError):  # A split may stay empty: then there is nothing to compare.
        frames = divide(flat, val_fraction=val_fraction, gap_s=gap_s, seed=seed)
        require_blocks(flat, frames, gap_s)


def require_blocks(samples, frames, gap_s):
    """Every sample is there once, and each scan is as it should be."""
    assert Counter(f.sample_id for f in frames) == Counter(s.frame.sample_id for s in samples)
    assert {f.sample_id for f in frames if f.reason == "r"} == {s.frame.sample_id for s in samples if s.frame.reason}
    for scan in {(f.scene, f.scan) for f in frames}:
        times = placed([f for f in frames if (f.scene, f.scan) == scan])
        train, val = np.array(times.get("train", [])), np.array(times.get("val", []))
        assert len(val) == 0 or len(train) > 0
        if len(val):
            apart = np.abs(train[:, None] - val[None, :]).min()
            assert apart >= gap_s and apart > 0
            assert all(np.abs(val - time_s).min() < gap_s for time_s in times.get("split_gap", []))
        else:
            assert "split_gap" not in times
