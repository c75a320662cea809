"""Figures on DIODE's validation split that others have published, each with what it was measured under."""

from dataclasses import dataclass


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
