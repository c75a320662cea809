"""Finds the files that a user's frame table names."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets.listing import Listing, printable
from depthflow.errors import SourceError
from depthflow.storage.location import is_uri, object_store, reported

_ABSOLUTE = r"^(/|[a-z][a-z0-9+.-]*://)"
_LISTED_AT_ONCE = 32


def find_places(paths: pa.Array, listing: Listing, *, needed: bool) -> tuple[pa.Array, pa.Array]:
    """Returns the places of files, and what is wrong where there is no such file.

    Args:
        paths: (n,) binary, relative to the table's folder, absolute or URIs; FILE.h5#DATASET[INDEX] in an HDF5 file.
        needed: Whether each row must have one.

    Returns:
        (n,) binary, null where there is none; (n,) strings, null where nothing is wrong.
    """
    from depthflow.datasets.hdf5_file import INSIDE  # --help lists the layouts, and must not wait for libraries.

    names = pc.replace_substring_regex(paths.cast(pa.string()), r"^\./+", "")
    if listing.root is None:
        known = pa.array([file.path for file in listing.files], pa.string())
        at = pc.index_in(names, known)
        places = pa.array([file.place for file in listing.files], pa.string()).take(at)
        there = pc.is_valid(at)
    else:
        absolute = pc.match_substring_regex(names, _ABSOLUTE)
        places = pc.if_else(absolute, names, pc.binary_join_element_wise(listing.root, names, "/"))
        files = pc.replace_substring_regex(places, INSIDE, r"\1")
        known = _files_beside(pc.unique(pc.struct_field(pc.extract_regex(files, r"^(?P<folder>.*)/"), "folder")))
        there = pc.or_(pc.is_in(places, known), pc.is_in(files, known))
    absent = pc.binary_join_element_wise("there is no file ", names, "")
    lost = pc.if_else(pc.is_null(names), "it names no file" if needed else None, pc.if_else(there, None, absent))
    return pc.if_else(pc.is_valid(lost), None, places).cast(pa.binary()), lost


def _files_beside(folders: Any) -> pa.Array:
    """Returns the paths of the files in some folders."""
    with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        parts = pool.map(_files_in, [folder for folder in folders.to_pylist() if folder is not None])
    return pa.concat_arrays([pa.array([], pa.string()), *parts])


def _files_in(folder: str) -> pa.Array:
    return pa.array([f"{folder}/{name}" for name in _names_in(folder)], pa.string())


def _names_in(folder: str) -> Iterable[str]:
    if is_uri(folder):
        filesystem, path = object_store(folder, SourceError)
        with reported(f"The folder {folder} cannot be listed", SourceError):
            try:
                entries = filesystem.ls(path, detail=True)
                return [entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file"]
            except FileNotFoundError:
                return []
    try:
        return [entry.name for entry in os.scandir(folder or "/") if _is_named_file(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SourceError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from None


def _is_named_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a plain file, or a link to one, whose name a table can hold."""
    is_file = entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)  # noqa: PTH113  # Of a loop: False.
    return is_file and printable(entry.name) == entry.name
