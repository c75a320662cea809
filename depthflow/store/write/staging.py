"""Makes the samples of archives ahead of the shards that they go to.

A shard is a fair draw of its split, so its samples lie all over the archive, and seeking to each costs three times the
decompression of the whole. So an archive is read in contiguous segments. One task per segment makes its samples and
puts them, small by then, into a piece: an Arrow file with one batch per sample. Shards are then made from pieces. With
the pass that lists its members, each byte of a .tar.gz is decompressed twice, each of a .zip once.

Further views are other members, mostly the images of other samples: a task keeps each member until its last use. At
its segment's ends, it reads the neighbours' images, too, so that these are read twice.

    .staging/ARCHIVE/DIGEST.arrow      a piece
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from depthflow.datasets.archive import open_archive
from depthflow.datasets.archive_member import PLACE, ReadSpan, member_span
from depthflow.datasets.frame_table import CONTENT_COLUMNS, MEMBER_COLUMNS, VIEW_MEMBERS
from depthflow.datasets.hdf5_file import Hdf5Files
from depthflow.datasets.reject import RejectError
from depthflow.storage.files import StoreFiles
from depthflow.store.schema import SECONDS_FIELD, shard_schema
from depthflow.store.write.plan import PLAN_SCHEMA, PlannedSample, ShardPlan, planned_samples, stated_views
from depthflow.store.write.sample import Sample, SampleLayout, from_batch, make_sample, to_table
from depthflow.store.write.shard import Make, Watch
from depthflow.store.write.sources import STAGING, ArchiveSource, Source, read_member

SEGMENTS_WANTED = 16
"""A small archive is still read in this many segments, so that its samples are made in parallel..."""
MIN_SEGMENT_SAMPLES, MAX_SEGMENT_SAMPLES = 8, 64
"""...as long as each has 8 samples. A segment of 64 DIODE samples is 480 MB of decompressed tar."""
OPEN_FRAMES = 256
"""A segment ends where no frame is half read, its views aside. If there is no such place, it ends after this many
samples."""
HELD_BYTES = 512 * 2**20
"""Bytes of half-read frames and of views that a task keeps. Beyond that, it reads them again."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of an archive that one task reads.

    Attributes:
        archive: Path or URI of the archive.
        identity: Identifies the state of the archive.
        rows: The samples as `PLAN_SCHEMA`, in the order in which a sweep through the archive completes them.
        settings: Everything else that their content depends on, in canonical form.
    """

    archive: str
    identity: str
    rows: pa.Table
    settings: str

    @cached_property
    def samples(self) -> list[PlannedSample]:
        """The samples."""
        return planned_samples(self.rows)

    @property
    def begin(self) -> int:
        """Offset of its first member, as in its spans."""
        return min(offset for sample in self.samples for offset, _ in spans(sample).values())

    @property
    def end(self) -> int:
        """End of its last member, as in its spans."""
        return max(map(_end, self.samples))

    @property
    def piece(self) -> str:
        """Path of its piece in the store; a digest of the piece's content."""
        content = [(s.frame.sample_id, s.frame.split, sorted(spans(s).items())) for s in self.samples]
        stated = self.rows.select(CONTENT_COLUMNS).to_pylist()
        stated = repr((content, stated, self.settings)) + stated_views(self.rows)
        digest = xxhash.xxh3_128_hexdigest(stated.encode())
        return f"{STAGING}/{self.identity}/{digest}.arrow"


def plan_staging(
    plans: Sequence[ShardPlan], sources: Sequence[Source], files: StoreFiles
) -> tuple[list[ShardPlan], list[Segment]]:
    """Plans the pieces of all samples that lie in archives.

    Returns:
        The plans, with these samples taken from pieces, and the segments that uncommitted shards need.
    """
    archives = {source.location: source.identity for source in sources if isinstance(source, ArchiveSource)}
    if not archives:
        return list(plans), []
    rows = pa.concat_tables([plan.rows for plan in plans]).combine_chunks()
    segments, pieces, positions = [], np.full(rows.num_rows, None, object), np.zeros(rows.num_rows, np.int32)
    for archive, identity in archives.items():
        own = pc.and_(pc.equal(rows["source"], archive), pc.equal(rows["reason"], ""))
        for numbers in cut_into_segments(rows, np.flatnonzero(own)):
            segment = Segment(archive=archive, identity=identity, rows=rows.take(numbers), settings=plans[0].settings)
            segments.append(segment)
            pieces[numbers], positions[numbers] = segment.piece, range(len(numbers))
    columns = {"piece": pa.array(pieces, pa.string()), "position": pa.array(positions)}
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), PLAN_SCHEMA.field(name), values)
    ends = np.cumsum([plan.rows.num_rows for plan in plans])
    plans = [
        replace(plan, rows=rows.take(np.arange(end - plan.rows.num_rows, end)))
        for plan, end in zip(plans, ends, strict=True)
    ]
    needed = {
        piece for plan in plans if not files.exists(plan.path) for piece in plan.rows["piece"].unique().to_pylist()
    }
    return plans, [segment for segment in segments if segment.piece in needed]


