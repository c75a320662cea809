"""The sections of the data report, made of a store's tables and of what `survey` says of its samples."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from depthflow.reports.page import Details, Facts, Gallery, Part, Picture, Section, Table
from depthflow.reports.plots import draw_histograms
from depthflow.reports.survey import (
    LEAST_SCALE,
    NORMAL_SCALE,
    ODD_FIGURES,
    DepthHistogram,
    Oddity,
    Row,
    grouped,
    implausible_depths,
    values_by,
    with_depth,
)

MAX_REJECTS_LISTED = 1000
SLOWEST_LISTED = 10
ODDEST_LISTED = 12
ODD_Z = 3.5
"""From this |z| on, Iglewicz and Hoaglin call a value an outlier."""
FRACTION_BINS = 40
PERCENTILES = {"least": 0, "1%": 1, "5%": 5, "median": 50, "95%": 95, "99%": 99, "greatest": 100}
GROUP_NAMES = {"scene_type": "scene type", "dataset": "data set"}
FIGURE_NAMES = {
    "depth_min_m": "least depth",
    "depth_median_m": "median depth",
    "depth_max_m": "greatest depth",
    "valid_fraction": "valid fraction",
    "edge_fraction": "edge fraction",
}


def overview(manifest: Mapping[str, Any]) -> Section:
    """What the store is: sizes, identity, configuration."""
    config, size = manifest["config"], sum(shard["bytes"] for shard in manifest["shards"])
    facts = {
        "samples": f"{manifest['samples']:,}",
        "rejects": f"{manifest['rejects']:,}",
        "shards": f"{len(manifest['shards']):,}",
        "size of the shards": f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB",
        "stored size, px": f"{config['height']} × {config['width']}",
    }
    identity = [
        ("fingerprint", manifest["fingerprint"]),
        ("written", manifest["written"]),
        *(("source", source) for source in manifest["sources"]),
    ]
    settings = [(name, _plain(value)) for name, value in config.items()]
    versions = list(manifest["versions"].items())
    return Section(
        heading="Overview",
        parts=[
            Facts(values=facts),
            Table(columns={"what": "", "value": ""}, rows=identity),
            Details(
                summary="Configuration and versions",
                parts=[
                    Table(columns={"setting": "", "value": ""}, rows=settings),
                    Table(columns={"package": "", "version": ""}, rows=versions),
                ],
            ),
        ],
    )


def depths(rows: Sequence[Row], histogram: DepthHistogram) -> Section:
    """Which depths occur, by scene type."""
    rows, all_rows = with_depth(rows), rows
    if not rows:
        return Section(heading="Depth", parts=["No sample has a valid depth."])
    warning = filter(None, [implausible_depths(rows), _without_depth(all_rows, rows)])
    return Section(heading="Depth", parts=[*warning, *_depth_parts(rows, histogram, histogram.counts, "scene_type")])


def _without_depth(rows: Sequence[Row], known: Sequence[Row]) -> str:
    """Returns how many samples are without depth, or an empty string."""
    missing = len(rows) - len(known)
    return (
        f"{missing:,} of {len(rows):,} samples have no valid depth, and count in no other section." if missing else ""
    )


def datasets(rows: Sequence[Row], histogram: DepthHistogram) -> list[Section]:
    """How many samples and which depths each data set has; nothing if there is one data set."""
    if len(grouped(rows, "dataset")) < 2:
        return []
    lines = [
        (*place, len(grouped(inside, "scene")), len(inside))
        for place, inside in grouped(rows, "dataset", "split", "scene_type").items()
    ]
    columns = {"data set": "", "split": "", "scene type": "", "scenes": ",d", "samples": ",d"}
    by_depth = _depth_parts(with_depth(rows), histogram, histogram.by_dataset, "dataset") if histogram.samples else []
    return [Section(heading="Data sets", parts=[Table(columns=columns, rows=lines), *by_depth])]


def _depth_parts(
    rows: Sequence[Row], histogram: DepthHistogram, counts: Mapping[str, np.ndarray], column: str
) -> list[Part]:
    """The histogram and the percentiles of depth by a column."""
    chart = draw_histograms(
        histogram.edges_m, counts, x_label="depth, m", y_label="share of valid pixels", x_axis="logarithmic"
    )
    read = f"all {histogram.samples:,}" if histogram.samples == len(rows) else f"{histogram.samples:,} evenly spaced"
    pixels = ", ".join(f"{name} {of_name.sum():,}" for name, of_name in counts.items())
    caption = (
        f"Valid pixels of {read} samples ({pixels}), as shares of their {GROUP_NAMES[column]}. The bins are evenly "
        "spaced in the logarithm; depths beyond the axis are counted in the outermost bins."
    )
    limits = f"{histogram.edges_m[0]:.2g} to {histogram.edges_m[-1]:.3g} metres"
    alt = f"Histogram of depth by {GROUP_NAMES[column]}, {limits}"
    percentiles_of = "A sample's least, median and greatest depth, in metres"
    return [
        Gallery(pictures=[Picture(image=chart, alt=alt, caption=caption)]),
        _percentiles(rows, "_m", ".2f", caption=percentiles_of, column=column),
    ]


def fractions(rows: Sequence[Row]) -> Section:
    """How much of a picture is valid, and how much of it lies beside a depth edge."""
    pictures = []
    for column in ("valid_fraction", "edge_fraction"):
        values = values_by(rows, "scene_type", column)
        greatest = 1.0 if column == "valid_fraction" else max(0.01, *(of_type.max() for of_type in values.values()))
        edges = np.linspace(0.0, greatest, FRACTION_BINS + 1)
        counts = {scene_type: np.histogram(of_type, bins=edges)[0] for scene_type, of_type in values.items()}
        name = FIGURE_NAMES[column]
        labels = {"x_label": f"{name} of a sample", "y_label": "share of samples"}
        chart = draw_histograms(edges, counts, x_axis="percent", **labels)
        pictures.append(Picture(image=chart, alt=f"Histogram of the {name} by scene type"))
    return Section(
        heading="Valid and edge pixels",
        parts=[
            "Shares of a stored picture's pixels: those with a valid depth, and those beside a depth jump.",
            Gallery(pictures=pictures, side_by_side=True),
            _percentiles(rows, "_fraction", ".1%", caption="Share of a sample's pixels"),
        ],
    )


def _percentiles(rows: Sequence[Row], suffix: str, spec: str, *, caption: str, column: str = "scene_type") -> Table:
    """Percentiles over samples of the figures whose names end so, by a column."""
    lines = [
        (title, name, *np.percentile(values, list(PERCENTILES.values())))
        for figure, title in FIGURE_NAMES.items()
        if figure.endswith(suffix)
        for name, values in values_by(rows, column, figure).items()
    ]
    columns = {"figure": "", GROUP_NAMES[column]: "", **dict.fromkeys(PERCENTILES, spec)}
    return Table(columns=columns, rows=lines, caption=caption)


def refused(rejects: Sequence[Mapping[str, Any]]) -> Section:
    """What is no sample, and why.

    Args:
        rejects: the rows of rejects.parquet.
    """
    if not rejects:
        return Section(heading="Rejects", parts=["No input was refused."])
    groups = sorted(grouped(rejects, "reason").items(), key=lambda item: -len(item[1]))
    reasons = Table(
        columns={"reason": "", "inputs": ",d", "for example": "", "its message": ""},
        rows=[(reason, len(group), group[0]["sample_id"], group[0]["message"]) for (reason,), group in groups],
    )
    columns = ("sample_id", "split", "reason", "message", "source")
    listed = sorted(rejects, key=itemgetter("reason", "split", "sample_id"))[:MAX_REJECTS_LISTED]
    parts: list[Part] = [
        Table(columns=dict.fromkeys(columns, ""), rows=[[row[name] for name in columns] for row in listed])
    ]
    if len(rejects) > len(listed):
        parts.insert(0, f"The first {len(listed):,} of {len(rejects):,}; rejects.parquet has all.")
    return Section(heading="Rejects", parts=[reasons, Details(summary="The refused inputs one by one", parts=parts)])


def shown(panels: Sequence[Picture]) -> Section:
    """What samples look like.

    Args:
        panels: of `survey.drawn_samples`.
    """
    text = (
        f"{len(panels)} samples, alike many of each split, scene type and data set, evenly spaced by id, at the stored "
        "size. The colours of the depth reach from its 1st to its 99th percentile."
    )
    return Section(heading="Samples", parts=[text, Gallery(pictures=panels)])


def slowest(rows: Sequence[Row]) -> Section:
    """Which samples took longest to make."""
    timed = [row for row in rows if row["seconds"] is not None]
    if not timed:
        text = "No times are known: every shard was found made, by a run that was interrupted before it could say them."
        return Section(heading="Slowest samples", parts=[text])
    median, p95, greatest = np.percentile([row["seconds"] for row in timed], [50, 95, 100])
    text = "The time to read, decode, check and resize one sample."
    if len(timed) < len(rows):
        text += f" Known of {len(timed):,} of {len(rows):,} samples: the others' shards were found made."
    top = sorted(timed, key=lambda row: (-row["seconds"], row["sample_id"]))[:SLOWEST_LISTED]
    table = Table(
        columns={"sample": "", "split": "", "scene type": "", "seconds": ".3f", "times the median": ".1f"},
        rows=[(*_identity(row), row["seconds"], row["seconds"] / median if median else None) for row in top],
    )
    facts = {"median": f"{median:.3f} s", "95th percentile": f"{p95:.3f} s", "slowest": f"{greatest:.3f} s"}
    return Section(heading="Slowest samples", parts=[text, Facts(values=facts), table])


def oddest(ranked: Sequence[Oddity], panels: Sequence[Picture]) -> Section:
    """Which samples differ most from those of their data set and scene type.

    Args:
        ranked: of `survey.oddities`.
        panels: of the first few of them.
    """
    *names, last = [FIGURE_NAMES[column] for column in ODD_FIGURES]
    outliers = sum(abs(odd.z) > ODD_Z for odd in ranked)
    table = Table(
        columns={"sample": "", "split": "", "scene type": "", "odd in": "", "value": "s", "typical": "s", "z": "+.1f"},
        rows=[
            (
                *_identity(odd.row),
                FIGURE_NAMES[odd.figure],
                _figure(odd.figure, odd.row[odd.figure]),
                _figure(odd.figure, odd.typical),
                odd.z,
            )
            for odd in ranked[:ODDEST_LISTED]
        ],
    )
    return Section(
        heading="Oddest samples",
        parts=[
            f"By the greatest |z| among {', '.join(names)} and {last}, each against the samples of its data set and "
            f"scene type: z = (x − median) / max({NORMAL_SCALE} MAD, {LEAST_SCALE}), where MAD is the median absolute "
            f"deviation and a depth counts as its natural logarithm. {outliers:,} of {len(ranked):,} samples have "
            f"|z| > {ODD_Z}, from where Iglewicz and Hoaglin (1993) speak of outliers. Odd is not wrong: the pictures "
            "tell.",
            table,
            Gallery(pictures=panels),
        ],
    )


def _identity(row: Row) -> tuple[str, str, str]:
    return row["sample_id"], row["split"], row["scene_type"]


def _figure(column: str, value: float) -> str:
    return f"{value:.2f} m" if column.endswith("_m") else f"{value:.1%}"


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
