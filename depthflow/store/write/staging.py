"""From an archive to samples that can be dealt to shards.

A shard is a fair draw of its split, so its samples lie all over the archive; inflating an archive from all over costs
three times its decompression. So an archive is read in contiguous segments, each by one task that makes its samples and
puts them, small by then, into a piece: an Arrow file with one batch a sample. Shards are then made from pieces. With
the pass that lists the archive's members, each byte is inflated twice.

    .staging/ARCHIVE/members.parquet   what the archive holds
    .staging/ARCHIVE/index.gzidx       where its decompression can start
    .staging/ARCHIVE/DIGEST.arrow      a piece
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from depthflow.datasets.archive import ArchiveReader, Contents, Member, open_archive, scan_archive
from depthflow.datasets.camera import Camera
from depthflow.datasets.triplet import RejectError
from depthflow.storage.files import StoreFiles
from depthflow.store.schema import shard_schema
from depthflow.store.write.plan import PlannedSample
from depthflow.store.write.sample import Sample, SampleLayout, from_batch, make_sample, to_table
from depthflow.store.write.shard import Watch, timed

STAGING = ".staging"
SEGMENTS_WANTED = 16
"""A small archive is still read in this many segments, so that its samples are made in parallel..."""
MIN_SEGMENT_SAMPLES, MAX_SEGMENT_SAMPLES = 8, 64
"""...as long as each has 8; and one of 64 DIODE samples is 480 MB of decompressed tar."""
OPEN_TRIPLETS = 256
"""A segment ends where no triplet is half read; where that never happens, after this many samples all the same."""
HELD_BYTES = 512 * 2**20
"""Bytes of half-read triplets that a task keeps; beyond, it reads them again."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of an archive, one task's work.

    Attributes:
        archive: its path or URI.
        identity: of the archive's state.
        samples: in the order in which a sweep through the archive completes them.
        settings: what else their content depends on, in canonical form.
    """

    archive: str
    identity: str
    samples: tuple[PlannedSample, ...]
    settings: str

    @property
    def begin(self) -> int:
        """Where its first member begins, in bytes of the decompressed tar."""
        return min(map(_begin, self.samples))

    @property
    def end(self) -> int:
        """Where its last member ends."""
        return max(map(_end, self.samples))

    @property
    def piece(self) -> str:
        """The piece's path in the store, which names what the piece holds."""
        content = [(p.triplet.sample_id, p.triplet.split, sorted(p.triplet.spans.items())) for p in self.samples]
        digest = xxhash.xxh3_128_hexdigest(repr((content, self.settings)).encode())
        return f"{STAGING}/{self.identity}/{digest}.arrow"


def list_archive(
    archive: str, identity: str, files: StoreFiles, *, threads: int, progress: Callable[[str, int], None]
) -> None:
    """Lists an archive's members and writes its gzip index, once; the list is committed last."""
    folder = f"{STAGING}/{identity}"
    if files.exists(f"{folder}/members.parquet"):
        return
    with tempfile.NamedTemporaryFile(suffix=".gzidx") as local:
        contents = scan_archive(archive, local.name, threads=threads, progress=progress)
        with files.commit(f"{folder}/index.gzidx") as handle:
            while chunk := local.read(2**24):
                handle.write(chunk)
    columns = {name: [getattr(member, name) for member in contents.members] for name in Member._fields}
    metadata = {"camera": contents.camera} if contents.camera is not None else {}
    with files.commit(f"{folder}/members.parquet") as handle:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), handle)


def read_contents(identity: str, files: StoreFiles) -> Contents:
    """What `list_archive` found."""
    table = pq.read_table(pa.BufferReader(files.read(f"{STAGING}/{identity}/members.parquet")))
    members = [Member(*row) for row in zip(*(table[name].to_pylist() for name in Member._fields), strict=True)]
    return Contents(members, (table.schema.metadata or {}).get(b"camera"))


