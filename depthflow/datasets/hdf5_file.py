"""Reads arrays of HDF5 files, MATLAB's v7.3 among them: whole small files, and slices of large ones in place.

The place of a slice is PATH#DATASET[INDEX], such as nyu_depth_v2_labeled.mat#depths[7].T: PATH ends .h5, .hdf5, .he5 or
.mat, [INDEX] takes one element of the first axis, and .T reverses the axes, since MATLAB stores arrays transposed. Both
are optional.
"""

import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from depthflow.datasets.image_file import MAX_PIXELS
from depthflow.datasets.reject import RejectError
from depthflow.errors import DepthflowError, SourceError
from depthflow.storage.foreign_file import MAX_FILE_BYTES, UnsafeFileError, why_not_plain
from depthflow.storage.location import is_uri, object_store, reported

MAGIC = b"\x89HDF\r\n\x1a\n"
_OPEN_FILES = 4
"""Most files that a task keeps open."""
_BLOCK_BYTES, _BLOCKS = 2**20, 32
"""An object is read in blocks of this size, and a task keeps this many."""
_SLICE = re.compile(
    r"(?P<path>.+\.(?:h5|hdf5|he5|mat))#(?P<dataset>[^\[\]]+?)(?:\[(?P<index>\d+)\])?(?P<transposed>\.T)?",
    re.IGNORECASE | re.DOTALL,
)
INSIDE = r"(?is)(\.(?:h5|hdf5|he5|mat))#[^\[\]]+(?:\[\d+\])?(?:\.T)?$"
"""The end of a slice's place, from the ending of the file on; for Arrow, whose patterns are RE2's."""


@dataclass(frozen=True)
class Hdf5Slice:
    """An array in an HDF5 file.

    Attributes:
        path: Path or URI of the file.
        dataset: Name of the dataset.
        index: Element of its first axis; None for all of it.
        transposed: Whether to reverse the axes of what is read.
    """

    path: str
    dataset: str
    index: int | None
    transposed: bool


def parse_slice(place: str) -> Hdf5Slice | None:
    """Returns the slice that a place names, or None if it is the place of a file, whose name may contain # too."""
    found = _SLICE.fullmatch(place)
    if found is None or (not is_uri(place) and Path(place).exists()):
        return None
    index = found["index"]
    return Hdf5Slice(found["path"], found["dataset"], None if index is None else int(index), bool(found["transposed"]))


class Hdf5Files:
    """The files that a task reads slices of, each of which it opens once."""

    def __init__(self) -> None:
        self._opened = lru_cache(_OPEN_FILES)(open_hdf5)

    def read(self, wanted: Hdf5Slice) -> bytes:
        """Returns a slice as the bytes of an .npy.

        Raises:
            RejectError: unreadable_array, if the file is damaged or the dataset is missing or not a plain array.
            UnsafeFileError: if the path is not that of a plain file.
            OSError: if the file does not exist or its disk does not let it be read.
            SourceError: if an object store does not let it be read.
        """
        with readable(wanted.path):
            array = _read_slice(self._opened(wanted.path), wanted)
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(array.T if wanted.transposed else array), allow_pickle=False)
        return stream.getvalue()


def open_hdf5(path: str) -> h5py.File:
    """Opens a file of any size on a disk, s3:// or gs://; reading it needs `readable`."""
    handle: IO[bytes]
    if is_uri(path):
        filesystem, key = object_store(path, SourceError)
        handle = filesystem.open(
            key, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options={"maxblocks": _BLOCKS}
        )
    else:
        if problem := why_not_plain(Path(path).stat().st_mode):
            raise UnsafeFileError(f"{path} {problem}")
        handle = Path(path).open("rb")  # noqa: SIM115  # The HDF5 file keeps it.
    return h5py.File(handle, "r")


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turns what h5py raises for a damaged file into a RejectError; errors of a disk or an object store pass.

    Raises:
        RejectError: unreadable_array.
        SourceError: if an object store does not let it be read.
    """
    with reported(f"{what} cannot be read", SourceError) if is_uri(what) else nullcontext():
        try:
            yield
        except (RejectError, DepthflowError, MemoryError):
            raise
        except Exception as error:  # For damage, h5py raises KeyError, OverflowError, OSError without a number, ...
            of_disk = isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError)
            if of_disk or type(error).__module__ != "builtins":
                raise
            raise RejectError("unreadable_array", f"{what} is not a plain HDF5 file: {error}") from None


def plain_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Returns a numeric dataset all of whose data are in the file itself, or raises RejectError(unreadable_array)."""
    found: Any = file
    for part in name.strip("/").split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise RejectError("unreadable_array", f"there is no dataset {name} in the HDF5 file")
        if not isinstance(link, h5py.HardLink):  # An external link may name any file of the machine.
            raise RejectError("unreadable_array", f"{name} of the HDF5 file is a link, which is not followed")
        found = found[part]
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise RejectError("unreadable_array", f"{name} of the HDF5 file is not an array")
    if found.is_virtual or found.external:
        raise RejectError("unreadable_array", f"the data of {name} lie in other files than the HDF5 file")
    if found.dtype.kind not in "biuf":
        raise RejectError("unreadable_array", f"{name} of the HDF5 file must be numeric, received {found.dtype}")
    if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > MAX_FILE_BYTES:
        raise RejectError(
            "unreadable_array", f"{name} of the HDF5 file has chunks of {found.chunks}, which are too large"
        )
    return found


def _read_slice(file: h5py.File, wanted: Hdf5Slice) -> np.ndarray:
    dataset = plain_dataset(file, wanted.dataset)
    shape = dataset.shape
    if wanted.index is not None:
        if not shape or wanted.index >= shape[0]:
            raise RejectError(
                "unreadable_array", f"{wanted.dataset} has no element {wanted.index}: its shape is {shape}"
            )
        shape = shape[1:]
    if math.prod(shape) * dataset.dtype.itemsize > 8 * MAX_PIXELS:
        raise RejectError("unreadable_array", f"the array {wanted.dataset} of shape {shape} is too large")
    return np.asarray(dataset[() if wanted.index is None else wanted.index])


def decode_hdf5(content: bytes, choose: Callable[[list[str]], str]) -> np.ndarray:
    """Decodes the depth map of a whole file.

    Args:
        choose: Returns the name of the depth map, given those of the datasets at the top that may be one.

    Raises:
        RejectError: unreadable_array.
    """
    with readable("the depth"), h5py.File(io.BytesIO(content), "r") as file:
        names = [name for name in map(str, file) if _is_plane(file, name)]
        return _read_slice(file, Hdf5Slice("", choose(names), None, transposed=False))


def _is_plane(file: h5py.File, name: str) -> bool:
    found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iuf":
        return False
    return len(found.shape or ()) == 2 or (len(found.shape or ()) == 3 and found.shape[2] == 1)
