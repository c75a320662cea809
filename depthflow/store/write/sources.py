"""Lists what the sources hold, their triplets and cameras, and compares it with DIODE's catalogue.

A tree is listed directly. An archive is listed once by a pass over all of it, whose result is kept beside the store:

    .staging/ARCHIVE/members.parquet   what the archive holds
    .staging/ARCHIVE/index.gzidx       where its decompression can start

Either becomes a `Source`.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depthflow.datasets.archive import Contents, Member, archive_listing, scan_archive
from depthflow.datasets.catalogue import Accounting, account, expected_counts, is_diode
from depthflow.datasets.diode import MEMBER_SUFFIXES
from depthflow.datasets.frames import Frame
from depthflow.datasets.layouts import find_frames, recognised
from depthflow.datasets.listing import Listing, list_tree
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.storage.files import StoreFiles
from depthflow.storage.foreign_file import UnsafeFileError, read_foreign_file

STAGING = ".staging"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A listed source.

    Attributes:
        location: Path or URI of a tree or an archive.
        frames: Everything it holds, incomplete frames included.
    """

    location: str
    frames: Sequence[Frame]


@dataclass(frozen=True, kw_only=True)
class ArchiveSource(Source):
    """A listed archive.

    Attributes:
        identity: Identifies its state; see `archive_identity`.
    """

    identity: str


def read_tree(location: str, splits: tuple[str, ...], layout: str | None = None) -> Source:
    """Lists a tree as a source.

    Args:
        layout: A name in `depthflow.datasets.layouts.LAYOUTS`; None recognises it.
    """
    return Source(location=location, frames=_frames(list_tree(location), splits, layout))


def _frames(listing: Listing, splits: tuple[str, ...], layout: str | None) -> list[Frame]:
    return find_frames(listing, layout or recognised(listing), splits)


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
    archive: str, identity: str, splits: tuple[str, ...], files: StoreFiles, layout: str | None = None
) -> ArchiveSource:
    """Returns an archive that `list_archive` has listed as a source; see `read_tree`."""
    listing = archive_listing(archive, read_contents(identity, files))
    return ArchiveSource(location=archive, frames=_frames(listing, splits, layout), identity=identity)


def account_for(sources: Sequence[Source], splits: tuple[str, ...], *, must_be_diode: bool = False) -> Accounting:
    """Counts complete triplets with DIODE's names; what is of another data set is not counted.

    Args:
        must_be_diode: Whether to compare with DIODE's catalogue even if no source has the names of its scans.
    """
    found = [
        [
            (t.split, t.scene_type, t.scene, t.scan, t.sample_id)
            for t in source.frames
            if t.dataset == "diode" and not t.problem and t.members.keys() == MEMBER_SUFFIXES.keys()
        ]
        for source in sources
    ]
    catalogue = expected_counts()
    compared = must_be_diode or any(is_diode(of_source, catalogue=catalogue) for of_source in found)
    return account(chain.from_iterable(found), splits=splits, catalogue=catalogue if compared else {})


def read_member(path: str) -> bytes:
    """Returns a file's bytes. Failing to read one ends the run: a lost disk must not look like bad samples.

    Raises:
        RejectError: unsafe_member, if it is not a plain file or too large.
        SourceError: if the file is gone, or its disk or object store does not let it be read.
    """
    try:
        return read_foreign_file(path)
    except UnsafeFileError as error:
        raise RejectError("unsafe_member", str(error)) from None
    except OSError as error:
        raise SourceError(
            f"{path} can no longer be read: {error.strerror or 'it is gone'}. Fix the source, then run the same "
            "command again."
        ) from None
