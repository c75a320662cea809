"""Lists what the sources hold, their triplets and cameras, and compares it with DIODE's catalogue.

A tree is listed directly. An archive is listed once by a pass over all of it, whose result is kept beside the store:

    .staging/ARCHIVE/members.parquet   what the archive holds
    .staging/ARCHIVE/index.gzidx       where the decompression of a .tar.gz can start; else empty

Either becomes a `Source`.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depthflow.datasets.archive import Contents, Member, archive_listing, scan_archive
from depthflow.datasets.catalogue import Accounting, account, expected_counts, is_diode
from depthflow.datasets.frame_table import DEPTH_FRAME, FRAME_SCHEMA, texts
from depthflow.datasets.hdf5_file import Hdf5Files, parse_slice
from depthflow.datasets.layouts import find_frames, recognised
from depthflow.datasets.listing import list_tree
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.storage.files import StoreFiles
from depthflow.storage.foreign_file import UnsafeFileError, read_foreign_file

STAGING = ".staging"
ACCOUNTED = ("split", "scene_type", "scene", "scan", "sample_id")
"""Columns of a frame that `account` counts by."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A listed source.

    Attributes:
        location: Path or URI of a tree, a table or an archive.
        frames: Everything it holds as `FRAME_SCHEMA`, incomplete frames included.
        layout: Name of its layout, given or recognised.
    """

    location: str
    frames: pa.Table
    layout: str = "diode"


@dataclass(frozen=True, kw_only=True)
class ArchiveSource(Source):
    """A listed archive.

    Attributes:
        identity: Identifies its state; see `archive_identity`.
    """

    identity: str


def read_tree(
    location: str, splits: tuple[str, ...], layout: str | None = None, *, needed: Collection[str] = DEPTH_FRAME
) -> Source:
    """Lists a tree as a source.

    Args:
        layout: A name in `depthflow.datasets.layouts.LAYOUTS`; None recognises it.
        needed: Members that a frame must have to become a sample.
    """
    listing = list_tree(location)
    layout = layout or recognised(listing, needed=needed)
    return Source(location=location, frames=find_frames(listing, layout, splits, needed=needed), layout=layout)


def list_archive(
    archive: str, identity: str, files: StoreFiles, *, threads: int, progress: Callable[[str, int], None]
) -> None:
    """Writes an archive's gzip index and then the list of its members, unless the list is already there."""
    folder = f"{STAGING}/{identity}"
    if files.exists(f"{folder}/members.parquet"):
        return
    with tempfile.NamedTemporaryFile(suffix=".gzidx") as local:
        contents = scan_archive(archive, local.name, threads=threads, progress=progress)
        with files.commit(f"{folder}/index.gzidx") as handle:
            while chunk := local.read(2**24):
                handle.write(chunk)
    columns: dict[str, list[Any]] = {name: [getattr(m, name) for m in contents.members] for name in Member._fields}
    columns["text"] = [contents.texts.get(number) for number in range(len(contents.members))]
    metadata = {"camera": contents.camera} if contents.camera is not None else {}
    with files.commit(f"{folder}/members.parquet") as handle:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), handle)


def read_contents(identity: str, files: StoreFiles) -> Contents:
    """Reads what `list_archive` wrote."""
    table = pq.read_table(pa.BufferReader(files.read(f"{STAGING}/{identity}/members.parquet")))
    members = [Member(*row) for row in zip(*(table[name].to_pylist() for name in Member._fields), strict=True)]
    texts = {number: text for number, text in enumerate(table["text"].to_pylist()) if text is not None}
    return Contents(members, (table.schema.metadata or {}).get(b"camera"), texts)


def read_archive(
    archive: str,
    identity: str,
    splits: tuple[str, ...],
    files: StoreFiles,
    layout: str | None = None,
    *,
    needed: Collection[str] = DEPTH_FRAME,
) -> ArchiveSource:
    """Returns an archive that `list_archive` has listed as a source; see `read_tree`."""
    listing = archive_listing(archive, read_contents(identity, files))
    layout = layout or recognised(listing, needed=needed)
    frames = find_frames(listing, layout, splits, needed=needed)
    return ArchiveSource(location=archive, frames=frames, layout=layout, identity=identity)


def account_for(sources: Sequence[Source], splits: tuple[str, ...], *, must_be_diode: bool = False) -> Accounting:
    """Counts the complete frames of DIODE; nothing is expected of other data sets.

    Args:
        must_be_diode: Whether to compare with DIODE's catalogue even if no source has the names of its scans.
    """
    catalogue = expected_counts()
    whole = [source.frames.filter(pc.equal(source.frames["reason"], "")) for source in sources]
    diode = [frames.filter(pc.equal(frames["dataset"], "diode")) for frames in whole]
    compared = must_be_diode or any(is_diode(_places_and_ids(f), catalogue=catalogue) for f in diode if f.num_rows)
    counted = pa.concat_tables([FRAME_SCHEMA.empty_table(), *diode])
    return account(_places_and_ids(counted), splits=splits, catalogue=catalogue if compared else {})


def _places_and_ids(frames: pa.Table) -> Iterator[Any]:
    """Yields the places and ids that `account` counts."""
    return zip(*(texts(frames[name]) for name in ACCOUNTED), strict=True)


def read_member(path: str, hdf5: Hdf5Files | None = None) -> bytes:
    """Returns a file's bytes. Failing to read one ends the run: a lost disk must not look like bad samples.

    Args:
        path: Path or URI of a file, or the place of an array in an HDF5 file, which is read as an .npy.
        hdf5: Keeps HDF5 files open between calls.

    Raises:
        RejectError: unsafe_member, if it is not a plain file or too large; unreadable_array, if the HDF5 file is
            damaged.
        SourceError: if the file is gone, or its disk or object store does not let it be read.
    """
    try:
        if wanted := parse_slice(path):
            with suppress(FileNotFoundError):  # An object's name may look like an array's place.
                return (hdf5 or Hdf5Files()).read(wanted)
        return read_foreign_file(path)
    except UnsafeFileError as error:
        raise RejectError("unsafe_member", str(error)) from None
    except OSError as error:
        raise SourceError(
            f"{path} can no longer be read: {error.strerror or 'it is gone'}. Fix the source, then run the same "
            "command again."
        ) from None
