"""Metrics on DIODE's validation split that others have published, each with what it was measured under."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthflow.evaluation.protocols import Protocol
from depthflow.reports.data_report import read_accounting
from depthflow.reports.page import Part, Section, Table
from depthflow.store.store import SampleStore


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of somebody's table.

    Attributes:
        model: its name.
        abs_rel, rmse_m, delta1: as printed; None where it was not given.
        measured: scene type, cap, alignment and whether the model had seen DIODE, as far as the source says.
        source: where it stands.
        protocol: the protocol here that comes nearest; its figures may be set beside these.
    """

    model: str
    abs_rel: float
    rmse_m: float | None
    delta1: float
    measured: str
    source: str
    protocol: str


_ZOE = "ZoeDepth, arXiv:2302.12288"
PUBLISHED = (
    Published(
        model="BTS", abs_rel=0.418, rmse_m=1.905, delta1=0.210, measured="indoors, zero-shot, cap 10 m",
        source=f"{_ZOE}, table 3", protocol="indoor-10m",
    ),
    Published(
        model="ZoeD-M12-NK", abs_rel=0.331, rmse_m=1.598, delta1=0.386, measured="indoors, zero-shot, cap 10 m",
        source=f"{_ZOE}, table 3", protocol="indoor-10m",
    ),
    Published(
        model="UniDepth-V", abs_rel=0.181, rmse_m=0.760, delta1=0.798, measured="indoors", source="MfH, table 2",
        protocol="indoor-10m",
    ),
    Published(
        model="UniDepthV2", abs_rel=0.123, rmse_m=None, delta1=0.856, measured="indoors",
        source="Depth Anything 3, table 11", protocol="indoor-10m",
    ),
    Published(
        model="BTS", abs_rel=0.837, rmse_m=10.48, delta1=0.171, measured="outdoor, zero-shot, cap 80 m",
        source=f"{_ZOE}, table 4", protocol="outdoor-80m",
    ),
    Published(
        model="ZoeD-M12-NK", abs_rel=0.757, rmse_m=7.569, delta1=0.208, measured="outdoor, zero-shot, cap 80 m",
        source=f"{_ZOE}, table 4", protocol="outdoor-80m",
    ),
    Published(
        model="Depth Anything V1, metric", abs_rel=0.794, rmse_m=None, delta1=0.288, measured="outdoor",
        source="its README", protocol="outdoor-80m",
    ),
    Published(
        model="Marigold", abs_rel=0.308, rmse_m=None, delta1=0.773, measured="val, affine-aligned",
        source="its README", protocol="affine",
    ),
)  # fmt: skip


def published_section(
    metrics: Mapping[str, float], *, protocol: Protocol, store: SampleStore, split: str
) -> list[Section]:
    """Returns a section with published metrics beside ours, or none if we measured on other images than DIODE's val.

    Args:
        metrics: Ours over all images.
        protocol: The protocol that we measured under; only what was measured much like it is listed.
        store: Evaluated store.
        split: Evaluated split.
    """
    if split != "val" or not is_whole(store, split, scene_type=protocol.scene_type):
        return []
    rows: list[Sequence[Any]] = [
        (row.model, row.abs_rel, row.rmse_m, row.delta1, row.measured, row.source)
        for row in PUBLISHED
        if row.protocol == protocol.name
    ]
    parts: list[Part] = [
        f"No published metrics were measured as {protocol.name} measures. There are some for --protocol "
        f"{', '.join(dict.fromkeys(row.protocol for row in PUBLISHED))}."
    ]
    if rows:
        rows.insert(0, ("this model", metrics["abs_rel"], metrics["rmse"], metrics["delta1"], protocol.name, ""))
        columns = {"model": "", "abs_rel": ".3f", "rmse, m": ".3f", "delta1": ".3f", "measured": "", "source": ""}
        parts = [
            f"Measured much as {protocol.name} measures; masks, crops and training data may differ, and published "
            "models were trained on far more data.",
            Table(columns=columns, rows=rows),
        ]
    return [Section(heading="Published metrics on DIODE", parts=parts)]


def is_whole(store: SampleStore, split: str, *, scene_type: str | None) -> bool:
    """Returns whether a store was made from all of DIODE's samples of a split, or of one scene type of it."""
    counts = [
        count
        for count in read_accounting(store).scene_types
        if count.place.split == split and scene_type in (None, count.place.scene_type)
    ]
    return not store.manifest["config"]["resplit"] and bool(counts) and all(count.missing == 0 for count in counts)
