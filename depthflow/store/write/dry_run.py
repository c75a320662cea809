"""What preprocess.py would do: the frame table that it made of its sources, and what it understood of each data set."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depthflow.datasets.frame_table import FRAME_SCHEMA, MEMBER_COLUMNS, VIEW_MEMBERS
from depthflow.datasets.reject import RejectError
from depthflow.storage.files import StoreFiles
from depthflow.store.write.plan import planned_samples
from depthflow.store.write.sample import SampleLayout, make_sample
from depthflow.store.write.sources import ArchiveSource, Source, read_member
from depthflow.store.write.splits import LEFT_OUT, status

FRAMES = "frames.parquet"
_READ_OF_EACH = 3
"""Number of frames of each data set that are read, to tell their size and depth."""
_LISTED = 20
"""Number of refused frames that are listed."""

_UNITS = {"planar": "m along the optical axis", "ray": "m along the rays", "disparity": "px of disparity"}


def write_frames(rows: pa.Table, files: StoreFiles) -> None:
    """Writes a plan's frames as a table that the layout `table` reads again, the reasons of refused ones included."""
    frames = rows.select(FRAME_SCHEMA.names)
    for name in MEMBER_COLUMNS.values():
        texts = pa.array([None if v is None else v.decode("utf-8", "backslashreplace") for v in rows[name].to_pylist()])
        frames = frames.set_column(frames.schema.get_field_index(name), name, texts.cast(pa.string()))
    with files.commit(FRAMES) as handle:
        pq.write_table(frames, handle, compression="zstd")


def understood(rows: pa.Table, sources: Sequence[Source]) -> Iterator[str]:
    """Yields a line for each source and data set, and one for each of the first refused frames."""
    for source in sources:
        frames = rows.filter(pc.equal(rows["source"], source.location))
        yield f"{source.location}: layout {source.layout}, {frames.num_rows:,} frames"
        for dataset in pc.unique(frames["dataset"]).to_pylist():
            yield f"  {dataset}: {_described(frames.filter(pc.equal(frames['dataset'], dataset)))}"
    refused = rows.filter(pc.not_equal(rows["reason"], ""))
    is_left_out = pc.is_in(refused["reason"], pa.array(LEFT_OUT))
    for reason, count in Counter(refused["reason"].filter(is_left_out).to_pylist()).items():
        yield f"  left out: {count:,} frames: {reason}: {rows['problem'][pc.index(rows['reason'], reason).as_py()]}"
    refused = refused.filter(pc.invert(is_left_out))
    for row in refused.slice(0, _LISTED).to_pylist():
        yield f"  refused: {row['sample_id']}: {row['reason']}: {row['problem']}"
    if refused.num_rows > _LISTED:
        yield f"  and {refused.num_rows - _LISTED:,} more: see the columns reason and problem of {FRAMES}"


def _described(frames: pa.Table) -> str:
    """Returns what is known of the frames of one data set, in a line."""
    splits = ", ".join(f"{n:,} {name}" for name, n in sorted(Counter(frames["split"].to_pylist()).items()))
    scenes, scans = (pc.count_distinct(frames[name]).as_py() for name in ("scene", "scan"))
    return "; ".join(
        [
            f"{splits}; {', '.join(pc.unique(frames['scene_type']).to_pylist())}; scenes: {scenes:,}; scans: {scans:,}",
            f"depth {_depth(frames)}",
            f"camera {_camera(frames)}",
            *(f"{name} of {n:,}" for name in ("mask", "confidence", "time_s", "pose") if (n := _count(frames, name))),
            *_views(frames),
        ]
    )


def _views(frames: pa.Table) -> Iterator[str]:
    """Yields what is known of the views of the frames that have all that their kind needs."""
    whole = frames.filter(pc.equal(frames["reason"], ""))
    views = [view for view in VIEW_MEMBERS if _count(frames, MEMBER_COLUMNS[view])]
    if "right" in views:
        yield f"pairs: {whole.num_rows:,}, baseline of {_count(whole, 'baseline_m'):,}"
    if "previous" in views or "next" in views:
        posed = [pc.is_valid(whole[name]) for name in ("pose", "previous_pose", "next_pose")]
        known = pc.sum(pc.and_(pc.and_(posed[0], posed[1]), posed[2])).as_py() or 0
        yield f"triples of a frame, the one before and the one after: {whole.num_rows:,}, poses of {known:,}"


