"""Chooses the further views of each frame: a stereo partner or neighbours in time. Pure functions of a plan's rows."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets.frame_table import (
    DEPTH_CAMERA_COLUMNS,
    DEPTH_MEMBERS,
    ENCODING_COLUMNS,
    MEMBER_COLUMNS,
    VIEW_MEMBERS,
    table_groups,
)
from depthflow.datasets.frames import DepthEncoding
from depthflow.store.schema import KINDS
from depthflow.store.write.splits import id_ranks, rejected

NO_CAMERA = (
    "further views need the camera, which is unknown: add a camera.json to the source, or fx_px, width and height to "
    "its frame table"
)

_NEIGHBOURS = {"previous": -1, "next": 1}
_TRANSLATION = (3, 7, 11)
"""Where a pose's 16 numbers say where the camera is."""


def with_views(rows: pa.Table, kind: str, *, frame_step: int = 1, min_motion_m: float = 0.0) -> pa.Table:
    """Returns the rows with the views that samples of a kind have, and no others; without them, a row is a reject.

    Args:
        rows: `PLAN_SCHEMA`, in the splits that they are stored in.
        kind: A name in `KINDS`.
        frame_step: How many frames before and after a frame its neighbours are, where the rows name none.
        min_motion_m: A frame is a reject if neither neighbour was taken as far from it as this, by their poses.
    """
    rows = _without_unused(rows, kind)
    if kind == "stereo":
        advice = "name one in the column right_image of a frame table, or pass a layout of stereo pairs"
        rows = rejected(rows, _is_null(rows, "right_image"), "no_partner", f"it has no right image: {advice}")
    if kind == "video":
        rows = with_neighbours(rows, frame_step)
        for view, where in (("previous", "before"), ("next", "after")):
            problem = f"there is no frame {frame_step} {where} it in its scan and split (--frame-step)"
            rows = rejected(rows, _is_null(rows, MEMBER_COLUMNS[view]), "no_neighbour", problem)
        problem = f"the poses of both neighbours are within {min_motion_m:g} m (--min-motion-m) of its own"
        rows = rejected(rows, _farthest_m(rows) < min_motion_m, "no_motion", problem)
    if KINDS[kind]:
        is_unknown = _is_null(rows, "fx_px") & pc.not_equal(rows["dataset"], "diode").to_numpy()
        rows = rejected(rows, is_unknown, "no_camera", NO_CAMERA)
    return rows


def to_be_matched(rows: pa.Table) -> pa.Table:
    """Returns the rows of pairs without their depth files, as frames of unknown disparity; see --depth-from stereo.

    Args:
        rows: As `with_views` returns those of kind stereo.
    """
    unused = [*(MEMBER_COLUMNS[member] for member in DEPTH_MEMBERS), *DEPTH_CAMERA_COLUMNS.values()]
    for name in unused:
        rows = _with_column(rows, name, pa.nulls(rows.num_rows, rows.schema.field(name).type))
    for name, column in ENCODING_COLUMNS.items():
        value = pa.scalar(getattr(DepthEncoding(kind="disparity"), name), rows.schema.field(column).type)
        rows = _with_column(rows, column, pa.repeat(value, rows.num_rows))
    problem = "the distance between both cameras is unknown: state baseline_m in a frame table"
    return rejected(rows, _is_null(rows, "baseline_m"), "no_baseline", problem)


def with_neighbours(rows: pa.Table, frame_step: int) -> pa.Table:
    """Returns the rows with the frames before and after each in its scan as previous and next, with poses and cameras.

    The order is that of `time_s`, or that of the ids in a scan where a time is unknown. Rejects are not counted. A scan
    whose rows name neighbours themselves is left as it is.

    Args:
        rows: `PLAN_SCHEMA`.
        frame_step: How many frames further the neighbours are.
    """
    groups, _ = table_groups(rows, ("source", "split", "scene", "scan"))
    is_named = ~(_is_null(rows, "previous_image") & _is_null(rows, "next_image"))
    in_named = np.isin(groups, groups[is_named])
    chosen = np.flatnonzero(~in_named & pc.equal(rows["reason"], "").to_numpy() & ~_is_null(rows, "image"))
    if not len(chosen):
        return rows
    chosen = chosen[_order(rows.take(chosen), groups[chosen])]
    cameras = _cameras(rows)
    for view, sign in _NEIGHBOURS.items():
        places = np.arange(len(chosen)) + sign * frame_step
        is_inside = (places >= 0) & (places < len(chosen))
        places = places.clip(0, len(chosen) - 1)
        is_inside &= groups[chosen[places]] == groups[chosen]
        found = np.full(rows.num_rows, -1)
        found[chosen[is_inside]] = chosen[places[is_inside]]
        numbers = pa.array(found, mask=found < 0)
        found_values = {
            MEMBER_COLUMNS[view]: rows["image"].take(numbers),
            f"{view}_pose": rows["pose"].take(numbers),
            f"{view}_camera": _other_cameras(cameras, found),
        }
        for column, values in found_values.items():
            rows = _with_column(rows, column, pc.if_else(pa.array(in_named), rows[column], values))
    return rows


