"""Plans which sample goes into which shard: pure functions of ids, configuration and seed.

A plan is rows of the frame table, so that a million frames are planned in seconds. Each shard is then made and
committed by one task, on any node and in any order, and again if the task is lost.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from depthflow.datasets.frame_table import (
    CONTENT_COLUMNS,
    FRAME_SCHEMA,
    MEMBER_COLUMNS,
    PLAIN_CONTENT,
    VIEW_COLUMNS,
    VIEW_MEMBERS,
    frames_of,
    table_groups,
)
from depthflow.datasets.frames import SPLITS, Frame
from depthflow.store.write.sources import Source

SHARDS_WANTED = 8
"""A split that would fit in fewer shards is still dealt to this many, so that small sets are made in parallel..."""
SAMPLES_PER_SMALL_SHARD = 32
"""...as long as each gets this many samples."""

PLAN_SCHEMA = pa.schema(
    [*FRAME_SCHEMA, pa.field("source", pa.string()), pa.field("piece", pa.string()), pa.field("position", pa.int32())]
)
"""A frame, whose split is the one it is stored in, and how it is reached; see `PlannedSample`."""


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """One input of a shard.

    Attributes:
        frame: What the source holds. With a `reason`, it is rejected without being read.
        source: Location of the source.
        piece: Path in the store of the piece that the sample is taken from; None if it is made from its files.
        position: Number of its batch in the piece.
    """

    frame: Frame
    source: str
    piece: str | None = None
    position: int | None = None


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A shard to be made.

    Attributes:
        path: Path in the store.
        rows: Its inputs as `PLAN_SCHEMA`, in the order of their rows.
        settings: Everything else that its content depends on, in canonical form.
    """

    path: str
    rows: pa.Table
    settings: str

    @cached_property
    def samples(self) -> list[PlannedSample]:
        """Its inputs."""
        return planned_samples(self.rows)

    @property
    def digest(self) -> str:
        """xxh3-128 of what the shard will hold, independent of where the source lies."""
        inputs = [(s.frame.sample_id, s.frame.split, sorted(s.frame.members), s.frame.reason) for s in self.samples]
        content = self.rows.select(CONTENT_COLUMNS).to_pylist()
        stated = repr(content) if any(row != PLAIN_CONTENT for row in content) else ""
        stated += stated_views(self.rows)
        return xxhash.xxh3_128_hexdigest((repr((self.path, inputs, self.settings)) + stated).encode())


def stated_views(rows: pa.Table) -> str:
    """Returns what further views of samples depend on besides their files, in canonical form; empty without views."""
    columns = [*VIEW_COLUMNS, *(MEMBER_COLUMNS[view] for view in VIEW_MEMBERS)]
    if all(rows[name].null_count == rows.num_rows for name in columns):
        return ""
    return repr(rows.select([*VIEW_COLUMNS, "pose", "time_s"]).to_pylist())


def planned_samples(rows: pa.Table) -> list[PlannedSample]:
    """Returns rows of a plan as samples."""
    places = (rows[name].to_pylist() for name in ("source", "piece", "position"))
    return [
        PlannedSample(frame=frame, source=source, piece=piece, position=position)
        for frame, source, piece, position in zip(frames_of(rows), *places, strict=True)
    ]


def plan_samples(sources: Iterable[Source]) -> pa.Table:
    """Lists the sources' frames in order as `PLAN_SCHEMA`; an id that was seen before is a reject."""
    tables = [
        source.frames.append_column("source", pa.array([source.location], pa.string()).take(_zeros(source.frames)))
        for source in sources
    ]
    rows = pa.concat_tables(tables).combine_chunks()
    for name in ("piece", "position"):
        field = PLAN_SCHEMA.field(name)
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return _without_duplicates(rows)


def _zeros(table: pa.Table) -> pa.Array:
    return pa.array(np.zeros(table.num_rows, np.int64))


def _without_duplicates(rows: pa.Table) -> pa.Table:
    """Marks all but the first of the readable frames of one id."""
    readable = np.flatnonzero(pc.equal(rows["reason"], ""))
    codes = rows["sample_id"].take(readable).combine_chunks().dictionary_encode().indices.to_numpy()
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[inverse] != np.arange(len(codes)))
    if not len(repeated):
        return rows
    seen_in = rows["source"].take(readable[first[inverse[repeated]]]).to_pylist()
    reason, problem = (rows[name].to_numpy(zero_copy_only=False).copy() for name in ("reason", "problem"))
    reason[readable[repeated]] = "duplicate"
    problem[readable[repeated]] = [f"this id was already found in {source}" for source in seen_in]
    return with_texts(rows, reason=reason, problem=problem)


def with_texts(rows: pa.Table, **columns: np.ndarray) -> pa.Table:
    """Returns the rows with other values in some columns of text."""
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return rows


def deal_to_shards(rows: pa.Table, *, sample_bytes: int, shard_bytes: int, seed: int, settings: str) -> list[ShardPlan]:
    """Deals each split's samples to shards so that every shard is a fair draw of its split.

    Each scan's samples are shuffled and dealt round-robin over the shards, continuing where the previous scan left
    off. So none of K shards holds more than ceil(n / K) samples of a scan with n, and the sizes of shards differ by at
    most one sample. Rows are then shuffled within each shard. Rejects are dealt separately, and displace no samples.

    Args:
        rows: `PLAN_SCHEMA`.
        sample_bytes: Decoded size of a sample's planes.
        shard_bytes: Target for the decoded size of a shard.
        settings: See `ShardPlan`.
    """
    plans = []
    for split in SPLITS:
        members = np.flatnonzero(pc.equal(rows["split"], split))
        if not len(members):
            continue
        count = shard_count(len(members), sample_bytes=sample_bytes, shard_bytes=shard_bytes)
        dealt = members[
            _shuffled_by_scan(rows.select(("scene", "scan", "reason")).take(members), f"{seed}/deal/{split}")
        ]
        for k in range(count):
            path = f"split={split}/part-{k:05d}.parquet"
            taken = dealt[k::count]
            order = generator(f"{seed}/rows/{path}").permutation(len(taken))
            plans.append(ShardPlan(path=path, rows=rows.take(taken[order]), settings=settings))
    return plans


def _shuffled_by_scan(rows: pa.Table, key: str) -> np.ndarray:
    """Returns the numbers of the rows, samples before rejects, scan by scan and shuffled within each."""
    groups, scans = table_groups(rows, ("scene", "scan"))
    rejected = pc.not_equal(rows["reason"], "").to_numpy().astype(np.int64)
    groups = groups + rejected * len(scans)
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    shuffled = []
    for part in parts:
        scan = (bool(rejected[part[0]]), *scans[groups[part[0]] % len(scans)])
        shuffled.append(part[generator(f"{key}/{scan}").permutation(len(part))] if len(part) > 1 else part)
    return np.concatenate(shuffled)


def shard_count(samples: int, *, sample_bytes: int, shard_bytes: int) -> int:
    """Returns how many shards a split needs for each to have about `shard_bytes`; a small split gets more of them."""
    by_size = -(-samples * sample_bytes // shard_bytes)
    return max(1, min(by_size, samples), min(SHARDS_WANTED, samples // SAMPLES_PER_SMALL_SHARD))


def generator(key: str) -> np.random.Generator:
    """Returns a random generator that depends only on the key."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(key.encode()))
