"""The formats that --files may name: file name ending, and the function that writes the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depthflow.datasets.camera import Camera
from depthflow.inference.writers import SCALE_KEYS, write_npy, write_ply, write_png16
from depthflow.models.interface import Output
from depthflow.store.write.planes import resize_rgb

DRAWN_AS: Mapping[Output, Mapping[str, Any]] = {
    "metres": {"quantity": "depth, m"},
    "relative depth": {"quantity": "relative depth, no unit"},
    "relative inverse depth": {"quantity": "relative inverse depth", "larger_is_nearer": True},
}
PANEL_PX = 1024
"""Longer side of an image in a panel, which is for people."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An image and its depth.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32: metres, > 0, NaN where they are not believed; or relative depth, > 0; or relative inverse
            depth, >= 0.
        output: Which of these.
        camera: Camera of the image, at its size; None if unknown.
        name: Name of the image, for people.
    """

    rgb: np.ndarray
    depth: np.ndarray
    output: Output
    camera: Camera | None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        help: A few words for --help.
        endings: Output to the ending of the file name, NAME.ENDING, unique to the format. It cannot hold other outputs.
        write: Writes the file at a path; returns facts to add to NAME.depth.json, or None.
        needs_camera: Whether it needs the camera. A flag of its own asks for it, instead of --files.
    """

    help: str
    endings: Mapping[Output, str]
    write: Callable[[Path, Prediction], Mapping[str, Any] | None]
    needs_camera: bool = False


def endings(extension: str) -> Mapping[Output, str]:
    """Returns an ending per output, so that nobody confuses them: relative.EXTENSION is relative inverse depth."""
    return {
        "metres": f"depth.{extension}",
        "relative depth": f"relative-depth.{extension}",
        "relative inverse depth": f"relative.{extension}",
    }


def shrunk(rgb: np.ndarray, depth_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both, shrunk to `PANEL_PX`."""
    scale = PANEL_PX / max(depth_m.shape)
    if scale >= 1:
        return rgb, depth_m
    height, width = (max(1, round(length * scale)) for length in depth_m.shape)
    small_m = cv2.resize(depth_m, (width, height), interpolation=cv2.INTER_AREA)
    return resize_rgb(rgb, height=height, width=width), small_m


def _write_png(path: Path, prediction: Prediction) -> Mapping[str, Any]:
    key = SCALE_KEYS[prediction.output]
    return {key: write_png16(path, prediction.depth, scale_key=key)}


def _write_panel(path: Path, prediction: Prediction) -> None:
    from depthflow.reports.panels import DepthMap, draw_panel  # Imports matplotlib, which takes seconds.

    rgb, small = shrunk(prediction.rgb, prediction.depth)
    shown = DepthMap(
        title="predicted depth", depth_m=small, valid_mask=np.isfinite(small), **DRAWN_AS[prediction.output]
    )
    draw_panel(path, rgb=rgb, maps=[shown])


def _write_ply(path: Path, prediction: Prediction) -> None:
    assert prediction.camera is not None
    write_ply(path, prediction.depth, prediction.rgb, prediction.camera, output=prediction.output)


def _write_viewer(path: Path, prediction: Prediction) -> None:
    from depthflow.reports.page import Picture
    from depthflow.reports.panels import DepthMap, panel_jpeg  # Imports matplotlib, as above.
    from depthflow.reports.viewer import viewer_page

    assert prediction.camera is not None
    small_rgb, small_m = shrunk(prediction.rgb, prediction.depth)
    title, drawn_as = "predicted depth", DRAWN_AS[prediction.output]
    small = DepthMap(title=title, depth_m=small_m, valid_mask=np.isfinite(small_m), **drawn_as)
    panel = panel_jpeg(rgb=small_rgb, maps=[small], upright=True)
    page = viewer_page(
        title=prediction.name,
        subtitle="Predicted depth in 3D",
        rgb=prediction.rgb,
        camera=prediction.camera,
        maps=[DepthMap(title=title, depth_m=prediction.depth, valid_mask=np.isfinite(prediction.depth))],
        pictures=[Picture(image=panel, alt="Photograph and predicted depth")],
        unit="m" if prediction.output == "metres" else "",
    )
    path.write_text(page.to_html())


FORMATS: dict[str, Format] = {
    "npy": Format(
        help="NAME.depth.npy, float32, metres",
        endings=endings("npy"),
        write=lambda path, prediction: write_npy(path, prediction.depth),
    ),
    "png": Format(
        help="NAME.depth.png, 16 bit, millimetres up to 65 m, else its scale inside",
        endings=endings("png"),
        write=_write_png,
    ),
    "panel": Format(
        help="NAME.panel.png, for people",
        endings={"metres": "panel.png", "relative depth": "panel.png", "relative inverse depth": "panel.png"},
        write=_write_panel,
    ),
    "ply": Format(
        help="NAME.ply, one coloured point per pixel",
        endings={"metres": "ply", "relative depth": "relative-depth.ply"},
        write=_write_ply,
        needs_camera=True,
    ),
    "viewer": Format(
        help="NAME.viewer.html, a page with the points to turn and zoom",
        endings={"metres": "viewer.html", "relative depth": "relative-depth.viewer.html"},
        write=_write_viewer,
        needs_camera=True,
    ),
}
