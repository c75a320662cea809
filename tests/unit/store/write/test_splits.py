"""Which frames go to train and which to val: pure functions, so tested on many plans."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.frames import Frame
from depthflow.errors import SourceError
from depthflow.store.write.plan import PlannedSample, planned_samples
from depthflow.store.write.splits import split_by_scene
from tests.plans import packed

seeds = st.integers(0, 2**31)


def planned(scene, scan, number, *, split="train", scene_type="indoors", reason=""):
    sample_id = f"{scene:05d}_{scan:05d}_{scene_type}_{number:03d}_000"
    frame = Frame(
        sample_id=sample_id,
        split=split,
        scene_type=scene_type,
        scene=f"scene_{scene:05d}",
        scan=f"scan_{scan:05d}",
        members={member: f"/data/{sample_id}.{member}" for member in ("rgb", "depth")},
        reason=reason,
    )
    return PlannedSample(frame=frame, source="/data")


def samples_of(scans, **kwargs):
    """Samples of {(scene, scan): count}."""
    return [planned(scene, scan, i, **kwargs) for (scene, scan), count in scans.items() for i in range(count)]


def resplit(samples, **kwargs):
    return planned_samples(split_by_scene(packed(samples), **kwargs))


def groups_of(samples, *names):
    """Split to the set of those attributes of its samples."""
    return {
        split: {tuple(getattr(s.frame, name) for name in names) for s in samples if s.frame.split == split}
        for split in ("train", "val")
    }


many_scenes = st.dictionaries(
    st.tuples(st.integers(1, 12), st.integers(1, 3)), st.integers(1, 30), min_size=2, max_size=15
).filter(lambda scans: len({scene for scene, _ in scans}) > 1)


@settings(deadline=None, max_examples=100)
@given(indoors=many_scenes, outdoor=many_scenes, val_fraction=st.floats(0.01, 0.99), seed=seeds)
def test_resplit_is_by_scene_for_each_type(indoors, outdoor, val_fraction, seed):
    samples = samples_of(indoors, split="val") + samples_of(
        {(scene + 50, scan): n for (scene, scan), n in outdoor.items()}, split="val", scene_type="outdoor"
    )
    got = resplit(samples, val_fraction=val_fraction, seed=seed)

    assert Counter(s.frame.sample_id for s in got) == Counter(s.frame.sample_id for s in samples)
    splits = groups_of(got, "scene_type", "scene")
    assert not splits["train"] & splits["val"]
    for scene_type in ("indoors", "outdoor"):
        members = [s for s in got if s.frame.scene_type == scene_type]
        sizes = Counter(s.frame.scene for s in members)
        in_val = sum(s.frame.split == "val" for s in members)
        assert 0 < in_val < len(members)
        assert abs(in_val - val_fraction * len(members)) <= max(sizes.values())
    assert got == resplit(samples, val_fraction=val_fraction, seed=seed)
    # Nothing but the split is changed.
    unchanged = [replace(s, frame=replace(s.frame, split="val")) for s in got]
    assert sorted(unchanged, key=sample_id_of) == sorted(samples, key=sample_id_of)


def sample_id_of(sample):
    return sample.frame.sample_id


@pytest.mark.parametrize(
    ("scenes", "fraction", "wanted"),
    [(10, 0.2, 2), (10, 0.5, 5), (10, 0.24, 2), (10, 0.01, 1), (10, 0.99, 9), (2, 0.2, 1), (3, 0.9, 2), (100, 0.2, 20)],
)
def test_with_equal_scenes_the_fraction_is_met(scenes, fraction, wanted):
    samples = samples_of({(scene, 1): 7 for scene in range(scenes)})
    for seed in range(5):
        got = resplit(samples, val_fraction=fraction, seed=seed)
        assert len(groups_of(got, "scene")["val"]) == wanted


def test_one_large_scene_does_not_take_the_fraction_with_it():
    samples = samples_of({(1, 1): 100, **{(scene, 1): 5 for scene in range(2, 12)}})
    for seed in range(20):
        got = resplit(samples, val_fraction=0.2, seed=seed)
        assert 25 <= sum(s.frame.split == "val" for s in got) <= 35


def test_resplit_is_by_scan_if_a_type_has_one_scene():
    samples = samples_of({(1, scan): 10 for scan in range(1, 6)}) + samples_of(
        {(2, 1): 10, (3, 1): 10}, scene_type="outdoor"
    )
    got = resplit(samples, val_fraction=0.2, seed=3)
    indoors = groups_of([s for s in got if s.frame.scene_type == "indoors"], "scan")
    assert not indoors["train"] & indoors["val"]
    assert (len(indoors["train"]), len(indoors["val"])) == (4, 1)
    outdoor = groups_of([s for s in got if s.frame.scene_type == "outdoor"], "scene")
    assert (len(outdoor["train"]), len(outdoor["val"])) == (1, 1)


def test_scenes_with_one_scan_number_are_still_divided_by_scene():
    got = resplit(samples_of({(1, 7): 5, (2, 7): 5, (2, 8): 5}), val_fraction=0.5, seed=0)
    splits = groups_of(got, "scene")
    assert not splits["train"] & splits["val"]


def test_resplit_depends_on_the_seed():
    samples = samples_of({(scene, 1): 3 for scene in range(20)})
    chosen = {frozenset(groups_of(resplit(samples, val_fraction=0.2, seed=seed), "scene")["val"]) for seed in range(10)}
    assert len(chosen) > 5


def test_resplit_is_sorted_by_split_and_id():
    got = resplit(samples_of({(scene, 1): 3 for scene in (3, 1, 2)}), val_fraction=0.3, seed=0)
    keys = [(s.frame.split, s.frame.sample_id) for s in got]
    assert keys == sorted(keys)


def test_a_single_scan_cannot_be_divided():
    with pytest.raises(SourceError, match=r"--resplit leaves val empty.*single scan"):
        resplit(samples_of({(1, 1): 50}), val_fraction=0.5, seed=0)


def test_a_split_of_rejects_alone_is_empty():
    samples = samples_of({(1, 1): 9}) + samples_of({(2, 1): 1}, reason="missing_member")
    try:
        got = resplit(samples, val_fraction=0.1, seed=0)
    except SourceError:
        return
    assert {s.frame.split for s in got if not s.frame.reason} == {"train", "val"}
