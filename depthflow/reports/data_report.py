"""The data report: one HTML file in the store that says what the store holds, what it lacks, and what looks odd."""

from collections.abc import Callable, Sequence

import numpy as np

from depthflow.datasets.catalogue import Accounting, Count, Place
from depthflow.reports import data_sections as sections
from depthflow.reports.catalogue_section import catalogue_counts
from depthflow.reports.page import Page, Picture
from depthflow.reports.panels import DepthMap, sample_panel
from depthflow.reports.survey import Row, depth_histogram, drawn_samples, oddities, sample_rows
from depthflow.store.read.reader import SplitReader
from depthflow.store.schema import FIRST_DATASET, plane_dtypes
from depthflow.store.store import ACCOUNTING, SampleStore

REPORT = "report.html"
FINGERPRINT_META = "depthflow.fingerprint"
MAX_SURVEYED = 1000
SAMPLES_DRAWN = 12
ODDEST_DRAWN = 6


def write_report(store: SampleStore, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
    """Writes the report into the store; the same store gives the same report.

    Args:
        progress: called with (done, in all) while samples are read.

    Returns:
        Where it is.

    Raises:
        StoreError: if the store cannot be read or written.
    """
    rows, rejects = sample_rows(store), store.rejects.to_pylist()
    histogram = depth_histogram(store, rows, limit=MAX_SURVEYED, progress=progress)
    odd, drawn = oddities(rows), drawn_samples(rows, wanted=SAMPLES_DRAWN)
    any_diode = FIRST_DATASET in histogram.by_dataset
    page = Page(
        title="Data report",
        subtitle=store.files.root,
        meta={FINGERPRINT_META: store.fingerprint},
        sections=[
            sections.overview(store.manifest),
            sections.shown(_panels(store, drawn)),
            sections.depths(rows, histogram),
            *sections.datasets(rows, histogram),
            sections.fractions(rows),
            sections.refused(rejects),
            sections.oddest(odd, _panels(store, [oddity.row for oddity in odd[:ODDEST_DRAWN]])),
            sections.slowest(rows),
            *([catalogue_counts(store.manifest, read_accounting(store), rows, rejects)] if any_diode else []),
        ],
    )
    store.files.write(REPORT, page.to_html().encode())
    return f"{store.files.root}/{REPORT}"


def read_report(store: SampleStore) -> str | None:
    """The store's report as HTML; None if it has none, or one of other content, left from before."""
    if not store.files.exists(REPORT):
        return None
    html = store.files.read(REPORT).to_pybytes().decode()
    return html if f'name="{FINGERPRINT_META}" content="{store.fingerprint}"' in html else None


def read_accounting(store: SampleStore) -> Accounting:
    """What the store's sources held against DIODE's catalogue."""
    scans = []
    for row in store.read_table(ACCOUNTING).to_pylist():
        place = Place(*(row.pop(name) for name in Place._fields))
        scans.append(Count(place=place, doubled=tuple(row.pop("doubled")), **row))
    return Accounting(splits=tuple(store.manifest["accounting"]), scans=tuple(scans))


def _panels(store: SampleStore, rows: Sequence[Row]) -> list[Picture]:
    """A panel a sample, with its id and figures as caption."""
    readers = {
        split: SplitReader(store, split, planes=tuple(plane_dtypes(store.kind)), cache_bytes=0)
        for split in {row["split"] for row in rows}
    }
    pictures = []
    for row in rows:
        batch = readers[row["split"]].read([row["position"]])
        views, depth = {name: batch.planes[name][0] for name in store.views}, None
        shown = ["Photograph", *views]
        if batch.valid_mask.any():
            depth = DepthMap(title="depth", depth_m=np.exp(batch.log_depth[0]), valid_mask=batch.valid_mask[0])
            shown.append("depth and masks")
        image = sample_panel(rgb=batch.rgb[0], depth=depth, edge_mask=batch.edge_mask[0], views=views)
        alt = f"{', '.join(shown)} of {row['sample_id']}"
        pictures.append(Picture(image=image, alt=alt, caption=_caption(row)))
    return pictures


def _caption(row: Row) -> str:
    if row["depth_median_m"] is None:
        return "{sample_id} ({split}): no depth".format_map(row)
    return (
        "{sample_id} ({split}): {depth_min_m:.2f} to {depth_max_m:.2f} m, median {depth_median_m:.2f} m; "
        "{valid_fraction:.1%} valid, {edge_fraction:.1%} beside depth edges"
    ).format_map(row)
