"""What the samples of a store look like, and which of them stand out: functions of its index and its planes."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from depthflow.store.read.reader import SplitReader
from depthflow.store.store import SampleStore

DEPTH_BINS = 80
BATCH_SIZE = 16
NORMAL_SCALE = 1.4826
"""Standard deviations in a median absolute deviation, where values are normally distributed."""
LEAST_SCALE = 0.01
"""One percent: of a depth, as its logarithm, and of a picture's pixels. Less apart than this is alike."""
PLAUSIBLE_MEDIAN_M = (0.05, 500.0)
"""Median depths of a sample that may be metres: from a close-up to beyond the range of laser scanners."""
ODD_FIGURES = ("depth_median_m", "depth_max_m", "valid_fraction", "edge_fraction")

Row = Mapping[str, Any]
"""A sample's row of the index, with `position`: its row for a `SplitReader` of its split."""


@dataclass(frozen=True, kw_only=True)
class DepthHistogram:
    """How often each depth occurs among valid pixels.

    Attributes:
        edges_m: (DEPTH_BINS + 1,) metres, evenly spaced in the logarithm.
        counts: scene type to (DEPTH_BINS,) pixels; a depth beyond the edges is counted in the outermost bin.
        by_dataset: the same by data set.
        samples: how many were read.
    """

    edges_m: np.ndarray
    counts: dict[str, np.ndarray]
    by_dataset: dict[str, np.ndarray]
    samples: int


@dataclass(frozen=True, kw_only=True)
class Oddity:
    """The figure in which a sample differs most from its data set's samples of its scene type.

    Attributes:
        row: the sample's.
        figure: one of `ODD_FIGURES`.
        typical: their median of it.
        z: the sample's `robust_z` in it, of a depth's natural log and of a fraction as it is.
    """

    row: Row
    figure: str
    typical: float
    z: float


def sample_rows(store: SampleStore) -> list[Row]:
    """Every sample of a store, by split, shard and row."""
    splits = [store.split_index(split).to_pylist() for split in store.splits]
    return [{**row, "position": position} for rows in splits for position, row in enumerate(rows)]


def with_depth(rows: Sequence[Row]) -> list[Row]:
    """Returns the samples that have a valid depth, which those of a store of kind depth all have."""
    return [row for row in rows if row["depth_median_m"] is not None]


