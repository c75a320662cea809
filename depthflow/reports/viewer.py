"""A page with a cloud of points to turn and zoom, image and depth beside it. It opens without a network.

plotly.js, which draws the points, is inside the page, compressed to 2 MB; a point adds about 17 bytes.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from math import ceil, cos, radians, sin, sqrt
from typing import Any

import numpy as np
from plotly import io as plotly_io

from depthflow.datasets.camera import Camera
from depthflow.reports.page import Gallery, Page, Picture, Section, Viewer
from depthflow.reports.panels import DepthMap

MAX_POINTS = 100_000
"""Of one depth map; larger ones are thinned to every k-th row and column."""
TRUTH_COLOUR = (255, 140, 40)
AXIS_COLOUR = "#808080"
"""Readable on light and on dark pages."""
OVERLAY = {"bgcolor": "rgba(255,255,255,0.85)"}
"""Behind what is drawn over the points."""
ABOVE_DEG, LEFT_DEG, BACK = 8.0, 15.0, 1.2
"""The first view: the camera's, turned by these angles about the middle of the scene, from a little farther away."""
POINT_SIZE = 500
"""Size of a point, in pixels of the screen, for a gap of one radian to the next: the first view shows surfaces."""
CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "orbitRotation", "resetCameraLastSave3d", "hoverClosest3d"],
    "plotlyServerURL": "",
    "responsive": True,
    "scrollZoom": True,
}
"""Without the button that uploads the points to plotly.com."""
UNPACK = """<div id="scene"></div>
<script type="module">
const bytes = Uint8Array.from(atob("%s"), (character) => character.charCodeAt(0));
const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const html = await new Response(unpacked).text();
document.getElementById("scene").append(document.createRange().createContextualFragment(html));
</script>"""


def viewer_page(
    *,
    title: str,
    subtitle: str,
    rgb: np.ndarray,
    camera: Camera,
    maps: Sequence[DepthMap],
    pictures: Sequence[Picture],
    unit: str = "m",
) -> Page:
    """Returns a page with the points of depth maps.

    Args:
        title: Title of the page.
        subtitle: Line below the title.
        rgb: (H, W, 3) uint8, the points' colours.
        camera: Camera of the image, at its size.
        maps: Depth maps of the image's size, in `unit`. If there are several, the first is the ground truth, tinted
            orange; the second is shown with it, and others only when their name is clicked.
        pictures: Pictures beside the points.
        unit: Unit of the maps: m, or empty for relative depth.
    """
    step = thinning(rgb.shape[0], rgb.shape[1])
    points = [_points(one, camera, step) for one in maps]
    images = [tinted(rgb) if one is maps[0] and len(maps) > 1 else rgb for one in maps]
    traces = [
        _trace(one.title, xyz, _colours(image, one, step), size_px=POINT_SIZE * step / camera.fx_px, unit=unit)
        for one, xyz, image in zip(maps, points, images, strict=True)
    ]
    for trace in traces[2:]:
        trace["visible"] = "legendonly"
    figure = {"data": traces, "layout": _layout(np.concatenate(points[:2]), unit)}
    html = plotly_io.to_html(
        figure, config=CONFIG, include_plotlyjs=True, full_html=False, div_id="points", validate=False
    )
    text = "Drag to turn, scroll or pinch to zoom, drag with the right button to move. "
    if len(maps) > 1:
        text += f"The {maps[0].title} is orange; click a name on the picture to hide or show its points. "
    text += f"One point per {'pixel' if step == 1 else f'{step} × {step} pixels'}, "
    text += f"{'in metres' if unit == 'm' else 'without a unit, since the scale is unknown'}: x to the right, y down, "
    text += "z away from the camera."
    packed = base64.b64encode(gzip.compress(html.encode(), mtime=0)).decode()
    parts = [text, Viewer(html=UNPACK % packed, beside=Gallery(pictures=pictures))]
    return Page(title=title, subtitle=subtitle, sections=[Section(heading="Points", parts=parts)])


def thinning(height: int, width: int) -> int:
    """Returns the smallest k such that every k-th row and column have `MAX_POINTS` pixels or fewer."""
    step = ceil(sqrt(height * width / MAX_POINTS))
    while ceil(height / step) * ceil(width / step) > MAX_POINTS:
        step += 1
    return step


