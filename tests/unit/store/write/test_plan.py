"""Which sample goes into which shard and split: pure functions, so tested on many plans."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.camera import DIODE_CAMERA
from depthflow.datasets.frame_table import frame_table
from depthflow.datasets.frames import DepthEncoding, Frame
from depthflow.store.write.plan import (
    PlannedSample,
    ShardPlan,
    deal_to_shards,
    plan_samples,
    planned_samples,
    shard_count,
)
from depthflow.store.write.sources import Source
from tests.plans import packed

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


def planned(*args, source="/data", **kwargs):
    return PlannedSample(frame=triplet(*args, **kwargs), source=source)


def refused(sample, reason):
    return replace(sample, frame=replace(sample.frame, reason=reason))


def sample_id_of(sample):
    return sample.frame.sample_id


def samples_of(scans, **kwargs):
    """Samples of {(scene, scan): count}."""
    return [planned(scene, scan, i, **kwargs) for (scene, scan), count in scans.items() for i in range(count)]


def deal(samples, *, shard_samples=8, seed=0, settings="{}"):
    """Deals to shards of about so many samples."""
    return deal_to_shards(
        packed(samples), sample_bytes=10, shard_bytes=10 * shard_samples, seed=seed, settings=settings
    )


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
@given(scans=scans, shard_samples=shard_sizes, seed=seeds, fraction=st.floats(0, 1))
def test_every_shard_is_a_fair_draw_despite_rejects(scans, shard_samples, seed, fraction):
    chance = random.Random(seed)
    reasons = ("missing_member", "duplicate", "bad_name", "unsafe_member")
    samples = [refused(s, chance.choice(reasons)) if chance.random() < fraction else s for s in samples_of(scans)]
    plans = deal(samples, shard_samples=shard_samples, seed=seed)
    assert Counter(s.frame.sample_id for p in plans for s in p.samples) == Counter(map(sample_id_of, samples))
    whole = Counter((s.frame.scene, s.frame.scan) for s in samples if not s.frame.reason)
    for plan in plans:
        part = Counter((s.frame.scene, s.frame.scan) for s in plan.samples if not s.frame.reason)
        assert all(n <= math.ceil(whole[scan] / len(plans)) for scan, n in part.items())


@settings(deadline=None, max_examples=30)
@given(scans=scans, seed=seeds)
def test_dealing_does_not_depend_on_the_source(scans, seed):
    samples = samples_of(scans)
    elsewhere = [replace(s, source="/elsewhere.tar.gz", piece="piece", position=i) for i, s in enumerate(samples)]
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
    samples = [refused(s, "missing_member") if i % 2 else s for i, s in enumerate(samples_of({(1, 1): 512}))]
    plans = deal(samples, shard_samples=32)
    good = [sum(not s.frame.reason for s in plan.samples) for plan in plans]
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
    samples = [planned(1), planned(2)]
    plan = ShardPlan(path="split=train/part-00000.parquet", rows=packed(samples), settings="{}")

    def other(*samples):
        return replace(plan, rows=packed(samples))

    def second(**changes):
        return replace(samples[1], frame=replace(samples[1].frame, **changes))

    same = other(*(planned(scene, source="/elsewhere") for scene in (1, 2)))
    staged = [replace(sample, piece="a piece", position=n) for n, sample in enumerate(samples)]
    assert other(*staged).digest == plan.digest  # A tree's shard is its archive's.
    others = [
        replace(plan, path="split=train/part-00001.parquet"),
        replace(plan, settings='{"height": 1}'),
        other(*samples[::-1]),
        other(*samples[:1]),
        other(planned(1), planned(2, split="val")),
        other(planned(1), planned(2, members=("rgb", "depth"), reason="missing_member")),
        other(planned(1), refused(planned(2), "duplicate")),
        other(planned(1), second(encoding=DepthEncoding(units_per_m=1000))),
        other(planned(1), second(encoding=DepthEncoding(invalid=(65535,)))),
        other(planned(1), second(camera=DIODE_CAMERA)),
    ]
    assert same.digest == plan.digest
    assert len({plan.digest, *(other.digest for other in others)}) == 1 + len(others)


# --- what is rejected unread ---


def sources(found):
    """A source for each (location, triplet)."""
    return [Source(location=location, frames=frame_table([one])) for location, one in found]


def plan(found):
    return planned_samples(plan_samples(sources(found)))


def test_whole_samples_are_taken_as_they_are():
    found = [("/a", triplet(1)), ("/b", triplet(2, split="val"))]
    got = plan(found)
    assert [(p.source, replace(p.frame, required=("rgb", "depth", "mask"))) for p in got] == found
    assert {(p.frame.reason, p.frame.problem) for p in got} == {("", "")}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("rgb", "depth"), "there is no mask file"),
        (("mask",), "there is no depth and no rgb file"),
        (("depth", "mask"), "there is no rgb file"),
    ],
)
def test_missing_members(members, message):
    (got,) = plan([("/a", triplet(members=members))])
    assert (got.frame.reason, got.frame.problem) == ("missing_member", message)


@pytest.mark.parametrize("reason", ["bad_name", "unsafe_member"])
def test_a_problem_takes_precedence_over_a_missing_member(reason):
    misplaced = triplet(members=("rgb",), reason=reason, problem="it lies in x instead of y")
    (got,) = plan([("/a", misplaced)])
    assert (got.frame.reason, got.frame.problem) == (reason, "it lies in x instead of y")


def test_a_repeated_id_is_a_duplicate_in_any_source_or_split():
    found = [("/a", triplet(1)), ("/b", triplet(1)), ("/a", triplet(1, split="val")), ("/b", triplet(2))]
    got = plan(found)
    assert [p.frame.reason for p in got] == ["", "duplicate", "duplicate", ""]
    assert "/a" in got[1].frame.problem


def test_a_complete_copy_replaces_an_incomplete_or_misplaced_one():
    found = [
        ("/a", triplet(members=("rgb",))),
        ("/b", triplet(reason="bad_name", problem="misplaced")),
        ("/c", triplet(reason="unsafe_member", problem="a link")),
        ("/d", triplet()),
    ]
    assert [p.frame.reason for p in plan(found)] == [
        "missing_member",
        "bad_name",
        "unsafe_member",
        "",
    ]
