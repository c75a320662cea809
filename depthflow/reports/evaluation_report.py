"""The evaluation report: one HTML file that says how well a model does, where it errs, and beside whom."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from depthflow.datasets.frames import SCENE_TYPES
from depthflow.evaluation.breakdown import DEPTH_EDGES_M, EDGE_DISTANCES_PX, NEAR_EDGE_PX, RATIOS, Breakdown
from depthflow.evaluation.evaluate import Evaluation, image_groups
from depthflow.evaluation.protocols import Protocol
from depthflow.evaluation.reprojection import Reprojected
from depthflow.metrics import BOUNDARY_NAMES, METRIC_NAMES, mean_over_images
from depthflow.reports.evaluation_images import image_sections
from depthflow.reports.page import Details, Facts, Gallery, Page, Part, Picture, Section, Table
from depthflow.reports.plots import draw_curves, draw_ranges
from depthflow.reports.published import published_section
from depthflow.store.schema import FIRST_DATASET
from depthflow.store.store import SampleStore

REPORT = "report.html"
IMAGES = "images.csv"
BASELINES = {
    "mean depth": "The baseline predicts the mean depth of the training data for every pixel.",
    "constant depth": "The baseline predicts the same depth for every pixel, which the protocol scales to the truth.",
}
"""What each baseline does."""
SPARSE_PIXELS = 1000
"""Ranges with fewer counted pixels are not drawn."""


def write_evaluation(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    *,
    protocol: Protocol,
    store: SampleStore,
    depth_m: Mapping[str, Mapping[int, np.ndarray]],
    reprojected: Mapping[int, Reprojected] = MappingProxyType({}),
    baseline: str | None = None,
) -> list[Path]:
    """Writes report.html and images.csv, a row a model and image.

    Args:
        folder: it is made.
        evaluations: name to what it did; the first is the model that the report is on.
        depth_m: model to row to prediction, of the rows that `shown_rows` names.
        reprojected: Row to how its views explain it, given the first model's depth.
        baseline: Which of the evaluations is the mean-depth baseline's, if any.

    Returns:
        The paths of report.html, of images.csv, and of a page per worst image with its points in three dimensions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, table = folder / REPORT, folder / IMAGES
    name, result = next(iter(evaluations.items()))
    of_diode = result.metrics.get(f"dataset {FIRST_DATASET}", result.metrics["all"])
    images, viewers = image_sections(
        folder, evaluations, protocol=protocol, store=store, depth_m=depth_m, reprojected=reprojected
    )
    page = Page(
        title="Evaluation",
        subtitle=f"{name} under the protocol {protocol.name}",
        sections=[
            _overview(evaluations, baseline, protocol=protocol, store=store),
            _metrics(evaluations),
            *_errors(result),
            *images["worst"],
            _scenes(result, store),
            *images["median"],
            *images["best"],
            *published_section(of_diode, protocol=protocol, store=store, split=result.split),
        ],
    )
    report.write_text(page.to_html())
    rows = [{"model": name, **image} for name, found in evaluations.items() for image in found.images]
    pacsv.write_csv(pa.Table.from_pylist(rows), table)
    return [report, table, *viewers]


def _overview(
    evaluations: Mapping[str, Evaluation], baseline: str | None, *, protocol: Protocol, store: SampleStore
) -> Section:
    result = next(iter(evaluations.values()))
    overall = result.metrics["all"]
    tiles = {
        "samples": f"{result.samples:,}",
        "abs_rel": f"{overall['abs_rel']:.3f}",
        "delta1": f"{overall['delta1']:.3f}",
        "rmse": f"{overall['rmse']:.2f} m",
    }
    parts: list[Part] = [protocol.meaning]
    if baseline is not None:
        tiles["abs_rel of the baseline"] = f"{evaluations[baseline].metrics['all']['abs_rel']:.3f}"
        parts += [BASELINES[baseline]] if baseline in BASELINES else []
    relative = {name: found.output for name, found in evaluations.items() if found.output != "metres"}
    if result.without_depth:
        parts.append(f"{result.without_depth:,} more samples of {result.split} have no depth and are not counted.")
    parts = [
        Facts(values=tiles),
        *parts,
        Table(
            columns={"what": "", "value": ""},
            rows=[
                ("protocol", protocol.name),
                ("split", result.split),
                ("sample store", store.files.root),
                ("its fingerprint", result.fingerprint),
                ("ground truth, px", f"{store.height} × {store.width}"),
                *((f"{name} predicts", f"{output}, aligned to the truth") for name, output in relative.items()),
            ],
        ),
    ]
    parts += [f"Do not use this model: {problem}." for problem in result.problems]
    return Section(heading="Overview", parts=parts)


def _metrics(evaluations: Mapping[str, Evaluation]) -> Section:
    images = next(iter(evaluations.values())).images  # All models have the same ones.
    counts = {"all": len(images), **{name: len(places) for name, places in image_groups(images).items()}}
    found = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    general, boundaries = (
        Table(
            columns={"": "", "model": "", "images": ",d", **dict.fromkeys(names, ".4f")},
            rows=[
                (group, name, count, *(metrics[group].get(metric) for metric in names))
                for group, count in counts.items()
                if count
                for name, metrics in found.items()
            ],
        )
        for names in (METRIC_NAMES, BOUNDARY_NAMES)
    )
    return Section(
        heading="Metrics",
        parts=[
            general,
            "Per image over its counted pixels, then the mean over images that have one. mae, rmse and sq_rel are in "
            "metres; delta1 to delta3 are better high, all else low.",
            boundaries,
            "Depth boundaries, whatever the scale of the prediction: neighbouring pixels of which one is 1.05 to 1.25 "
            f"times as far, better high (arXiv:2410.02073). edge_abs_rel is abs_rel of the pixels less than "
            f"{NEAR_EDGE_PX:g} px from an edge of the store, better low. Images without a boundary do not count.",
        ],
    )


