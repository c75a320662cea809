"""The layout table: a user's own frame table, as frames.csv or frames.parquet of a folder, or as the source itself.

A row is a frame. The columns image and depth say where its files are, relative to the table's folder; all other columns
of `FRAME_SCHEMA` are optional, and so is depth where a store needs none. In CSV, cells are separated by commas,
semicolons or tabs, and the numbers of depth_invalid and of poses by spaces.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import csv
import io
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from depthflow.datasets.frame_table import (
    CAMERA_COLUMNS,
    DEPTH_CAMERA_COLUMNS,
    DEPTH_FRAME,
    DEPTH_MEMBERS,
    FRAME_SCHEMA,
    MEMBER_COLUMNS,
    VIEW_MEMBERS,
)
from depthflow.datasets.listing import Listing, SourceFile, is_table
from depthflow.datasets.table_columns import Mistakes, filled, read_column, unknown_columns
from depthflow.datasets.table_files import find_places
from depthflow.errors import SourceError

NAMES = ("frames.csv", "frames.parquet")
_CAMERA_NEEDS = "a camera needs fx_px, and width and height or cx_px and cy_px"
_ENDING = r"\.[A-Za-z0-9]{1,5}$"


def fits(listing: Listing) -> bool:
    """Returns whether the source is a table, or has one on its top level."""
    return len(_tables(listing)) > 0


def frames(listing: Listing, needed: Collection[str] = DEPTH_FRAME) -> pa.Table:
    """Returns the rows of the table as `FRAME_SCHEMA`; those whose files are missing are marked as rejects.

    Args:
        needed: Members that each row must have. If depth is none of them, a row that lacks its depth file, or another
            file that says what its depth is, is one without depth. Images of further views that are none of them need
            not be there.

    Raises:
        SourceError: if the table cannot be read, or has columns or values that are not those of `FRAME_SCHEMA`. The
            message tells each by row and column, missing files included.
    """
    found = _tables(listing)
    if len(found) != 1:
        raise SourceError(f"{listing.location} must have one of {' and '.join(NAMES)} on its top level.")
    given, mistakes = _read(listing, found[0]), Mistakes()
    where = f"The frame table {found[0].path}" + ("" if is_table(listing.location) else f" of {listing.location}")
    unknown_columns(given, mistakes, needed=[MEMBER_COLUMNS[member] for member in needed if member in DEPTH_FRAME])
    columns = {name: read_column(given, name, mistakes) for name in FRAME_SCHEMA.names}
    _complete_camera(columns, CAMERA_COLUMNS, mistakes, resolution_needed=False)
    _complete_camera(columns, DEPTH_CAMERA_COLUMNS, mistakes, resolution_needed=True)
    _name_frames(columns)
    missing = _find_files(columns, listing, needed, mistakes)
    if mistakes.found:
        raise SourceError(f"{where} has mistakes:", lines=mistakes.told(missing))
    if not given.num_rows:
        raise SourceError(f"{where} has no row: it needs one for each frame.")
    return pa.table(columns, schema=FRAME_SCHEMA)


def _find_files(columns: dict[str, Any], listing: Listing, needed: Collection[str], mistakes: Mistakes) -> Mistakes:
    """Turns paths into places, and marks rows that lack a file as rejects; returns what is missing."""
    missing = Mistakes()
    without_depth = pa.array(np.zeros(len(columns["image"]), bool))
    for member, name in MEMBER_COLUMNS.items():
        is_needed = member in needed and name not in mistakes.columns
        columns[name], lost = find_places(columns[name], listing, needed=is_needed and member in DEPTH_FRAME)
        if member in VIEW_MEMBERS and member not in needed:
            continue
        if member in DEPTH_MEMBERS and "depth" not in needed:
            without_depth = pc.or_(without_depth, pc.is_valid(lost))
            continue
        problems = missing.add(name, lost)
        first = pc.and_(pc.is_valid(problems), pc.equal(columns["reason"], ""))
        columns["reason"] = pc.if_else(first, "missing_member", columns["reason"])
        columns["problem"] = pc.if_else(first, problems, columns["problem"])
    for member in DEPTH_MEMBERS:
        name = MEMBER_COLUMNS[member]
        columns[name] = pc.if_else(without_depth, None, columns[name])
    return missing


def _tables(listing: Listing) -> list[SourceFile]:
    """Returns the tables of a source: itself, or those on its top level."""
    top = [file for file in listing.folders.get("", {}).values() if is_table(file.name)]
    return top if is_table(listing.location) else [file for file in top if file.name.lower() in NAMES]


def _read(listing: Listing, file: SourceFile) -> Any:
    content = listing.read(file)
    try:
        if file.name.lower().endswith(".parquet"):
            return pq.ParquetFile(io.BytesIO(content)).read()
        return _read_csv(content)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        advice = ". Save it as CSV in UTF-8." if isinstance(error, UnicodeDecodeError) else ""
        raise SourceError(
            f"The frame table {file.path} of {listing.location} cannot be read: {str(error).strip()}{advice}"
        ) from None


def _read_csv(content: bytes) -> Any:
    """Returns a table of texts, with the separator that is the most frequent one in the line of column names."""
    text = content.decode("utf-8-sig").lstrip("\r\n")
    separator = max(",;\t", key=text[: len(text.splitlines()[0])].count) if text else ","
    names = next(csv.reader(io.StringIO(text, newline=None), delimiter=separator), [])
    table = pa.csv.read_csv(
        io.BytesIO(content),
        # With threads, errors tell no row. A cell must be smaller than a block.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=len(content) + 1),
        parse_options=pa.csv.ParseOptions(delimiter=separator),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    return table.rename_columns([name.strip() for name in table.column_names])


def _complete_camera(
    columns: dict[str, Any], names: dict[str, str], mistakes: Mistakes, *, resolution_needed: bool
) -> None:
    """Fills what a camera states by omission: square pixels and a centred principal point."""
    fx, cx, cy, width, height = (columns[names[name]] for name in ("fx_px", "cx_px", "cy_px", "width", "height"))
    stated = pc.is_valid(pc.coalesce(*(columns[name].cast(pa.float64()) for name in names.values())))
    centred = pc.or_(pc.is_null(cx), pc.is_null(cy))
    sized = pc.or_(pc.or_(centred, resolution_needed), pc.or_(pc.is_valid(width), pc.is_valid(height)))
    for name, values, needed in (("fx_px", fx, stated), ("width", width, sized), ("height", height, sized)):
        lacks = pc.and_(pc.and_(stated, needed), pc.is_null(values))
        mistakes.add(names[name], pc.if_else(lacks, _CAMERA_NEEDS, None))
    columns[names["fy_px"]] = pc.coalesce(columns[names["fy_px"]], columns[names["fx_px"]])
    for centre, size in (("cx_px", "width"), ("cy_px", "height")):
        half = pc.divide(columns[names[size]].cast(pa.float64()), 2.0)
        columns[names[centre]] = pc.coalesce(columns[names[centre]], half)


def _name_frames(columns: dict[str, Any]) -> None:
    """Fills ids by the images' paths, and scans and scenes by their folders."""
    path = pc.replace_substring_regex(pc.fill_null(columns["image"].cast(pa.string()), ""), r"^(\./+)+", "")
    stem = pc.replace_substring_regex(pc.replace_substring_regex(path, r"^[./]+", ""), _ENDING, "")
    named = pc.binary_join_element_wise(columns["dataset"], stem, "/")
    columns["sample_id"] = pc.coalesce(columns["sample_id"], named)
    folder = pc.struct_field(pc.extract_regex(path, r"^(?P<folder>.*)/"), "folder")
    columns["scan"] = pc.coalesce(columns["scan"], columns["scene"], filled(folder, columns["dataset"]))
    columns["scene"] = pc.coalesce(columns["scene"], columns["scan"])