def _other_cameras(cameras: np.ndarray, found: np.ndarray) -> pa.Array:
    """Returns the first four numbers of the camera of each row's neighbour, null where it has the row's own camera.

    Args:
        cameras: (n, 6), of `_cameras`.
        found: (n,) number of the neighbour's row, -1 where there is none.
    """
    others = cameras[found]
    is_other = (others[:, :4] != cameras[:, :4]).any(axis=1) & np.isfinite(others).all(axis=1)
    is_other &= (found >= 0) & (others[:, 4:] == cameras[:, 4:]).all(axis=1)
    lists: list[list[float] | None] = [None] * len(found)
    for row in np.flatnonzero(is_other).tolist():
        lists[row] = others[row, :4].tolist()
    return pa.array(lists, pa.list_(pa.float64()))


def _cameras(rows: pa.Table) -> np.ndarray:
    """Returns fx_px, fy_px, cx_px, cy_px, width and height of each camera, (n, 6), NaN or 0 where unknown."""
    focals = [rows[name].to_numpy() for name in ("fx_px", "fy_px", "cx_px", "cy_px")]
    sizes = [pc.fill_null(rows[name], 0).to_numpy() for name in ("width", "height")]
    return np.stack([*focals, *sizes], axis=1).astype(np.float64)


def _order(rows: pa.Table, groups: np.ndarray) -> np.ndarray:
    """Returns the order of frames by group, then by time, or by id in a group where a time is unknown."""
    ranks = id_ranks(rows["sample_id"], groups)
    time_s = rows["time_s"].to_numpy().astype(np.float64)
    is_untimed = np.isin(groups, groups[~np.isfinite(time_s)])
    return np.lexsort((ranks, np.where(is_untimed, ranks, time_s), groups))


def _without_unused(rows: pa.Table, kind: str) -> pa.Table:
    """Returns the rows without what only views of other kinds need, on which no sample depends then."""
    unused = [view for view in VIEW_MEMBERS if view not in KINDS[kind]]
    columns = [MEMBER_COLUMNS[view] for view in unused]
    columns += [f"{view}_{name}" for view in _NEIGHBOURS if view in unused for name in ("pose", "camera")]
    for name in columns:
        rows = _with_column(rows, name, pa.nulls(rows.num_rows, rows.schema.field(name).type))
    if "right" in unused:  # A disparity map needs them without the right image, too.
        is_disparity = pc.equal(rows["depth_kind"], "disparity")
        for name in ("baseline_m", "right_cx_px"):
            rows = _with_column(rows, name, pc.if_else(is_disparity, rows[name], None))
    return rows


def _with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def _is_null(rows: pa.Table, name: str) -> np.ndarray:
    return rows[name].is_null().to_numpy()


def _farthest_m(rows: pa.Table) -> np.ndarray:
    """Returns how far the farther neighbour's camera is from each frame's; infinity where a pose is unknown."""
    place_m = _places_m(rows, "pose")
    distances = [np.linalg.norm(_places_m(rows, f"{view}_pose") - place_m, axis=1) for view in _NEIGHBOURS]
    farthest_m = np.max(distances, axis=0)
    return np.where(np.isnan(farthest_m), np.inf, farthest_m)


def _places_m(rows: pa.Table, name: str) -> np.ndarray:
    """Returns where the cameras of a column of poses are, (n, 3) metres, NaN where unknown."""
    poses = rows[name].combine_chunks()
    places_m = np.full((len(poses), 3), np.nan)
    places_m[poses.is_valid().to_numpy(zero_copy_only=False)] = (
        poses.flatten().to_numpy().reshape(-1, 16)[:, _TRANSLATION]
    )
    return places_m
