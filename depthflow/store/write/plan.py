"""Plans which sample goes into which shard: pure functions of ids, configuration and seed.

Each shard is then made and committed by one task, on any node and in any order, and again if the task is lost.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from depthflow.datasets.frames import SPLITS, Frame
from depthflow.errors import SourceError
from depthflow.store.write.sources import Source

SHARDS_WANTED = 8
"""A split that would fit in fewer shards is still dealt to this many, so that small sets are made in parallel..."""
SAMPLES_PER_SMALL_SHARD = 32
"""...as long as each gets this many samples."""


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """One input of a shard.

    Attributes:
        frame: What the source holds; its split is the one it is stored in.
        source: Location of the source.
        reject_reason, reject_message: Why it is rejected without being read, or empty.
    """

    frame: Frame
    source: str
    reject_reason: str = ""
    reject_message: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A shard to be made.

    Attributes:
        path: Path in the store.
        samples: Its inputs, in the order of their rows.
        settings: Everything else that its content depends on, in canonical form.
    """

    path: str
    samples: tuple[PlannedSample, ...]
    settings: str

    @property
    def digest(self) -> str:
        """xxh3-128 of what the shard will hold, independent of where the source lies."""
        inputs = [(p.frame.sample_id, p.frame.split, sorted(p.frame.members), p.reject_reason) for p in self.samples]
        return xxhash.xxh3_128_hexdigest(repr((self.path, inputs, self.settings)).encode())


def plan_samples(sources: Iterable[Source]) -> list[PlannedSample]:
    """Lists the sources' frames in order, and marks those that are rejected without being read.

    These are frames with a problem, such as a bad name, those with a file missing, and ids seen before.
    """
    planned: list[PlannedSample] = []
    first_seen: dict[str, str] = {}
    for source in sources:
        for frame in source.frames:
            reason, message = _reject_unread(frame, first_seen)
            if not reason:
                first_seen[frame.sample_id] = source.location
            planned.append(
                PlannedSample(frame=frame, source=source.location, reject_reason=reason, reject_message=message)
            )
    return planned


def _reject_unread(frame: Frame, first_seen: Mapping[str, str]) -> tuple[str, str]:
    """Returns the reason and the message of a reject, both empty if the frame can be read."""
    missing = sorted({*frame.required} - frame.members.keys())
    if frame.problem:
        return frame.reason, frame.problem
    if missing:
        return "missing_member", f"there is no {' and no '.join(missing)} file"
    if frame.sample_id in first_seen:
        return "duplicate", f"this id was already found in {first_seen[frame.sample_id]}"
    return "", ""


def resplit(samples: Sequence[PlannedSample], *, val_fraction: float, seed: int) -> list[PlannedSample]:
    """Divides one split into train and val by scene, separately for each scene type.

    Frames of one scan overlap heavily, so a scene is never divided, unless a scene type has only one: then it is
    divided by scan.

    Args:
        val_fraction: Target fraction of each scene type's samples in val.

    Raises:
        SourceError: if a split would stay empty.
    """
    by_type: dict[str, list[PlannedSample]] = defaultdict(list)
    for sample in samples:
        by_type[sample.frame.scene_type].append(sample)
    result = []
    for scene_type, members in sorted(by_type.items()):
        by_scene = len({m.frame.scene for m in members}) > 1
        groups: dict[str, list[PlannedSample]] = defaultdict(list)
        for member in members:
            groups[member.frame.scene if by_scene else member.frame.scan].append(member)
        val_groups = _choose_val_groups(
            {name: sum(not m.reject_reason for m in group) for name, group in groups.items()},
            val_fraction,
            key=f"{seed}/{scene_type}",
        )
        for name, group in groups.items():
            split = "val" if name in val_groups else "train"
            result.extend(replace(m, frame=replace(m.frame, split=split)) for m in group)
    for split in SPLITS:
        if not any(sample.frame.split == split and not sample.reject_reason for sample in result):
            raise SourceError(
                f"--resplit leaves {split} empty: the source has a single scan, and frames of one scan overlap. "
                "Add scans, or take the source's own splits with --splits."
            )
    return sorted(result, key=lambda s: (s.frame.split, s.frame.sample_id))


def _choose_val_groups(sizes: dict[str, int], val_fraction: float, *, key: str) -> set[str]:
    """Chooses groups whose sizes add up to about the fraction: at least one group, and not all of them."""
    if len(sizes) < 2:
        return set()
    names = sorted(sizes)
    order = [names[i] for i in _generator(key).permutation(len(names))]
    wanted = val_fraction * sum(sizes.values())
    chosen: set[str] = set()
    total = 0
    for name in order:
        if abs(total + sizes[name] - wanted) < abs(total - wanted) and len(chosen) < len(sizes) - 1:
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(order, key=lambda name: sizes[name])}


def deal_to_shards(
    samples: Sequence[PlannedSample], *, sample_bytes: int, shard_bytes: int, seed: int, settings: str
) -> list[ShardPlan]:
    """Deals each split's samples to shards so that every shard is a fair draw of its split.

    Each scan's samples are shuffled and dealt round-robin over the shards, continuing where the previous scan left
    off. So none of K shards holds more than ceil(n / K) samples of a scan with n, and the sizes of shards differ by at
    most one sample. Rows are then shuffled within each shard.

    Args:
        sample_bytes: Decoded size of a sample's planes.
        shard_bytes: Target for the decoded size of a shard.
        settings: See `ShardPlan`.
    """
    plans = []
    for split in SPLITS:
        members = [s for s in samples if s.frame.split == split]
        if not members:
            continue
        count = shard_count(len(members), sample_bytes=sample_bytes, shard_bytes=shard_bytes)
        scans: dict[tuple[bool, str, str], list[PlannedSample]] = defaultdict(list)
        for member in members:  # Rejects are dealt separately, so they displace no samples.
            scans[(bool(member.reject_reason), member.frame.scene, member.frame.scan)].append(member)
        dealt = [
            scans[scan][i]
            for scan in sorted(scans)
            for i in _generator(f"{seed}/deal/{split}/{scan}").permutation(len(scans[scan]))
        ]
        for k in range(count):
            path = f"split={split}/part-{k:05d}.parquet"
            rows = dealt[k::count]
            order = _generator(f"{seed}/rows/{path}").permutation(len(rows))
            plans.append(ShardPlan(path=path, samples=tuple(rows[i] for i in order), settings=settings))
    return plans


def shard_count(samples: int, *, sample_bytes: int, shard_bytes: int) -> int:
    """Returns how many shards a split needs for each to have about `shard_bytes`; a small split gets more of them."""
    by_size = -(-samples * sample_bytes // shard_bytes)
    return max(1, min(by_size, samples), min(SHARDS_WANTED, samples // SAMPLES_PER_SMALL_SHARD))


def _generator(key: str) -> np.random.Generator:
    """Returns a random generator that depends only on the key."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(key.encode()))
