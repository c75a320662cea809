"""What the sources hold: their triplets and cameras, and the account of them against DIODE's catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthflow.datasets.archive import archive_triplets, is_archive
from depthflow.datasets.camera import CAMERA_FILE, Camera, parse_camera, read_camera
from depthflow.datasets.catalogue import Accounting, account, expected_counts
from depthflow.datasets.diode import MEMBER_SUFFIXES, Triplet, find_triplets
from depthflow.errors import SourceError
from depthflow.storage.files import StoreFiles
from depthflow.storage.location import is_uri, object_store, reported
from depthflow.store.write.plan import PlannedSample
from depthflow.store.write.staging import read_contents


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that was listed.

    Attributes:
        location: a tree's or an archive's path or URI.
        triplets: what it holds, whole or not.
        camera: what it states, or None.
    """

    location: str
    triplets: list[Triplet]
    camera: Camera | None


def list_source(location: str, splits: tuple[str, ...], files: StoreFiles, identities: Mapping[str, str]) -> Source:
    """Lists a source; an archive must have been listed to staging before.

    Args:
        identities: archive to its identity.
    """
    if not is_archive(location):
        return Source(location=location, triplets=find_triplets(location, splits), camera=read_camera(location))
    contents = read_contents(identities[location], files)
    camera = None
    if contents.camera is not None:
        camera = parse_camera(contents.camera, where=f"{CAMERA_FILE} of {location}")
    return Source(location=location, triplets=archive_triplets(location, contents.members, splits), camera=camera)


def account_for(sources: Sequence[Source], splits: tuple[str, ...]) -> Accounting:
    """What the sources hold against DIODE's catalogue: whole triplets with DIODE's names, for the rest is refused."""
    found = (
        (t.split, t.scene_type, t.scene, t.scan, t.sample_id)
        for source in sources
        for t in source.triplets
        if not t.problem and t.paths.keys() == MEMBER_SUFFIXES.keys()
    )
    return account(found, splits=splits, catalogue=expected_counts())


def read_member(path: str) -> bytes:
    """A file's bytes. One that cannot be read stops the run: a disk that went away must not look like bad samples.

    Raises:
        SourceError: if the file is not there any more, or its disk or object store refuses.
    """
    try:
        if not is_uri(path):
            return Path(path).read_bytes()
        filesystem, key = object_store(path, SourceError)
        with reported(f"{path} cannot be read", SourceError):
            return filesystem.cat_file(key)
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read any more: {error.strerror or 'it is gone'}. Mend the source, then run again."
        ) from None


def read_members(planned: PlannedSample) -> dict[str, bytes]:
    """The bytes of a tree's triplet, rgb, depth and mask."""
    return {name: read_member(path) for name, path in planned.triplet.paths.items()}
