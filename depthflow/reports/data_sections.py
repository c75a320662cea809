"""The sections of the data report, made of a store's tables and of what `survey` says of its samples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from depthflow.datasets.catalogue import Accounting
from depthflow.datasets.frames import SCENE_TYPES
from depthflow.reports.page import Details, Facts, Gallery, Part, Picture, Section, Table
from depthflow.reports.plots import draw_histograms
from depthflow.reports.survey import (
    LEAST_SCALE,
    NORMAL_SCALE,
    ODD_FIGURES,
    DepthHistogram,
    Oddity,
    Row,
    by_scene_type,
    grouped,
    implausible_depths,
)

MAX_REJECTS_LISTED = 1000
SLOWEST_LISTED = 10
ODDEST_LISTED = 12
ODD_Z = 3.5
"""From this |z| on, Iglewicz and Hoaglin call a value an outlier."""
UNNAMED = "(name not DIODE's)"
"""The scene type of an input that has none."""
RESPLIT_FLAGS = {"time": "--resplit time", "file": "--split-file"}
"""What a manifest states as resplit if all splits of the source were pooled, and the flag that asked for it."""
FRACTION_BINS = 40
PERCENTILES = {"least": 0, "1%": 1, "5%": 5, "median": 50, "95%": 95, "99%": 99, "greatest": 100}
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


def catalogue_counts(
    manifest: Mapping[str, Any], accounting: Accounting, rows: Sequence[Row], rejects: Sequence[Mapping[str, Any]]
) -> Section:
    """Expected, found, stored and refused, by split and scene type and then by scan."""
    resplit = manifest["config"]["resplit"]
    drawn_from = " + ".join(accounting.splits) if resplit in RESPLIT_FLAGS else resplit
    stored = Counter((drawn_from or row["split"], row["scene_type"]) for row in rows)
    refused = Counter((drawn_from or row["split"], _scene_type(row["sample_id"])) for row in rejects)
    lines = [
        (*place, *figures.values(), stored[place], refused[place])
        for place, figures in _figures(accounting, pooled_as=drawn_from if resplit in RESPLIT_FLAGS else None).items()
    ]
    unnamed = [((split, kind), count) for (split, kind), count in sorted(refused.items()) if kind == UNNAMED]
    lines += [(*place, *[None] * 5, 0, count) for place, count in unnamed]
    numbers = ("expected", "found", "missing", "extra", "doubled", "stored", "rejected")
    parts: list[Part] = [
        _verdict(accounting),
        Table(columns={"split": "", "scene type": "", **dict.fromkeys(numbers, ",d")}, rows=lines),
        "Expected is what DIODE's catalogue lists for train, scan by scan, and what the published archive holds of "
        "val. Found are distinct ids with DIODE's names and all three files; what lacks one is rejected.",
    ]
    if drawn_from:
        flag = RESPLIT_FLAGS.get(resplit, "--resplit")
        parts.append(
            f"The stored splits were drawn anew from the source's {drawn_from} ({flag}): train and val are counted "
            "together here, and samples of a split that was not asked for are neither stored nor rejected."
        )
    return Section(heading="Counts against the catalogue", parts=[*parts, *_scan_counts(accounting)])


def _figures(accounting: Accounting, *, pooled_as: str | None) -> dict[tuple[str, str], dict[str, int | None]]:
    """Returns the numbers of `Count.figures` by split and scene type, or by scene type if all splits are pooled."""
    found: dict[tuple[str, str], dict[str, int | None]] = {}
    for total in accounting.scene_types:
        place, figures = (pooled_as or total.place.split, total.place.scene_type), total.figures()
        before = found.get(place, dict.fromkeys(figures, 0))
        found[place] = {
            name: None if number is None or figures[name] is None else number + (figures[name] or 0)
            for name, number in before.items()
        }
    return found


def _verdict(accounting: Accounting) -> str:
    """Whether this is DIODE, in a sentence."""
    found = sum(scan.found for scan in accounting.scans)
    expected = sum(total.expected or 0 for total in accounting.scene_types)
    splits = " and ".join(accounting.splits)
    if not accounting.is_diode:
        return f"This is not DIODE, as the names of its scans say, so nothing is expected: {found:,} samples found."
    if accounting.is_complete:
        return f"DIODE's {splits}, complete: no sample is missing."
    return f"A part of DIODE's {splits}: {found:,} of {expected:,} samples."


def _scan_counts(accounting: Accounting) -> list[Part]:
    """Every scan that is not as expected, to be opened."""
    unlike = [scan for scan in accounting.scans if scan.missing or scan.extra or scan.doubled]
    if not unlike:
        return ["Every scan that is judged holds what is expected, and no id twice."] if accounting.is_diode else []
    columns = dict.fromkeys(("expected", "found", "missing", "extra", "doubled"), ",d")
    table = Table(
        columns={**dict.fromkeys(("split", "scene type", "scene", "scan"), ""), **columns},
        rows=[(*scan.place, *scan.figures().values()) for scan in unlike],
    )
    return [Details(summary=f"{len(unlike):,} scans with samples missing, extra or doubled", parts=[table])]


def depths(rows: Sequence[Row], histogram: DepthHistogram) -> Section:
    """Which depths occur, by scene type."""
    chart = draw_histograms(
        histogram.edges_m, histogram.counts, x_label="depth, m", y_label="share of valid pixels", x_axis="logarithmic"
    )
    read = f"all {histogram.samples:,}" if histogram.samples == len(rows) else f"{histogram.samples:,} evenly spaced"
    pixels = ", ".join(f"{scene_type} {counts.sum():,}" for scene_type, counts in histogram.counts.items())
    caption = (
        f"Valid pixels of {read} samples ({pixels}), as shares of their scene type. The bins are evenly spaced in the "
        "logarithm; depths beyond the axis are counted in the outermost bins."
    )
    alt = f"Histogram of depth by scene type, {histogram.edges_m[0]:.2g} to {histogram.edges_m[-1]:.3g} metres"
    return Section(
        heading="Depth",
        parts=[
            *filter(None, [implausible_depths(rows)]),
            Gallery(pictures=[Picture(image=chart, alt=alt, caption=caption)]),
            _percentiles(rows, "_m", ".2f", caption="A sample's least, median and greatest depth, in metres"),
        ],
    )


def fractions(rows: Sequence[Row]) -> Section:
    """How much of a picture is valid, and how much of it lies beside a depth edge."""
    pictures = []
    for column in ("valid_fraction", "edge_fraction"):
        values = by_scene_type(rows, column)
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


def _percentiles(rows: Sequence[Row], suffix: str, spec: str, *, caption: str) -> Table:
    """Percentiles over samples of the figures whose column ends so."""
    lines = [
        (name, scene_type, *np.percentile(values, list(PERCENTILES.values())))
        for column, name in FIGURE_NAMES.items()
        if column.endswith(suffix)
        for scene_type, values in by_scene_type(rows, column).items()
    ]
    columns = {"figure": "", "scene type": "", **dict.fromkeys(PERCENTILES, spec)}
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
        f"{len(panels)} samples, alike many of each split and scene type, evenly spaced by id, at the stored size. The "
        "colours of the depth reach from its 1st to its 99th percentile."
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
    """Which samples differ most from their scene type.

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
            f"By the greatest |z| among {', '.join(names)} and {last}, each against its scene type: z = (x − median) / "
            f"max({NORMAL_SCALE} MAD, {LEAST_SCALE}), where MAD is the median absolute deviation and a depth counts as "
            f"its natural logarithm. {outliers:,} of {len(ranked):,} samples have |z| > {ODD_Z}, from where Iglewicz "
            "and Hoaglin (1993) speak of outliers. Odd is not wrong: the pictures tell.",
            table,
            Gallery(pictures=panels),
        ],
    )


def _identity(row: Row) -> tuple[str, str, str]:
    return row["sample_id"], row["split"], row["scene_type"]


def _figure(column: str, value: float) -> str:
    return f"{value:.2f} m" if column.endswith("_m") else f"{value:.1%}"


def _scene_type(sample_id: str) -> str:
    """What an id says of its scene type."""
    parts = sample_id.split("_")
    return parts[2] if len(parts) == 5 and parts[2] in SCENE_TYPES else UNNAMED


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
