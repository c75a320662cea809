"""Divides frames between train and val: by scene, by blocks of time, or as a file says. Pure functions."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets.frame_table import table_groups
from depthflow.datasets.frames import SPLITS
from depthflow.errors import SourceError
from depthflow.store.write.plan import generator, with_texts


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
    return _divided(
        rows,
        splits[groups],
        "the source has a single scan, and frames of one scan overlap. Add scans, divide it with --resplit time, or "
        "take the source's own splits with --splits.",
    )


def _divided(rows: pa.Table, splits: np.ndarray, why: str) -> pa.Table:
    """Returns the rows with these splits, sorted by split and sample id; raises SourceError if one is empty."""
    rows = with_texts(rows, split=splits)
    found = set(rows["split"].filter(pc.equal(rows["reason"], "")).unique().to_pylist())
    for split in SPLITS:
        if split not in found:
            raise SourceError(f"--resplit leaves {split} empty: {why}")
    return rows.take(pc.sort_indices(rows, [("split", "ascending"), ("sample_id", "ascending")]))


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
