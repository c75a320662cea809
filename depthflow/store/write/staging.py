"""Makes the samples of archives ahead of the shards that they go to.

A shard is a fair draw of its split, so its samples lie all over the archive, and seeking to each costs three times the
decompression of the whole. So an archive is read in contiguous segments. One task per segment makes its samples and
puts them, small by then, into a piece: an Arrow file with one batch per sample. Shards are then made from pieces. With
the pass that lists the archive's members, each byte is decompressed twice.

    .staging/ARCHIVE/DIGEST.arrow      a piece
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import xxhash

from depthflow.datasets.archive import ReadSpan, open_archive
from depthflow.datasets.hdf5_file import Hdf5Files
from depthflow.datasets.reject import RejectError
from depthflow.storage.files import StoreFiles
from depthflow.store.schema import SECONDS_FIELD, shard_schema
from depthflow.store.write.plan import PlannedSample, ShardPlan
from depthflow.store.write.sample import Sample, SampleLayout, from_batch, make_sample, to_table
from depthflow.store.write.shard import Make, Watch
from depthflow.store.write.sources import STAGING, ArchiveSource, Source, read_member

SEGMENTS_WANTED = 16
"""A small archive is still read in this many segments, so that its samples are made in parallel..."""
MIN_SEGMENT_SAMPLES, MAX_SEGMENT_SAMPLES = 8, 64
"""...as long as each has 8 samples. A segment of 64 DIODE samples is 480 MB of decompressed tar."""
OPEN_TRIPLETS = 256
"""A segment ends where no triplet is half read. If there is no such place, it ends after this many samples."""
HELD_BYTES = 512 * 2**20
"""Bytes of half-read triplets that a task keeps. Beyond that, it reads them again."""


@dataclass(frozen=True, kw_only=True)
class StagedSample(PlannedSample):
    """A sample that is read from a piece.

    Attributes:
        piece: Path of the piece in the store.
        position: Number of its batch in the piece.
    """

    piece: str
    position: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of an archive that one task reads.

    Attributes:
        archive: Path or URI of the archive.
        identity: Identifies the state of the archive.
        samples: The samples in the order in which a sweep through the archive completes them.
        settings: Everything else that their content depends on, in canonical form.
    """

    archive: str
    identity: str
    samples: tuple[PlannedSample, ...]
    settings: str

    @property
    def begin(self) -> int:
        """Offset of its first member in the decompressed tar."""
        return min(map(_begin, self.samples))

    @property
    def end(self) -> int:
        """End of its last member in the decompressed tar."""
        return max(map(_end, self.samples))

    @property
    def piece(self) -> str:
        """Path of its piece in the store; a digest of the piece's content."""
        content = [(p.frame.sample_id, p.frame.split, sorted(p.frame.members.items())) for p in self.samples]
        digest = xxhash.xxh3_128_hexdigest(repr((content, self.settings)).encode())
        return f"{STAGING}/{self.identity}/{digest}.arrow"


def plan_staging(
    plans: Sequence[ShardPlan], sources: Sequence[Source], files: StoreFiles
) -> tuple[list[ShardPlan], list[Segment]]:
    """Plans the pieces of all samples that lie in archives.

    Returns:
        The plans, with these samples taken from pieces, and the segments that uncommitted shards need.
    """
    segments = [
        segment
        for source in sources
        if isinstance(source, ArchiveSource)
        for segment in plan_segments(
            [s for plan in plans for s in plan.samples if s.source == source.location and not s.reject_reason],
            archive=source.location,
            identity=source.identity,
            settings=plans[0].settings,
        )
    ]
    plans = with_pieces(plans, segments)
    unmade = [sample for plan in plans if not files.exists(plan.path) for sample in plan.samples]
    pieces = {sample.piece for sample in unmade if isinstance(sample, StagedSample)}
    return plans, [segment for segment in segments if segment.piece in pieces]


def plan_segments(samples: Sequence[PlannedSample], *, archive: str, identity: str, settings: str) -> list[Segment]:
    """Cuts an archive's samples into segments, which are contiguous in the archive if its triplets are.

    Args:
        samples: The archive's samples, without those that are rejected unread.
    """
    wanted = min(MAX_SEGMENT_SAMPLES, max(MIN_SEGMENT_SAMPLES, len(samples) // SEGMENTS_WANTED))
    groups: list[list[PlannedSample]] = [[]]
    open_until = 0
    for sample in sorted(samples, key=_begin):
        size, clean = len(groups[-1]), _begin(sample) >= open_until
        if (size >= wanted and clean) or size >= OPEN_TRIPLETS:
            groups.append([])
        groups[-1].append(sample)
        open_until = max(open_until, _end(sample))
    return [
        Segment(archive=archive, identity=identity, samples=tuple(sorted(group, key=_end)), settings=settings)
        for group in groups
        if group
    ]


def with_pieces(plans: Sequence[ShardPlan], segments: Sequence[Segment]) -> list[ShardPlan]:
    """Returns the plans with the samples of the segments taken from pieces."""
    staged: dict[tuple[str, str], PlannedSample] = {}
    for segment in segments:
        piece = segment.piece
        for position, sample in enumerate(segment.samples):
            key = sample.source, sample.frame.sample_id
            staged[key] = StagedSample(**vars(sample), piece=piece, position=position)

    def placed(sample: PlannedSample) -> PlannedSample:
        return sample if sample.reject_reason else staged.get((sample.source, sample.frame.sample_id), sample)

    return [replace(plan, samples=tuple(map(placed, plan.samples))) for plan in plans]


def stage_segment(segment: Segment, *, files: StoreFiles, layout: SampleLayout, watch: Watch) -> int:
    """Makes a segment's samples and commits them as a piece, unless the piece is already committed.

    Batch i of a piece is sample i of the segment, or it is empty and says why the sample is rejected.

    Returns:
        The number of rejects; 0 if the piece was already committed.
    """
    rejects = 0
    if files.exists(segment.piece):
        return rejects
    schema = shard_schema(height=layout.height, width=layout.width, metadata={})
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
    """Yields each sample's members, read in the archive's order; what is read ahead of its turn is kept until then."""
    spans = iter(sorted(span for sample in segment.samples for span in sample.frame.members.values()))
    held: dict[tuple[int, int], bytes] = {}
    held_bytes = 0
    for sample in segment.samples:
        end = _end(sample)
        for span in spans:
            held[span] = read(span)
            held_bytes += span[1]
            if sum(span) >= end:
                break
            if held_bytes > HELD_BYTES:
                held.clear()
                held_bytes = 0
        own = sample.frame.members
        members = {name: held.pop(span) if span in held else read(span) for name, span in own.items()}
        held_bytes = sum(map(len, held.values()))
        yield members


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
        if isinstance(planned, StagedSample):
            return pieces.take(planned.piece, planned.position)
        members = {name: read_member(path, hdf5) for name, path in planned.frame.members.items()}
        return make_sample(planned.frame, members, layout)

    return make


def _begin(sample: PlannedSample) -> int:
    return min(offset for offset, _ in sample.frame.members.values())


def _end(sample: PlannedSample) -> int:
    return max(offset + size for offset, size in sample.frame.members.values())
