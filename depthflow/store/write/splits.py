"""Divides frames between train and val, by scene or by blocks of time. Pure functions of a plan's rows."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets.frame_table import table_groups
from depthflow.datasets.frames import SPLITS
from depthflow.errors import SourceError
from depthflow.observability.logs import tell
from depthflow.store.write.plan import generator, with_texts

LEFT_OUT = ("split_gap", "not_listed", "no_neighbour", "no_motion")
"""Reasons of rejects that --resplit time, --split-file and --kind video ask for: they are no faults of the source."""
FRAMES_PER_S = 30
"""Assumed of a scan whose frames' times are unknown."""


def status(reasons: Iterable[str]) -> str:
    """Returns `rejects` if any input was refused that the flags did not ask to leave out, otherwise `ok`."""
    return "rejects" if {*reasons} - {*LEFT_OUT} else "ok"


def split_by_scene(rows: pa.Table, *, val_fraction: float, seed: int) -> pa.Table:
    """Divides one split into train and val by scene, separately for each scene type.

    Frames of one scan overlap heavily, so a scene is never divided, unless a scene type has only one: then it is
    divided by scan.

    Args:
        rows: `PLAN_SCHEMA`.
        val_fraction: Target fraction of each scene type's samples in val.

    Returns:
        The rows sorted by split and sample id.

    Raises:
        SourceError: if a split would stay empty.
    """
    groups, places = table_groups(rows, ("scene_type", "scene", "scan"))
    readable = np.bincount(groups, pc.equal(rows["reason"], "").to_numpy(), minlength=len(places)).astype(int)
    of_type: dict[str, list[int]] = defaultdict(list)
    for number, (scene_type, *_) in enumerate(places):
        of_type[scene_type].append(number)
    splits = np.full(len(places), "train", object)
    for scene_type, numbers in of_type.items():
        part = 1 if len({places[n][1] for n in numbers}) > 1 else 2
        sizes: dict[str, int] = defaultdict(int)
        for n in numbers:
            sizes[places[n][part]] += readable[n]
        chosen = _choose_val_groups(sizes, val_fraction, key=f"{seed}/{scene_type}")
        splits[[n for n in numbers if places[n][part] in chosen]] = "val"
    rows = divided(rows, splits[groups])
    require_splits(
        rows,
        "--resplit leaves {} empty: the source has a single scan, and frames of one scan overlap. Add scans, divide it "
        "with --resplit time, or take the source's own splits with --splits.",
    )
    return rows


def split_by_time(rows: pa.Table, *, val_fraction: float, gap_s: float, seed: int) -> pa.Table:
    """Divides each scan into a block of time for train and one for val, at its end or its beginning.

    Neighbouring frames show the same, so those between the blocks become rejects (split_gap). A scan that is too short
    for both blocks belongs to train. The scans of a scene have their val blocks on the same side, since they may be
    cameras that recorded together.

    Args:
        rows: `PLAN_SCHEMA`.
        val_fraction: Fraction of each scan's samples in val.
        gap_s: Least time between a frame of train and one of val of the same scan.

    Returns:
        The rows sorted by split and sample id.

    Raises:
        SourceError: if a split would stay empty.
    """
    groups, scans = table_groups(rows, ("scene_type", "scene", "scan"))
    is_readable = pc.equal(rows["reason"], "").to_numpy()
    drawn = {scene: generator(f"{seed}/time/{scene}").integers(2) for scene in {scene for _, scene, _ in scans}}
    signs = np.array([1.0 if drawn[scene] else -1.0 for _, scene, _ in scans])
    time_s = _times(rows, groups, is_readable, scans) * signs[groups]  # So that val comes last in every scan.
    val_begins_s = _val_begins(groups[is_readable], time_s[is_readable], len(scans), val_fraction)
    before_val_s = val_begins_s[groups] - time_s
    is_val = before_val_s <= 0
    in_gap = (before_val_s > 0) & (before_val_s < gap_s)
    is_long_enough = np.bincount(groups[is_readable & ~is_val & ~in_gap], minlength=len(scans)) > 0
    is_val &= is_long_enough[groups]
    in_gap &= is_long_enough[groups]
    problem = f"less than {gap_s:g} s (--gap-s) before or after the frames of val in its scan"
    rows = rejected(rows, in_gap, "split_gap", problem)
    rows = divided(rows, np.where(is_val, "val", "train"))
    require_splits(
        rows,
        f"--resplit time leaves {{}} empty: each of {len(scans)} scans is too short for both splits and a gap of "
        f"{gap_s:g} s. Reduce --gap-s or --val-fraction, or divide the source by scene with --resplit train or val.",
    )
    return rows