def tinted(rgb: np.ndarray) -> np.ndarray:
    """Returns a (H, W, 3) uint8 image in shades of `TRUTH_COLOUR`, in which one still recognizes what it shows."""
    brightness = 0.3 + 0.7 * rgb.mean(axis=-1, keepdims=True) / 255
    return (brightness * TRUTH_COLOUR).astype(np.uint8)


def _is_shown(one: DepthMap, step: int) -> np.ndarray:
    """Returns (h, w) bool, which of the thinned pixels have a point: an aligned prediction may lack a place."""
    depth_m = one.masked[::step, ::step]
    return ~np.ma.getmaskarray(depth_m) & np.isfinite(depth_m.data) & (depth_m.data > 0)


def _points(one: DepthMap, camera: Camera, step: int) -> np.ndarray:
    """Returns (N, 3) float32, metres."""
    return camera.unproject(one.depth_m)[::step, ::step][_is_shown(one, step)]


def _colours(rgb: np.ndarray, one: DepthMap, step: int) -> list[str]:
    """Returns N colours."""
    return [f"#{pixel.tobytes().hex()}" for pixel in rgb[::step, ::step][_is_shown(one, step)]]


def _trace(name: str, xyz: np.ndarray, colours: list[str], *, size_px: float, unit: str) -> dict[str, Any]:
    """Returns plotly's description of a cloud."""
    return {
        "type": "scatter3d",
        "mode": "markers",
        "name": name,
        **{axis: _encoded(values) for axis, values in zip("xyz", xyz.T, strict=True)},
        "marker": {"size": float(np.clip(size_px, 1, 8)), "color": colours, "line": {"width": 0}},
        "hovertemplate": "<br>".join(f"{axis} %{{{axis}:.2f}} {unit}".rstrip() for axis in "xyz"),
    }


def _encoded(values: np.ndarray) -> dict[str, str]:
    """Returns an array as plotly.js takes it without a loss, in half the bytes of decimal numbers."""
    return {"dtype": "f4", "bdata": base64.b64encode(values.astype("<f4").tobytes()).decode()}


def _layout(points: np.ndarray, unit: str) -> Mapping[str, Any]:
    """Returns axes of one scale around the points, and the first view.

    plotly.js gives places in the scene in multiples of a length, from the middle of the axes. This length is the median
    depth here, so that the view does not depend on how far away the farthest point is.
    """
    if not len(points):
        return {}
    low, high = points.min(axis=0), points.max(axis=0)
    spare = 0.01 * float(np.max(high - low)) + 0.01
    low, high = low - spare, high + spare
    length = float(np.median(points[:, 2]))
    above, left = radians(ABOVE_DEG), radians(LEFT_DEG)
    middle = np.array([0.0, 0.0, length])
    towards = np.array([-sin(left) * cos(above), -sin(above), -cos(left) * cos(above)])
    places = {"center": middle, "eye": middle + BACK * length * towards}
    names = ("x", "y", "z")
    axes = {
        f"{name}axis": {
            "title": {"text": f"{name}, {unit}" if unit else name},
            "range": [float(low[k]), float(high[k])],
            "color": AXIS_COLOUR,
            "gridcolor": AXIS_COLOUR,
            "showbackground": False,
            "showspikes": False,
            "zeroline": False,
        }
        for k, name in enumerate(names)
    }
    camera = {
        name: dict(zip(names, ((place - (low + high) / 2) / length).tolist(), strict=True))
        for name, place in places.items()
    }
    return {
        "scene": {
            **axes,
            "aspectmode": "manual",
            "aspectratio": dict(zip(names, ((high - low) / length).tolist(), strict=True)),
            "camera": {"up": {"x": 0, "y": -1, "z": 0}, **camera},
        },
        "legend": {"x": 0, "y": 1, "font": {"color": "#222222"}, **OVERLAY},
        "modebar": OVERLAY,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "font": {"color": AXIS_COLOUR},
        "paper_bgcolor": "rgba(0,0,0,0)",
    }
