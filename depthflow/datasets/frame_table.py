"""The frame table: frames as the rows of an Arrow table, in which a million of them are listed, divided and planned."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.frames import DepthEncoding, Frame

MEMBER_COLUMNS = {
    "rgb": "image",
    "depth": "depth",
    "mask": "mask",
    "confidence": "confidence",
    "right": "right_image",
    "previous": "previous_image",
    "next": "next_image",
}
"""Names of members in `Frame.members`, and the columns that say where they are."""
DEPTH_FRAME = ("rgb", "depth")
"""Members that a frame needs in a store of kind depth."""
DEPTH_MEMBERS = ("depth", "mask", "confidence")
"""Members that say what the depth is: without one that a frame requires, it has none."""
VIEW_MEMBERS = ("right", "previous", "next")
"""Members that are images of further views of the scene."""
CAMERA_COLUMNS = {name: name for name in ("fx_px", "fy_px", "cx_px", "cy_px", "width", "height")}
"""Fields of `Frame.camera`, and their columns."""
DEPTH_CAMERA_COLUMNS = {name: f"depth_{name}" for name in CAMERA_COLUMNS}
"""Fields of `Frame.depth_camera`, and their columns."""
ENCODING_COLUMNS = {
    "units_per_m": "depth_units_per_m",
    "invalid": "depth_invalid",
    "kind": "depth_kind",
    "packing": "depth_packing",
    "min_confidence": "min_confidence",
}
"""Fields of `Frame.encoding`, and their columns."""
CONTENT_COLUMNS = (*ENCODING_COLUMNS.values(), *CAMERA_COLUMNS.values(), *DEPTH_CAMERA_COLUMNS.values())
"""Columns that a sample depends on besides its files."""
PLAIN_CONTENT = {
    **dict.fromkeys(CONTENT_COLUMNS),
    **{column: getattr(DepthEncoding(), name) for name, column in ENCODING_COLUMNS.items()},
    "depth_invalid": [],
}
"""Their values where depth files hold metres and no camera is stated."""

NUMBERS_COLUMNS = {"pose": 16, "previous_pose": 16, "next_pose": 16, "previous_camera": 4, "next_camera": 4}
"""Fields of `Frame` that are so many numbers, and their columns."""
VIEW_COLUMNS = (*(name for name in NUMBERS_COLUMNS if name != "pose"), "baseline_m", "right_cx_px")
"""What a sample with further views depends on besides; null in every other frame."""

_TEXTS = ("dataset", "split", "scene_type", "scene", "scan", "sample_id")
_NUMBERS = pa.list_(pa.float64())
_SIZES = ("width", "height", "depth_width", "depth_height")

FRAME_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("time_s", pa.float64()),
        *((name, pa.binary()) for name in MEMBER_COLUMNS.values()),
        ("depth_units_per_m", pa.float64()),
        ("depth_invalid", _NUMBERS),
        ("depth_kind", pa.string()),
        ("depth_packing", pa.string()),
        ("min_confidence", pa.float64()),
        *(
            (name, pa.int64() if name in _SIZES else pa.float64())
            for name in (*CAMERA_COLUMNS.values(), *DEPTH_CAMERA_COLUMNS.values())
        ),
        *((name, _NUMBERS) for name in NUMBERS_COLUMNS),
        ("baseline_m", pa.float64()),
        ("right_cx_px", pa.float64()),
        ("reason", pa.string()),
        ("problem", pa.string()),
    ]
)
"""A column for each field of `Frame`, null where it is None. A frame that has a `reason` is rejected."""

_FRAMES_AT_ONCE = 2**14


def frame_table(frames: Iterable[Frame], *, depth_needed: bool = True) -> pa.Table:
    """Returns frames as rows of `FRAME_SCHEMA`; those that lack a file are marked as rejects.

    A scan without a name gets that of its scene, and a scene that of its data set.

    Args:
        depth_needed: Whether depth is what a frame must have. Otherwise, a frame that lacks its depth file, or another
            file that its depth needs, is one without depth.
    """
    return pa.Table.from_batches(_batches(iter(frames), depth_needed), FRAME_SCHEMA)


def _batches(frames: Iterator[Frame], depth_needed: bool) -> Iterator[pa.RecordBatch]:
    while some := [_row(frame, depth_needed) for frame in islice(frames, _FRAMES_AT_ONCE)]:
        yield pa.RecordBatch.from_pylist(some, FRAME_SCHEMA)


def frames_of(table: pa.Table) -> list[Frame]:
    """Returns rows of a frame table as frames."""
    return [_frame(row) for row in table.select(FRAME_SCHEMA.names).to_pylist()]


def table_groups(table: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Groups rows by columns of text.

    Returns:
        (n,) int64, the number of each row's group, and the columns' values of each group, in ascending order.
    """
    groups, values = np.zeros(table.num_rows, np.int64), [()]
    for name in names:
        column = table[name].combine_chunks().dictionary_encode()
        words = column.dictionary.to_pylist()
        order = sorted(range(len(words)), key=words.__getitem__)
        rank = np.empty(len(words), np.int64)
        rank[order] = range(len(words))
        found, groups = np.unique(groups * len(words) + rank[column.indices.to_numpy()], return_inverse=True)
        values = [(*values[code // len(words)], words[order[code % len(words)]]) for code in found.tolist()]
    return groups, values


def texts(column: pa.ChunkedArray) -> list[Any]:
    """Returns a column's values; equal ones are one object, which saves memory where a name stands in many rows."""
    encoded = column.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [None if code is None else words[code] for code in encoded.indices.to_pylist()]


def _row(frame: Frame, depth_needed: bool) -> dict[str, Any]:
    members = frame.members
    missing = sorted({*frame.required} - members.keys())
    if not depth_needed and {*missing} & {*DEPTH_MEMBERS}:
        members = {member: place for member, place in members.items() if member not in DEPTH_MEMBERS}
        missing = [member for member in missing if member not in DEPTH_MEMBERS]
    reason, problem = frame.reason, frame.problem if frame.reason else ""
    if missing and not reason:
        reason = "missing_member"
        problem = frame.problem or f"there is no {' and no '.join(missing)} file"
    named = (
        {} if reason else {"scene": frame.scene or frame.dataset, "scan": frame.scan or frame.scene or frame.dataset}
    )
    return {
        **{name: getattr(frame, name) for name in (*_TEXTS, "time_s", "pose", *VIEW_COLUMNS)},
        **named,
        **{MEMBER_COLUMNS[member]: place.encode("utf-8", "surrogateescape") for member, place in members.items()},
        **{column: getattr(frame.encoding, name) for name, column in ENCODING_COLUMNS.items()},
        **{column: getattr(frame.camera, name, None) for name, column in CAMERA_COLUMNS.items()},
        **{column: getattr(frame.depth_camera, name, None) for name, column in DEPTH_CAMERA_COLUMNS.items()},
        "reason": reason,
        "problem": problem,
    }


def _frame(row: dict[str, Any]) -> Frame:
    members = {member: row[column] for member, column in MEMBER_COLUMNS.items()}
    encoding: dict[str, Any] = {name: row[column] for name, column in ENCODING_COLUMNS.items()}
    numbers: dict[str, Any] = {name: None if row[name] is None else tuple(row[name]) for name in NUMBERS_COLUMNS}
    encoding["invalid"] = tuple(encoding["invalid"])
    return Frame(
        **{name: row[name] for name in (*_TEXTS, "time_s", "baseline_m", "right_cx_px", "reason", "problem")},
        members={member: path_of(place) for member, place in members.items() if place is not None},
        encoding=DepthEncoding(**encoding),
        camera=_camera(row, CAMERA_COLUMNS),
        depth_camera=_camera(row, DEPTH_CAMERA_COLUMNS),
        **numbers,
    )


def path_of(place: bytes) -> str:
    """Returns a place of a member column as text; names of files need not be valid UTF-8."""
    return place.decode("utf-8", "surrogateescape")


def _camera(row: dict[str, Any], columns: dict[str, str]) -> Any:
    values = {name: row[column] for name, column in columns.items() if row[column] is not None}
    if not values:
        return None
    return Camera(**values) if "width" in values else Intrinsics(**values)
