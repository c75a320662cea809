"""Which sample goes into which shard and split: pure functions, so tested on many plans."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.frames import Frame
from depthflow.errors import SourceError
from depthflow.store.write.plan import (
    PlannedSample,
    ShardPlan,
    deal_to_shards,
    plan_samples,
    resplit,
    shard_count,
)
from depthflow.store.write.sources import Source
from depthflow.store.write.staging import StagedSample

WHOLE = ("rgb", "depth", "mask")


def triplet(scene=1, scan=1, number=0, *, split="train", scene_type="indoors", members=WHOLE, reason="", problem=""):
    sample_id = f"{scene:05d}_{scan:05d}_{scene_type}_{number:03d}_000"
    return Frame(
        sample_id=sample_id,
        split=split,
        scene_type=scene_type,
        scene=f"scene_{scene:05d}",
        scan=f"scan_{scan:05d}",
        members={member: f"/data/{sample_id}.{member}" for member in members},
        required=("rgb", "depth", "mask"),
        problem=problem,
        reason=reason,
    )


def planned(*args, source="/data", reject_reason="", **kwargs):
    return PlannedSample(frame=triplet(*args, **kwargs), source=source, reject_reason=reject_reason)


def samples_of(scans, **kwargs):
    """Samples of {(scene, scan): count}."""
    return [planned(scene, scan, i, **kwargs) for (scene, scan), count in scans.items() for i in range(count)]


def deal(samples, *, shard_samples=8, seed=0, settings="{}"):
    """Deals to shards of about so many samples."""
    return deal_to_shards(samples, sample_bytes=10, shard_bytes=10 * shard_samples, seed=seed, settings=settings)


scan_names = st.tuples(st.integers(1, 4), st.integers(1, 5))
scans = st.dictionaries(scan_names, st.integers(1, 60), min_size=1, max_size=8)
shard_sizes = st.integers(1, 50)
seeds = st.integers(0, 2**31)


# --- dealing ---


@settings(deadline=None, max_examples=100)
@given(train=scans, val=scans, shard_samples=shard_sizes, seed=seeds)
def test_every_shard_is_a_fair_draw(train, val, shard_samples, seed):
    samples = samples_of(train) + samples_of({(scene + 10, scan): n for (scene, scan), n in val.items()}, split="val")
    plans = deal(samples, shard_samples=shard_samples, seed=seed)

    assert Counter(s.frame.sample_id for p in plans for s in p.samples) == Counter(s.frame.sample_id for s in samples)
    for split in ("train", "val"):
        shards = [plan for plan in plans if plan.path.startswith(f"split={split}/")]
        assert [plan.path for plan in shards] == [f"split={split}/part-{k:05d}.parquet" for k in range(len(shards))]
        assert all(s.frame.split == split for plan in shards for s in plan.samples)
        sizes = [len(plan.samples) for plan in shards]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= shard_samples
        whole = Counter((s.frame.scene, s.frame.scan) for plan in shards for s in plan.samples)
        for plan in shards:
            part = Counter((s.frame.scene, s.frame.scan) for s in plan.samples)
            assert all(n <= math.ceil(whole[scan] / len(shards)) for scan, n in part.items())


@settings(deadline=None, max_examples=60)
@given(scans=scans, shard_samples=shard_sizes, seed=seeds, refused=st.floats(0, 1))
def test_every_shard_is_a_fair_draw_despite_rejects(scans, shard_samples, seed, refused):
    chance = random.Random(seed)
    reasons = ("missing_member", "duplicate", "bad_name", "unsafe_member")
    samples = [
        replace(s, reject_reason=chance.choice(reasons) if chance.random() < refused else "") for s in samples_of(scans)
    ]
    plans = deal(samples, shard_samples=shard_samples, seed=seed)
    assert Counter(s.frame.sample_id for p in plans for s in p.samples) == Counter(map(sample_id_of, samples))
    whole = Counter((s.frame.scene, s.frame.scan) for s in samples if not s.reject_reason)
    for plan in plans:
        part = Counter((s.frame.scene, s.frame.scan) for s in plan.samples if not s.reject_reason)
        assert all(n <= math.ceil(whole[scan] / len(plans)) for scan, n in part.items())


@settings(deadline=None, max_examples=30)
@given(scans=scans, seed=seeds)
def test_dealing_does_not_depend_on_the_source(scans, seed):
    samples = samples_of(scans)
    elsewhere = [
        StagedSample(**{**vars(s), "source": "/elsewhere.tar.gz"}, piece="piece", position=i)
        for i, s in enumerate(samples)
    ]
    here, there = deal(samples, seed=seed), deal(elsewhere, seed=seed)
    assert [[sample_id_of(s) for s in plan.samples] for plan in here] == [
        [sample_id_of(s) for s in plan.samples] for plan in there
    ]
    assert [plan.digest for plan in here] == [plan.digest for plan in there]


@settings(deadline=None, max_examples=20)
@given(scans=scans, seed=seeds)
def test_a_plan_depends_only_on_its_seed(scans, seed):
    samples = samples_of(scans)
    assert deal(samples, seed=seed) == deal(samples, seed=seed)


def test_seeds_deal_differently():
    samples = samples_of({(1, 1): 40, (1, 2): 40})
    plans = [deal(samples, seed=seed) for seed in range(10)]
    members = {frozenset(s.frame.sample_id for s in plan[0].samples) for plan in plans}
    assert len(members) == 10


def test_rows_are_not_in_the_order_of_scans():
    (plan,) = deal(samples_of({(1, 1): 20, (1, 2): 20}), shard_samples=100)
    order = [(s.frame.scan, s.frame.sample_id) for s in plan.samples]
    first_half = Counter(scan for scan, _ in order[:20])
    assert max(first_half.values()) < 20
    assert [i for _, i in order] != sorted(i for _, i in order)


def test_a_split_without_samples_has_no_shard():
    assert {plan.path.split("/")[0] for plan in deal(samples_of({(1, 1): 3}, split="val"))} == {"split=val"}


def test_rejects_do_not_disturb_the_draw():
    samples = [
        replace(s, reject_reason="missing_member" if i % 2 else "") for i, s in enumerate(samples_of({(1, 1): 512}))
    ]
    plans = deal(samples, shard_samples=32)
    good = [sum(not s.reject_reason for s in plan.samples) for plan in plans]
    assert len(plans) == 16
    assert max(good) <= 256 / 16 + 1


# --- how many shards ---


@pytest.mark.parametrize(
    ("samples", "sample_bytes", "shard_bytes", "wanted"),
    [
        (100, 10, 100, 10),
        (101, 10, 100, 11),
        (1, 10, 100, 1),
        (31, 1, 10**6, 1),
        (63, 1, 10**6, 1),
        (64, 1, 10**6, 2),
        (255, 1, 10**6, 7),
        (256, 1, 10**6, 8),
        (10**6, 1, 10**6, 8),
        (10**7, 1, 10**6, 10),
        (25458, 256 * 256 * 9, 256 * 2**20, 56),
    ],
)
def test_shard_count_by_hand(samples, sample_bytes, shard_bytes, wanted):
    assert shard_count(samples, sample_bytes=sample_bytes, shard_bytes=shard_bytes) == wanted


def test_no_more_shards_than_samples():
    assert shard_count(3, sample_bytes=768 * 1024 * 9, shard_bytes=2**20) == 3


# --- digests ---


def test_a_digest_depends_on_what_the_shard_will_hold():
    plan = ShardPlan(path="split=train/part-00000.parquet", samples=(planned(1), planned(2)), settings="{}")
    same = replace(plan, samples=tuple(planned(scene, source="/elsewhere") for scene in (1, 2)))
    staged = [StagedSample(**vars(planned(scene)), piece="a piece", position=scene) for scene in (1, 2)]
    assert replace(plan, samples=tuple(staged)).digest == plan.digest  # A tree's shard is its archive's.
    others = [
        replace(plan, path="split=train/part-00001.parquet"),
        replace(plan, settings='{"height": 1}'),
        replace(plan, samples=plan.samples[::-1]),
        replace(plan, samples=plan.samples[:1]),
        replace(plan, samples=(planned(1), planned(2, split="val"))),
        replace(plan, samples=(planned(1), planned(2, members=("rgb", "depth")))),
        replace(plan, samples=(planned(1), planned(2, reject_reason="duplicate"))),
    ]
    assert same.digest == plan.digest
    assert len({plan.digest, *(other.digest for other in others)}) == 1 + len(others)


# --- what is rejected unread ---


def sources(found):
    """A source for each (location, triplet)."""
    return [Source(location=location, frames=[one]) for location, one in found]


def test_whole_samples_are_taken_as_they_are():
    found = [("/a", triplet(1)), ("/b", triplet(2, split="val"))]
    got = plan_samples(sources(found))
    assert [(p.source, p.frame) for p in got] == found
    assert {(p.reject_reason, p.reject_message) for p in got} == {("", "")}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("rgb", "depth"), "there is no mask file"),
        (("mask",), "there is no depth and no rgb file"),
        (("depth", "mask"), "there is no rgb file"),
    ],
)
def test_missing_members(members, message):
    (got,) = plan_samples(sources([("/a", triplet(members=members))]))
    assert (got.reject_reason, got.reject_message) == ("missing_member", message)


@pytest.mark.parametrize("reason", ["bad_name", "unsafe_member"])
def test_a_problem_takes_precedence_over_a_missing_member(reason):
    misplaced = triplet(members=("rgb",), reason=reason, problem="it lies in x instead of y")
    (got,) = plan_samples(sources([("/a", misplaced)]))
    assert (got.reject_reason, got.reject_message) == (reason, "it lies in x instead of y")


def test_a_repeated_id_is_a_duplicate_in_any_source_or_split():
    found = [("/a", triplet(1)), ("/b", triplet(1)), ("/a", triplet(1, split="val")), ("/b", triplet(2))]
    got = plan_samples(sources(found))
    assert [p.reject_reason for p in got] == ["", "duplicate", "duplicate", ""]
    assert "/a" in got[1].reject_message


def test_a_complete_copy_replaces_an_incomplete_or_misplaced_one():
    found = [
        ("/a", triplet(members=("rgb",))),
        ("/b", triplet(reason="bad_name", problem="misplaced")),
        ("/c", triplet(reason="unsafe_member", problem="a link")),
        ("/d", triplet()),
    ]
    assert [p.reject_reason for p in plan_samples(sources(found))] == [
        "missing_member",
        "bad_name",
        "unsafe_member",
        "",
    ]


# --- resplit ---


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
    samples = samples_of({(1, 1): 9}) + samples_of({(2, 1): 1}, reject_reason="missing_member")
    try:
        got = resplit(samples, val_fraction=0.1, seed=0)
    except SourceError:
        return
    assert {s.frame.split for s in got if not s.reject_reason} == {"train", "val"}
