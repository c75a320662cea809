"""The layout table: a user's own frame table, as frames.csv or frames.parquet of a folder, or as the source itself.

A row is a frame. The columns image and depth say where its files are, relative to the table's folder; all other columns
of `FRAME_SCHEMA` are optional. In CSV, depth_invalid and pose are numbers separated by spaces.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from depthflow.datasets.frame_table import CAMERA_COLUMNS, DEPTH_CAMERA_COLUMNS, FRAME_SCHEMA, MEMBER_COLUMNS
from depthflow.datasets.listing import Listing, SourceFile, is_table
from depthflow.datasets.table_columns import Mistakes, filled, read_column, unknown_columns
from depthflow.datasets.table_files import find_places
from depthflow.errors import SourceError

NAMES = ("frames.csv", "frames.parquet")
_CAMERA_NEEDS = "a camera needs fx_px, and width and height or cx_px and cy_px"
_ENDING = r"\.[A-Za-z0-9]{1,5}$"


def fits(listing: Listing) -> bool:
    """Returns whether the source is a table, or has one on its top level."""
    return len(_tables(listing)) == 1


def frames(listing: Listing) -> pa.Table:
    """Returns the rows of the table as `FRAME_SCHEMA`; those whose files are missing are marked as rejects.

    Raises:
        SourceError: if the table cannot be read, or has columns or values that are not those of `FRAME_SCHEMA`. The
            message tells each by row and column, missing files included.
    """
    found = _tables(listing)
    if len(found) != 1:
        raise SourceError(f"{listing.location} must have one of {' and '.join(NAMES)} on its top level.")
    given, mistakes = _read(listing, found[0]), Mistakes()
    unknown_columns(given, mistakes)
    columns = {name: read_column(given, name, mistakes) for name in FRAME_SCHEMA.names}
    _complete_camera(columns, CAMERA_COLUMNS, mistakes, resolution_needed=False)
    _complete_camera(columns, DEPTH_CAMERA_COLUMNS, mistakes, resolution_needed=True)
    _name_frames(columns)
    missing = Mistakes()
    for name in MEMBER_COLUMNS.values():
        columns[name], lost = find_places(columns[name], listing, needed=name in ("image", "depth"))
        problems = missing.add(name, lost)
        first = pc.and_(pc.is_valid(problems), pc.equal(columns["reason"], ""))
        columns["reason"] = pc.if_else(first, "missing_member", columns["reason"])
        columns["problem"] = pc.if_else(first, problems, columns["problem"])
    if mistakes.found:
        where = "" if is_table(listing.location) else f" of {listing.location}"
        raise SourceError(f"The frame table {found[0].path}{where} has mistakes:\n{mistakes.told(missing)}")
    return pa.table(columns, schema=FRAME_SCHEMA)


def _tables(listing: Listing) -> list[SourceFile]:
    """Returns the tables of a source: itself, or those on its top level."""
    top = [file for file in listing.folders.get("", {}).values() if is_table(file.name)]
    return top if is_table(listing.location) else [file for file in top if file.name.lower() in NAMES]


def _read(listing: Listing, file: SourceFile) -> Any:
    content = io.BytesIO(listing.read(file))
    try:
        if file.name.lower().endswith(".parquet"):
            return pq.read_table(content)
        names = content.readline().decode("utf-8-sig").strip().split(",")
        content.seek(0)
        texts = dict.fromkeys((name.strip().strip('"') for name in names), pa.string())
        return pa.csv.read_csv(
            content,
            read_options=pa.csv.ReadOptions(use_threads=False),  # With threads, errors tell no row.
            convert_options=pa.csv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""]),
        )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise SourceError(f"The frame table {file.path} of {listing.location} cannot be read: {error}") from None


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
    path = pc.fill_null(columns["image"].cast(pa.string()), "")
    stem = pc.replace_substring_regex(pc.replace_substring_regex(path, r"^[./]+", ""), _ENDING, "")
    named = pc.binary_join_element_wise(columns["dataset"], stem, "/")
    columns["sample_id"] = pc.coalesce(columns["sample_id"], named)
    folder = pc.struct_field(pc.extract_regex(path, r"^(?P<folder>.*)/"), "folder")
    columns["scan"] = pc.coalesce(columns["scan"], columns["scene"], filled(folder, columns["dataset"]))
    columns["scene"] = pc.coalesce(columns["scene"], columns["scan"])
