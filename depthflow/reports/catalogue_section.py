"""The section of the data report that compares a store with DIODE's catalogue."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from depthflow.datasets.catalogue import Accounting
from depthflow.datasets.diode import scene_type_of
from depthflow.reports.page import Details, Part, Section, Table
from depthflow.reports.survey import Row
from depthflow.store.schema import FIRST_DATASET

UNNAMED = "(name not DIODE's)"
"""The scene type of an input that has none."""
RESPLIT_FLAGS = {"time": "--resplit time", "file": "--split-file"}
"""What a manifest states as resplit if all splits of the source were pooled, and the flag that asked for it."""


def catalogue_counts(
    manifest: Mapping[str, Any], accounting: Accounting, rows: Sequence[Row], rejects: Sequence[Mapping[str, Any]]
) -> Section:
    """Expected, found, stored and refused, by split and scene type and then by scan; nothing of other data sets."""
    resplit = manifest["config"]["resplit"]
    drawn_from = " + ".join(accounting.splits) if resplit in RESPLIT_FLAGS else resplit
    stored = Counter((drawn_from or row["split"], row["scene_type"]) for row in rows if row["dataset"] == FIRST_DATASET)
    refused = Counter((drawn_from or row["split"], scene_type_of(row["sample_id"]) or UNNAMED) for row in rejects)
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