def _times(rows: pa.Table, groups: np.ndarray, is_readable: np.ndarray, scans: list[tuple[str, ...]]) -> np.ndarray:
    """Returns each frame's time in seconds, comparable within its scan; a reject may have NaN."""
    time_s = rows["time_s"].to_numpy().copy()
    is_untimed = np.bincount(groups[is_readable & ~np.isfinite(time_s)], minlength=len(scans)) > 0
    if is_untimed.any():
        tell(
            f"{is_untimed.sum()} of {len(scans)} scans, such as {'/'.join(scans[is_untimed.argmax()])}, have frames "
            f"without a time: they are taken in the order of their ids, {FRAMES_PER_S} per second."
        )
        chosen = np.flatnonzero(is_untimed[groups])
        time_s[chosen] = id_ranks(rows["sample_id"].take(chosen), groups[chosen]) / FRAMES_PER_S
    return time_s


def id_ranks(ids: pa.ChunkedArray, groups: np.ndarray) -> np.ndarray:
    """Returns the place of each id in its group's order, by length first: frame 9 is before frame 10."""
    keys = pa.table({"group": groups, "length": pc.binary_length(ids), "id": ids})
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    keys = keys.take(order).combine_chunks()
    is_new = [np.append(True, pc.not_equal(keys[n][1:], keys[n][:-1]).to_numpy()) for n in ("group", "id")]
    places = np.cumsum(is_new[0] | is_new[1])
    firsts = places[is_new[0]]
    ranks = np.empty(len(places), np.int64)
    ranks[order.to_numpy()] = places - firsts[np.cumsum(is_new[0]) - 1]
    return ranks


def _val_begins(groups: np.ndarray, time_s: np.ndarray, count: int, val_fraction: float) -> np.ndarray:
    """Returns when the last `val_fraction` of each group's frames begins; NaN for a group without frames."""
    order = np.lexsort((time_s, groups))
    sizes = np.bincount(groups, minlength=count)
    in_val = np.maximum(1, np.minimum(sizes - 1, np.rint(val_fraction * sizes).astype(np.int64)))
    begins_s = np.full(count, np.nan)
    filled = sizes > 0
    begins_s[filled] = time_s[order[(np.cumsum(sizes) - in_val)[filled]]]
    return begins_s


def divided(rows: pa.Table, splits: np.ndarray) -> pa.Table:
    """Returns the rows with these splits, sorted by split and sample id."""
    rows = with_texts(rows, split=splits)
    return rows.take(pc.sort_indices(rows, [("split", "ascending"), ("sample_id", "ascending")]))


def rejected(rows: pa.Table, which: np.ndarray, reason: str, problem: str) -> pa.Table:
    """Returns the rows, some of them marked as rejects unless they already are."""
    marked = pc.and_(pa.array(which), pc.equal(rows["reason"], ""))
    for name, text in (("reason", reason), ("problem", problem)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pc.if_else(marked, text, rows[name]))
    return rows


def require_splits(rows: pa.Table, message: str, splits: Iterable[str] = SPLITS) -> None:
    """Raises SourceError if a split has no readable frame.

    Args:
        message: With {} for the split.
    """
    found = set(rows["split"].filter(pc.equal(rows["reason"], "")).unique().to_pylist())
    for split in splits:
        if split not in found:
            raise SourceError(message.format(split))


def _choose_val_groups(sizes: dict[str, int], val_fraction: float, *, key: str) -> set[str]:
    """Chooses groups whose sizes add up to about the fraction: at least one group, and not all of them."""
    if len(sizes) < 2:
        return set()
    names = sorted(sizes)
    order = [names[i] for i in generator(key).permutation(len(names))]
    wanted = val_fraction * sum(sizes.values())
    chosen: set[str] = set()
    total = 0
    for name in order:
        if abs(total + sizes[name] - wanted) < abs(total - wanted) and len(chosen) < len(sizes) - 1:
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(order, key=lambda name: sizes[name])}
