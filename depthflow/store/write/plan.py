"""Which sample goes into which shard: pure functions of ids, configuration and seed, decided before any work.

A shard is then one task's whole job, made and committed by itself, on any node, in any order, again if need be.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from depthflow.datasets.diode import SPLITS, Triplet
from depthflow.errors import SourceError

SHARDS_WANTED = 8
"""A split that would fit in fewer shards is still dealt to this many, so that small sets are made in parallel..."""
SAMPLES_PER_SMALL_SHARD = 32
"""...as long as each gets this many samples."""


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """One input of a shard.

    Attributes:
        triplet: what the source holds; its split is the one to be stored.
        source: the tree or archive it comes from.
        reject_reason, reject_message: why it is refused unread, or empty.
        staged: for a sample of an archive, the piece that holds it made, and its position there.
    """

    triplet: Triplet
    source: str
    reject_reason: str = ""
    reject_message: str = ""
    staged: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A shard to be made.

    Attributes:
        path: in the store.
        samples: its inputs in the order of their rows.
        settings: what else its content depends on, in canonical form.
    """

    path: str
    samples: tuple[PlannedSample, ...]
    settings: str

    @property
    def digest(self) -> str:
        """xxh3-128 of what the shard is to hold, wherever the source lies."""
        inputs = [
            (p.triplet.sample_id, p.triplet.split, sorted(p.triplet.paths), p.reject_reason) for p in self.samples
        ]
        return xxhash.xxh3_128_hexdigest(repr((self.path, inputs, self.settings)).encode())


def plan_samples(found: Iterable[tuple[str, Triplet]]) -> list[PlannedSample]:
    """Marks what is refused unread: names that are not DIODE's, triplets with a file missing, ids seen before.

    Args:
        found: (source, triplet) in the order of the sources.
    """
    planned, seen = [], {}
    for source, triplet in found:
        reason, message = "", ""
        missing = sorted({"rgb", "depth", "mask"} - triplet.paths.keys())
        if triplet.problem:
            reason, message = triplet.reason, triplet.problem
        elif missing:
            reason, message = "missing_member", f"there is no {' and no '.join(missing)} file"
        elif triplet.sample_id in seen:
            reason, message = "duplicate", f"this id was already found in {seen[triplet.sample_id]}"
        else:
            seen[triplet.sample_id] = source
        planned.append(PlannedSample(triplet=triplet, source=source, reject_reason=reason, reject_message=message))
    return planned


def resplit(samples: Sequence[PlannedSample], *, val_fraction: float, seed: int) -> list[PlannedSample]:
    """Makes train and val of one split, by scene, for each scene type by itself.

    Frames of one scan overlap heavily, so a scene is never divided, unless a scene type has only one: then it is
    divided by scan.

    Args:
        val_fraction: share of each scene type's samples to come near to.

    Raises:
        SourceError: if a split would stay empty.
    """
    by_type: dict[str, list[PlannedSample]] = defaultdict(list)
    for sample in samples:
        by_type[sample.triplet.scene_type].append(sample)
    result = []
    for scene_type, members in sorted(by_type.items()):
        by_scene = len({m.triplet.scene for m in members}) > 1
        groups: dict[str, list[PlannedSample]] = defaultdict(list)
        for member in members:
            groups[member.triplet.scene if by_scene else member.triplet.scan].append(member)
        val_groups = _choose_val_groups(
            {name: sum(not m.reject_reason for m in group) for name, group in groups.items()},
            val_fraction,
            key=f"{seed}/{scene_type}",
        )
        for name, group in groups.items():
            split = "val" if name in val_groups else "train"
            result.extend(replace(m, triplet=replace(m.triplet, split=split)) for m in group)
    for split in SPLITS:
        if not any(sample.triplet.split == split and not sample.reject_reason for sample in result):
            raise SourceError(
                f"--resplit leaves {split} empty: the source has a single scan, and frames of one scan overlap. "
                "Add scans, or take the source's own splits with --splits."
            )
    return sorted(result, key=lambda s: (s.triplet.split, s.triplet.sample_id))


def _choose_val_groups(sizes: dict[str, int], val_fraction: float, *, key: str) -> set[str]:
    """Groups whose sizes add up to about the fraction: at least one group, and not all of them."""
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

    Each scan's samples are shuffled and dealt round over the shards, going on where the scan before left off: of a
    scan with n samples no one of K shards has more than ceil(n / K), and shards differ by one sample at most. Rows
    are then shuffled within each shard.

    Args:
        sample_bytes: decoded size of a sample's planes.
        shard_bytes: decoded size aimed at for a shard.
        settings: see `ShardPlan`.
    """
    plans = []
    for split in SPLITS:
        members = [s for s in samples if s.triplet.split == split]
        if not members:
            continue
        count = shard_count(len(members), sample_bytes=sample_bytes, shard_bytes=shard_bytes)
        scans: dict[tuple[bool, str, str], list[PlannedSample]] = defaultdict(list)
        for member in members:  # What is refused unread is dealt by itself, lest it displace samples.
            scans[(bool(member.reject_reason), member.triplet.scene, member.triplet.scan)].append(member)
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
    """Shards of a split: enough to keep each at `shard_bytes`, and `SHARDS_WANTED` where there are samples for it."""
    by_size = -(-samples * sample_bytes // shard_bytes)
    return max(1, min(by_size, samples), min(SHARDS_WANTED, samples // SAMPLES_PER_SMALL_SHARD))


def _generator(key: str) -> np.random.Generator:
    """A random generator that depends on the key alone."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(key.encode()))