def _depth(frames: pa.Table) -> str:
    known = _count(frames, "depth")
    if not known:
        return "in no file"
    stated = dict.fromkeys(zip(frames["depth_units_per_m"].to_pylist(), frames["depth_kind"].to_pylist(), strict=True))
    units = " or ".join(f"{'' if value == 1 else f'1/{value:g} '}{_UNITS[kind]}" for value, kind in stated)
    invalid = sorted({0, *(value for values in frames["depth_invalid"].to_pylist() for value in values)})
    others = "" if known == frames.num_rows else f", in no file of {frames.num_rows - known:,}"
    return f"in {units}, invalid {', '.join(f'{value:g}' for value in invalid)}{others}"


def _camera(frames: pa.Table) -> str:
    known = frames.filter(pc.is_valid(frames["fx_px"]))
    if not known.num_rows:
        return "unknown"
    first = known.select(("width", "height", "fx_px", "fy_px")).slice(0, 1).to_pylist()[0]
    others = "" if known.num_rows == frames.num_rows else f", unknown in {frames.num_rows - known.num_rows:,}"
    size = f"such as {first['width']} x {first['height']}" if first["width"] else "of each image's size"
    return f"{size} with fx {first['fx_px']:g}, fy {first['fy_px']:g}{others}"


def _count(frames: pa.Table, name: str) -> int:
    return frames.num_rows - frames[name].null_count


def read_some(rows: pa.Table, sources: Sequence[Source], layout: SampleLayout) -> Iterator[dict[str, Any]]:
    """Makes samples of the first frames of each data set that lies in a tree.

    Yields:
        Each sample's row as `ROW_SCHEMA`, or sample_id, reason and message of a frame that is refused.
    """
    trees = pa.array([source.location for source in sources if not isinstance(source, ArchiveSource)], pa.string())
    rows = rows.filter(pc.and_(pc.is_in(rows["source"], trees), pc.equal(rows["reason"], "")))
    for dataset in pc.unique(rows["dataset"]).to_pylist():
        for planned in planned_samples(rows.filter(pc.equal(rows["dataset"], dataset)).slice(0, _READ_OF_EACH)):
            try:
                members = {name: read_member(place) for name, place in planned.frame.members.items()}
                yield make_sample(planned.frame, members, layout).row
            except RejectError as error:
                yield {"sample_id": planned.frame.sample_id, "reason": error.reason, "message": error.message}


def read_lines(read: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yields a line for each of the frames that `read_some` read."""
    for row in read:
        is_refused = "reason" in row
        depth_m = row.get("depth_median_m")
        depth = "no depth" if depth_m is None else f"median depth {depth_m:.3g} m"
        found = f"{row['reason']}: {row['message']}" if is_refused else depth
        yield f"  read: {row['sample_id']}: {found}"


def summary(rows: pa.Table, sources: Sequence[Source], read: Iterable[dict[str, Any]], *, out: str) -> dict[str, Any]:
    """Returns the counts of the frames that can be read, and of those that are refused, and the sources' layouts.

    Args:
        read: What `read_some` read.
        out: Folder of the frame table.
    """
    whole = rows.filter(pc.equal(rows["reason"], ""))
    reasons = rows.filter(pc.not_equal(rows["reason"], ""))["reason"]
    counts = Counter(zip(whole["split"].to_pylist(), whole["scene_type"].to_pylist(), strict=True))
    refused_when_read = [row["reason"] for row in read if "reason" in row]
    return {
        "status": status([*reasons.to_pylist(), *refused_when_read]),
        "frames": f"{out.rstrip('/')}/{FRAMES}",
        "samples": whole.num_rows,
        "rejects": len(reasons),
        "rejects_by_reason": dict(Counter(reasons.to_pylist())),
        "counts": {
            split: {scene_type: n for (of, scene_type), n in sorted(counts.items()) if of == split}
            for split in sorted({split for split, _ in counts})
        },
        "layouts": {source.location: source.layout for source in sources},
    }