def cut_into_segments(rows: pa.Table, numbers: np.ndarray) -> list[np.ndarray]:
    """Cuts an archive's samples into segments, which are contiguous in the archive if its frames are.

    Args:
        rows: `PLAN_SCHEMA`.
        numbers: (n,) numbers of the archive's rows, without those that are rejected unread.

    Returns:
        Numbers of each segment's rows in the order in which a sweep through the archive completes them.
    """
    own = [column for member, column in MEMBER_COLUMNS.items() if member not in VIEW_MEMBERS]
    begins, ends = _extents(rows.take(numbers), own)
    _, completed = _extents(rows.take(numbers), MEMBER_COLUMNS.values())
    wanted = min(MAX_SEGMENT_SAMPLES, max(MIN_SEGMENT_SAMPLES, len(numbers) // SEGMENTS_WANTED))
    groups: list[list[int]] = [[]]
    open_until = 0
    for n in np.lexsort((ends, begins)).tolist():
        size, clean = len(groups[-1]), begins[n] >= open_until
        if (size >= wanted and clean) or size >= OPEN_FRAMES:
            groups.append([])
        groups[-1].append(n)
        open_until = max(open_until, ends[n])
    return [numbers[sorted(group, key=completed.__getitem__)] for group in groups if group]


def _extents(rows: pa.Table, columns: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns where some members of each row begin and end in the decompressed tar, (n,) int64 each."""
    begins, ends = [], []
    for column in columns:
        span = pc.extract_regex(rows[column], PLACE.pattern)
        offset, size = (pc.struct_field(span, name).cast(pa.int64()) for name in ("offset", "size"))
        begins.append(pc.fill_null(offset, np.iinfo(np.int64).max).to_numpy())
        ends.append(pc.fill_null(pc.add(offset, size), 0).to_numpy())
    return np.min(begins, axis=0), np.max(ends, axis=0)


def stage_segment(segment: Segment, *, files: StoreFiles, layout: SampleLayout, watch: Watch) -> int:
    """Makes a segment's samples and commits them as a piece, unless the piece is already committed.

    Batch i of a piece is sample i of the segment, or it is empty and says why the sample is rejected.

    Returns:
        The number of rejects; 0 if the piece was already committed.
    """
    rejects = 0
    if files.exists(segment.piece):
        return rejects
    schema = shard_schema(height=layout.height, width=layout.width, metadata={}, kind=layout.kind)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        files.open(f"{STAGING}/{segment.identity}/index.gzidx") as index,
        open_archive(segment.archive, index, begin=segment.begin, end=segment.end) as read,
        files.commit(segment.piece) as handle,
        pa.ipc.new_file(handle, schema, options=options) as writer,
    ):
        members = sweep(segment, read)
        for planned in segment.samples:
            started = time.perf_counter()
            try:
                with watch(planned):
                    sample = make_sample(planned.frame, next(members), layout)
                note = {"seconds": repr(time.perf_counter() - started)}
                (batch,) = to_table([sample], schema).to_batches()
            except RejectError as error:
                batch = pa.RecordBatch.from_pylist([], schema=schema)
                note = {"reason": error.reason, "message": error.message}
                rejects += 1
            writer.write_batch(batch, custom_metadata=note)
    return rejects


def sweep(segment: Segment, read: ReadSpan) -> Iterator[Mapping[str, bytes]]:
    """Yields each sample's members, read in the archive's order; each is kept from when it is read to its last use."""
    uses = Counter(span for sample in segment.samples for span in spans(sample).values())
    ahead = deque(sorted(uses))
    held: dict[tuple[int, int], bytes] = {}
    held_bytes = 0
    for sample in segment.samples:
        end = _end(sample)
        while ahead and sum(ahead[0]) <= end:
            if held_bytes > HELD_BYTES:
                held.clear()
                held_bytes = 0
            if uses[span := ahead.popleft()]:
                held[span] = read(span)
                held_bytes += len(held[span])
        yield {name: held[span] if span in held else read(span) for name, span in spans(sample).items()}
        uses.subtract(spans(sample).values())
        for span in {*spans(sample).values()}:
            if not uses[span] and span in held:
                held_bytes -= len(held.pop(span))


class PieceReader:
    """Reads samples from pieces; opens each piece once.

    Args:
        files: Files of the store.
    """

    def __init__(self, files: StoreFiles) -> None:
        self._files = files
        self._pieces: dict[str, pa.ipc.RecordBatchFileReader] = {}

    def take(self, piece: str, position: int) -> Sample:
        """Returns a sample, whose row states the seconds it took to make; raises RejectError if it was rejected."""
        if piece not in self._pieces:
            self._pieces[piece] = pa.ipc.open_file(self._files.open(piece))
        found = self._pieces[piece].get_batch_with_custom_metadata(position)
        note = {key.decode(): value.decode() for key, value in found.custom_metadata.items()}
        if "reason" in note:
            raise RejectError(note["reason"], note["message"])
        sample = from_batch(found.batch)
        sample.row[SECONDS_FIELD.name] = float(note["seconds"])
        return sample


def sample_maker(layout: SampleLayout, files: StoreFiles) -> Make:
    """Returns the function that makes planned samples: from their files, or by reading them from their piece."""
    pieces, hdf5 = PieceReader(files), Hdf5Files()

    def make(planned: PlannedSample) -> Sample:
        if planned.piece is not None and planned.position is not None:
            return pieces.take(planned.piece, planned.position)
        members = {name: read_member(path, hdf5) for name, path in planned.frame.members.items()}
        return make_sample(planned.frame, members, layout)

    return make


def spans(sample: PlannedSample) -> dict[str, tuple[int, int]]:
    """Returns offset and size of each member of a sample of an archive."""
    return {name: member_span(place) for name, place in sample.frame.members.items()}


def _end(sample: PlannedSample) -> int:
    return max(map(sum, spans(sample).values()))