def grouped(rows: Sequence[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values of some columns, sorted by these."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[column] for column in columns)].append(row)
    return dict(sorted(groups.items()))


def values_by(rows: Sequence[Row], group: str, column: str) -> dict[str, np.ndarray]:
    """The values of one column, by those of another, such as scene_type or dataset."""
    return {name: np.array([row[column] for row in inside]) for (name,), inside in grouped(rows, group).items()}


def evenly_spaced(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of the numbers 0 to count - 1, as far apart as can be, rising."""
    wanted = min(count, wanted)
    return (2 * np.arange(wanted) + 1) * count // max(2 * wanted, 1)


def drawn_samples(rows: Sequence[Row], *, wanted: int) -> list[Row]:
    """Some samples, alike many of each split, scene type and data set, evenly spaced by id: no chance is involved.

    Args:
        wanted: how many, if there are as many. What a small group cannot give, the others do.
    """
    groups = list(grouped(rows, "split", "scene_type", "dataset").values())
    quotas = [0] * len(groups)
    for _ in range(min(wanted, len(rows))):
        unspent = [k for k, group in enumerate(groups) if quotas[k] < len(group)]
        quotas[min(unspent, key=quotas.__getitem__)] += 1
    return [
        sorted(group, key=itemgetter("sample_id"))[place]
        for group, quota in zip(groups, quotas, strict=True)
        for place in evenly_spaced(len(group), quota)
    ]


def depth_histogram(
    store: SampleStore, rows: Sequence[Row], *, limit: int, progress: Callable[[int, int], None]
) -> DepthHistogram:
    """Counts the stored depths by scene type and by data set.

    Args:
        rows: of `sample_rows`; those without depth are left out.
        limit: reads all samples if there are at most this many, else as many evenly spaced ones.
        progress: called with (done, in all).
    """
    rows = with_depth(rows)
    low, high = _log_depth_range(rows)
    counts, by_dataset = (
        {name: np.zeros(DEPTH_BINS, np.int64) for (name,) in grouped(rows, column)}
        for column in ("scene_type", "dataset")
    )
    read = [rows[k] for k in evenly_spaced(len(rows), limit)]
    done = 0
    for (split,), of_split in grouped(read, "split").items():
        reader = SplitReader(store, split, planes=("log_depth", "valid_mask"), cache_bytes=0)
        for start in range(0, len(of_split), BATCH_SIZE):
            batch = reader.read([row["position"] for row in of_split[start : start + BATCH_SIZE]])
            for k, (scene_type, dataset) in enumerate(zip(batch.scene_types, batch.datasets, strict=True)):
                values = np.clip(batch.log_depth[k][batch.valid_mask[k]], low, high)
                found = np.histogram(values, bins=DEPTH_BINS, range=(low, high))[0]
                counts[scene_type] += found
                by_dataset[dataset] += found
            done += len(batch.sample_ids)
            progress(done, len(read))
    edges_m = np.exp(np.linspace(low, high, DEPTH_BINS + 1))
    return DepthHistogram(edges_m=edges_m, counts=counts, by_dataset=by_dataset, samples=done)


def implausible_depths(rows: Sequence[Row]) -> str:
    """Returns a warning that names the likely unit if median depths can hardly be metres, otherwise an empty string."""
    least, greatest = PLAUSIBLE_MEDIAN_M
    rows = with_depth(rows)
    odd = sorted(
        (row for row in rows if not least <= row["depth_median_m"] <= greatest), key=itemgetter("depth_median_m")
    )
    if not odd:
        return ""
    example = odd[len(odd) // 2]
    depth = example["depth_median_m"]
    units = {"millimetres": 1e-3, "micrometres": 1e-6, "kilometres": 1e3}
    guesses = [
        f"{unit}, which would be {depth * metres:.3g} m"
        for unit, metres in units.items()
        if least <= depth * metres <= greatest
    ][:1]
    guesses += ["inverse or normalized depth"] * (depth < least)
    return (
        f"{len(odd):,} of {len(rows):,} samples have a median depth outside {least:g} to {greatest:g} m, such as "
        f"{example['sample_id']} with {depth:.4g} m. Depth is stored in metres, and this looks like "
        f"{', or '.join(guesses) or 'none of the usual units'}. Check which unit the depth files hold and "
        "which their layout expects, convert them, and write another store."
    )


def _log_depth_range(rows: Sequence[Row]) -> tuple[float, float]:
    """Natural log of the 1st percentile of the least and the 99th of the greatest depths: no one sample sets it."""
    if not rows:
        return (-0.5, 0.5)
    low = float(np.log(np.quantile([row["depth_min_m"] for row in rows], 0.01)))
    high = float(np.log(np.quantile([row["depth_max_m"] for row in rows], 0.99)))
    return (low, high) if high - low > 0.1 else (low - 0.5, high + 0.5)


def robust_z(values: np.ndarray) -> np.ndarray:
    """How far values lie from their median, in standard deviations that outliers do not move.

    (x - median) / max(1.4826 * median(|x - median|), 0.01).

    Args:
        values: (n,) float.

    Returns:
        (n,) float64, signed.

    Source: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers; the lower limit is ours, so that a figure
        that is alike in most samples does not make a hair's breadth odd.
    """
    apart = values - np.median(values)
    return apart / max(NORMAL_SCALE * float(np.median(np.abs(apart))), LEAST_SCALE)


def oddities(rows: Sequence[Row]) -> list[Oddity]:
    """Every sample that has depth with what is oddest about it, the oddest sample first."""
    found = []
    for group in grouped(with_depth(rows), "scene_type", "dataset").values():
        figures = np.array([[row[name] for name in ODD_FIGURES] for row in group], np.float64)
        is_depth = [name.endswith("_m") for name in ODD_FIGURES]
        compared = np.log(figures, where=is_depth, out=figures.copy())
        z = np.stack([robust_z(column) for column in compared.T], axis=1)
        typical = np.median(figures, axis=0)
        for row, row_z in zip(group, z, strict=True):
            worst = int(np.abs(row_z).argmax())
            odd = Oddity(row=row, figure=ODD_FIGURES[worst], typical=float(typical[worst]), z=float(row_z[worst]))
            found.append(odd)
    return sorted(found, key=lambda odd: (-abs(odd.z), odd.row["sample_id"]))