def _errors(result: Evaluation) -> list[Section]:
    """By scene type and, if there are several, by data set."""
    found = {kind: of_kind for kind, of_kind in result.breakdowns.items() if of_kind.images}
    scene_types = {kind: found.pop(kind) for kind in SCENE_TYPES if kind in found}
    by_dataset = [_errors_of("Where it errs, by data set", found, kind="data set")] if found else []
    return [_errors_of("Where it errs", scene_types, kind="scene type"), *by_dataset]


def _errors_of(heading: str, groups: Mapping[str, Breakdown], *, kind: str) -> Section:
    """By depth, by distance to an edge, and the curve of delta."""
    by_depth = {name: _means(found.by_depth) for name, found in groups.items()}
    by_edge = {name: _means(found.by_edge_distance) for name, found in groups.items()}
    depth_ranges, edge_ranges = range_names(DEPTH_EDGES_M), ["edge", *range_names(EDGE_DISTANCES_PX)[1:]]
    charts = [
        _range_chart(
            {name: means[:, 0] for name, means in by_depth.items()},
            ranges=depth_ranges,
            axes=("true depth, m", "mean relative error"),
            caption="How large the relative error is, by true depth, over all counted pixels of the range.",
        ),
        _range_chart(
            {name: means[:, 1] for name, means in by_depth.items()},
            ranges=depth_ranges,
            axes=("true depth, m", "mean signed relative error"),
            caption="Which way it errs: above zero predictions are too far, below too near.",
            zero_line=True,
        ),
        _range_chart(
            {name: means[:, 0] for name, means in by_edge.items()},
            ranges=edge_ranges,
            axes=("distance to the nearest depth edge, px", "mean relative error"),
            caption="At edges the laser's depth is least to be trusted, too.",
        ),
        Picture(
            image=draw_curves(
                RATIOS,
                {name: found.within_ratio / found.images for name, found in groups.items()},
                x_label="greatest ratio between prediction and truth",
                y_label="share of pixels within it",
                marks=[1.25, 1.25**2, 1.25**3],
            ),
            alt="Share of pixels within a ratio of the truth, by ratio",
            caption="delta1, delta2 and delta3 are the values at the thin lines: 1.25, 1.25² and 1.25³.",
        ),
    ]
    return Section(
        heading=heading,
        parts=[
            Gallery(pictures=charts, side_by_side=True),
            Details(summary="The same in numbers", parts=[_range_table(groups, kind=kind)]),
        ],
    )


def _range_chart(
    groups: Mapping[str, np.ndarray],
    *,
    ranges: Sequence[str],
    axes: tuple[str, str],
    caption: str,
    zero_line: bool = False,
) -> Picture:
    x_label, y_label = axes
    image = draw_ranges(ranges, groups, x_label=x_label, y_label=y_label, zero_line=zero_line)
    return Picture(image=image, alt=f"{y_label.capitalize()} by {x_label}", caption=caption)


def range_names(edges: np.ndarray) -> list[str]:
    """Names of the ranges between edges, such as 1–2 and over 120."""
    inner = [f"{low:g}–{high:g}" for low, high in pairwise(edges[:-1])]
    return [*inner, f"> {edges[-2]:g}"]


def _means(sums: np.ndarray) -> np.ndarray:
    """(n, 3) pixels and two sums to (n, 2) means, NaN where there are too few pixels to speak of."""
    enough = sums[:, :1] >= SPARSE_PIXELS
    return np.where(enough, sums[:, 1:] / np.maximum(sums[:, :1], 1), np.nan)


def _range_table(groups: Mapping[str, Breakdown], *, kind: str) -> Table:
    rows = []
    for group, found in groups.items():
        for heading, edges, sums in (
            ("depth, m", DEPTH_EDGES_M, found.by_depth),
            ("distance to an edge, px", EDGE_DISTANCES_PX, found.by_edge_distance),
        ):
            means = _means(sums)
            rows += [(group, heading, name, int(sums[k, 0]), *means[k]) for k, name in enumerate(range_names(edges))]
    columns = {kind: "", "by": "", "range": "", "pixels": ",d", "relative error": ".3f", "signed": "+.3f"}
    return Table(columns=columns, rows=rows)


def _scenes(result: Evaluation, store: SampleStore) -> Section:
    """Every scene's figures, the worst first."""
    names = store.split_index(result.split)["scene"].to_pylist()
    scenes: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for image in result.images:
        scenes[image["dataset"], image["scene_type"], names[image["row"]]].append(image)
    several = len({dataset for dataset, *_ in scenes}) > 1
    rows = []
    for place, images in scenes.items():
        figures = mean_over_images(images)
        rows.append((*place, len(images), *(figures[name] for name in ("abs_rel", "rmse", "delta1"))))
    rows.sort(key=lambda row: (math.isnan(row[4]), -row[4], row[:3]))
    columns = {"scene type": "", "scene": "", "images": ",d", "abs_rel": ".3f", "rmse, m": ".2f", "delta1": ".3f"}
    table = Table(columns={"data set": "", **columns}, rows=rows)
    if not several:
        table = Table(columns=columns, rows=[row[1:] for row in rows])
    return Section(heading="Scenes, the worst first", parts=[table])
