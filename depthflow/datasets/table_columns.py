"""Reads the columns of a user's frame table, and tells what is wrong by row and column."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import difflib
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets.frame_table import CAMERA_COLUMNS, DEPTH_CAMERA_COLUMNS, FRAME_SCHEMA, NUMBERS_COLUMNS
from depthflow.datasets.frames import SCENE_TYPES, SPLITS
from depthflow.observability.safe_text import escape_controls

DEFAULTS = {
    "dataset": "own",
    "split": "train",
    "scene_type": "indoors",
    "depth_units_per_m": 1.0,
    "depth_invalid": [],
    "depth_kind": "planar",
    "depth_packing": "plain",
    "reason": "",
    "problem": "",
}
"""Values of columns that a table does not have, and of empty cells."""
CHOICES = {
    "split": SPLITS,
    "scene_type": SCENE_TYPES,
    "depth_kind": ("planar", "ray", "disparity"),
    "depth_packing": ("plain", "sun_rgbd"),
}
_LOWEST, _HIGHEST = 1e-9, 1e9
"""Of units and cameras."""
POSITIVE = ("depth_units_per_m", "baseline_m", *CAMERA_COLUMNS.values(), *DEPTH_CAMERA_COLUMNS.values())
_TOLD = 20
"""Number of mistakes that a message lists."""
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


class Mistakes:
    """Collects mistakes by row and column.

    Attributes:
        found: How many there are.
        columns: Columns that are wrong as a whole.
    """

    def __init__(self) -> None:
        self.found = 0
        self.columns: set[str] = set()
        self._told: list[tuple[int, str]] = []

    def add(self, column: str, texts: Any) -> Any:
        """Adds the texts of one column.

        Args:
            texts: (n,) strings, null where a row has no mistake.

        Returns:
            The texts with row and column before them.
        """
        texts = _array(texts)
        rows = np.flatnonzero(pc.is_valid(texts))
        placed = [f"row {row + 1}, column {column}: {texts[row]}" for row in rows.tolist()]
        self.found += len(rows)
        self._told += zip(rows[:_TOLD].tolist(), placed[:_TOLD], strict=True)
        result = np.full(len(texts), None, object)
        result[rows] = placed
        return pa.array(result, pa.string())

    def add_column(self, column: str, text: str) -> None:
        """Adds a mistake of a whole column."""
        self.found += 1
        self.columns.add(column)
        self._told.append((-1, f"column {column}: {text}"))

    def told(self, *others: "Mistakes") -> list[str]:
        """Returns a line for each of these mistakes and others, those of the first rows first."""
        every = [self, *others]
        lines = sorted(line for mistakes in every for line in mistakes._told)[:_TOLD]
        more = sum(mistakes.found for mistakes in every) - len(lines)
        return [*(f"  {escape_controls(text)}" for _, text in lines), *([f"  and {more} more"] if more else [])]


def unknown_columns(table: pa.Table, mistakes: Mistakes, *, needed: Collection[str]) -> None:
    """Adds the columns that a frame table does not have, twice the same, or that are needed and missing."""
    known = FRAME_SCHEMA.names
    for name in table.column_names:
        close = difflib.get_close_matches(name, known, n=1)
        if name not in known:
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            mistakes.add_column(name, f"it is unknown; {hint}")
    for name in sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        mistakes.add_column(name, "there are several of this name")
    for name in {*needed} - {*table.column_names}:
        mistakes.add_column(name, "it is missing")


def read_column(table: pa.Table, name: str, mistakes: Mistakes) -> Any:
    """Returns a column of `FRAME_SCHEMA`, with its default where the table has no value."""
    kind, default = FRAME_SCHEMA.field(name).type, DEFAULTS.get(name)
    if table.column_names.count(name) != 1:
        values = pa.nulls(table.num_rows, kind)
    else:
        values = _read(_array(table[name]), name, kind, mistakes)
    return values if default is None else pc.coalesce(values, pa.scalar(default, kind))


def _read(given: pa.Array, name: str, kind: pa.DataType, mistakes: Mistakes) -> pa.Array:
    if pa.types.is_dictionary(given.type):
        given = given.dictionary_decode()
    if pa.types.is_string(given.type) or pa.types.is_large_string(given.type):
        given = pc.utf8_trim_whitespace(given.cast(pa.string()))
        given = pc.if_else(pc.equal(given, ""), None, given)
    if pa.types.is_null(given.type):
        return pa.nulls(len(given), kind)
    if pa.types.is_list(kind):
        return _numbers(given, name, mistakes)
    if not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        return _number(given, name, kind, mistakes)
    try:
        values = given.cast(pa.string())
    except pa.ArrowException:
        mistakes.add_column(name, f"it must hold text, and has {given.type}")
        return pa.nulls(len(given), kind)
    if name in CHOICES:
        values = pc.if_else(pc.equal(values, "test"), "val", values) if name == "split" else values
        wrong = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, pa.array(CHOICES[name]))))
        _add(mistakes, name, values, wrong, f"is none of {', '.join(CHOICES[name])}")
    return values.cast(kind)


def _number(given: pa.Array, name: str, kind: pa.DataType, mistakes: Mistakes) -> pa.Array:
    """Returns a column of numbers; NaN, as pandas writes it, is no value."""
    if pa.types.is_string(given.type):
        given = pc.if_else(pc.equal(pc.utf8_lower(given), "nan"), None, given)
        wrong = pc.and_(pc.is_valid(given), pc.invert(pc.match_substring_regex(given, _NUMBER)))
        _add(mistakes, name, given, wrong, "is not a number")
        given = pc.if_else(wrong, None, given)
    try:
        values = given.cast(pa.float64())
    except pa.ArrowException:
        mistakes.add_column(name, f"it must hold numbers, and has {given.type}")
        return pa.nulls(len(given), kind)
    values = pc.if_else(pc.is_nan(values), None, values)
    wrong, what = pc.invert(pc.is_finite(values)), "finite number"
    if name in POSITIVE:
        wrong = pc.or_(wrong, pc.or_(pc.less(values, _LOWEST), pc.greater(values, _HIGHEST)))
        what = f"positive number between {_LOWEST:g} and {_HIGHEST:g}"
    if pa.types.is_integer(kind):
        wrong, what = pc.or_(wrong, pc.not_equal(values, pc.floor(values))), "positive whole number"
    _add(mistakes, name, values, wrong, f"is not a {what}")
    return pc.if_else(wrong, None, values).cast(kind)


def _numbers(given: pa.Array, name: str, mistakes: Mistakes) -> pa.Array:
    """Returns a column of lists of numbers, from lists, texts or single numbers."""
    shown, kind = given, pa.list_(pa.float64())
    if pa.types.is_string(given.type):
        given = pc.split_pattern_regex(given, r"[\s,;]+")
        flat = given.flatten()
        bad = np.flatnonzero(pc.invert(pc.match_substring_regex(flat, _NUMBER)))
        wrong = np.zeros(len(given), bool)
        wrong[pc.list_parent_indices(given).to_numpy()[bad]] = True
        _add(mistakes, name, shown, pa.array(wrong), "is not numbers separated by spaces")
        given = pc.if_else(pa.array(wrong), None, given)
    elif not (pa.types.is_list(given.type) or pa.types.is_large_list(given.type)):
        given = pa.array([None if value is None else [value] for value in given.to_pylist()])
    try:
        values = given.cast(kind)
    except pa.ArrowException:
        mistakes.add_column(name, f"it must hold lists of numbers, and has {shown.type}")
        return pa.nulls(len(shown), kind)
    is_number = pc.fill_null(pc.is_finite(values.flatten()), False).to_numpy(zero_copy_only=False)
    strange = np.isin(np.arange(len(values)), pc.list_parent_indices(values).to_numpy()[~is_number])
    if count := NUMBERS_COLUMNS.get(name):
        wrong = pc.or_(pc.not_equal(pc.list_value_length(values), count), pa.array(strange))
        _add(mistakes, name, None, wrong, f"needs {count} finite numbers")
    elif strange.any():  # NaN is no depth, whether it is listed or not.
        lists = [[n for n in numbers or [] if n is not None and math.isfinite(n)] for numbers in values.to_pylist()]
        values = pa.array(lists, kind)
    return values


def _add(mistakes: Mistakes, name: str, values: Any, wrong: Any, text: str) -> None:
    """Adds a mistake for each row that is wrong."""
    wrong = _array(pc.fill_null(wrong, False))
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return
    texts = np.full(len(wrong), None, object)
    texts[rows] = [f"{values[row]} {text}" if values is not None else f"it {text}" for row in rows.tolist()]
    mistakes.add(name, pa.array(texts, pa.string()))


def filled(values: Any, default: Any) -> Any:
    """Returns text with a default where it is null or empty."""
    return pc.if_else(pc.equal(pc.fill_null(values, ""), ""), default, values)


def _array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