def plan_segments(samples: Sequence[PlannedSample], *, archive: str, identity: str, settings: str) -> list[Segment]:
    """Cuts an archive's samples into segments: contiguous in the archive wherever its triplets are.

    Args:
        samples: of this archive, those that are not refused unread.
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


def with_pieces(samples: Sequence[PlannedSample], segments: Sequence[Segment]) -> list[PlannedSample]:
    """The samples, those of the segments with the place where they will be found made."""
    places = {
        _key(sample): (segment.piece, position)
        for segment in segments
        for position, sample in enumerate(segment.samples)
    }
    return [replace(sample, staged=places.get(_key(sample))) for sample in samples]


def stage_segment(
    segment: Segment, *, files: StoreFiles, layout: SampleLayout, camera: Camera | None, watch: Watch
) -> int:
    """Makes a segment's samples and commits them as a piece, or finds it committed.

    Batch i of a piece is sample i of the segment, or is empty and says why it was refused.

    Returns:
        How many were refused just now.
    """
    rejects = 0
    if files.exists(segment.piece):
        return rejects
    schema = shard_schema(height=layout.height, width=layout.width, metadata={})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        files.open(f"{STAGING}/{segment.identity}/index.gzidx") as index,
        open_archive(segment.archive, index, begin=segment.begin, end=segment.end) as archive,
        files.commit(segment.piece) as handle,
        pa.ipc.new_file(handle, schema, options=options) as writer,
    ):
        members = sweep(segment, archive)
        make = timed(lambda planned: make_sample(planned.triplet, next(members), layout, camera))
        for planned in segment.samples:
            try:
                with watch(planned):
                    sample, seconds = make(planned)
                (batch,) = to_table([sample], schema).to_batches()
                note = {"seconds": repr(seconds)}
            except RejectError as error:
                batch = pa.RecordBatch.from_pylist([], schema=schema)
                note = {"reason": error.reason, "message": error.message}
                rejects += 1
            writer.write_batch(batch, custom_metadata=note)
    return rejects


def sweep(segment: Segment, archive: ArchiveReader) -> Iterator[Mapping[str, bytes]]:
    """Each sample's members, read in the archive's order; what is read before its turn is kept meanwhile."""
    spans = iter(sorted(span for sample in segment.samples for span in sample.triplet.spans.values()))
    held: dict[tuple[int, int], bytes] = {}
    held_bytes = 0
    for sample in segment.samples:
        end = _end(sample)
        for span in spans:
            held[span] = archive.read(span)
            held_bytes += span[1]
            if sum(span) >= end:
                break
            if held_bytes > HELD_BYTES:
                held.clear()
                held_bytes = 0
        own = sample.triplet.spans
        members = {name: held.pop(span) if span in held else archive.read(span) for name, span in own.items()}
        held_bytes = sum(map(len, held.values()))
        yield members


class PieceReader:
    """Takes samples out of pieces, each piece opened once.

    Args:
        files: of the store.
    """

    def __init__(self, files: StoreFiles) -> None:
        self._files = files
        self._pieces: dict[str, pa.ipc.RecordBatchFileReader] = {}

    def take(self, piece: str, position: int) -> tuple[Sample, float]:
        """A sample and how many seconds it took to make; RejectError if it was refused."""
        if piece not in self._pieces:
            self._pieces[piece] = pa.ipc.open_file(self._files.open(piece))
        found = self._pieces[piece].get_batch_with_custom_metadata(position)
        note = {key.decode(): value.decode() for key, value in found.custom_metadata.items()}
        if "reason" in note:
            raise RejectError(note["reason"], note["message"])
        return from_batch(found.batch), float(note["seconds"])


def _key(sample: PlannedSample) -> tuple[str, tuple[tuple[str, tuple[int, int]], ...]]:
    """Of all samples this one's alone, whatever ids are doubled."""
    return sample.source, tuple(sorted(sample.triplet.spans.items()))


def _begin(sample: PlannedSample) -> int:
    return min(offset for offset, _ in sample.triplet.spans.values())


def _end(sample: PlannedSample) -> int:
    return max(offset + size for offset, size in sample.triplet.spans.values())
