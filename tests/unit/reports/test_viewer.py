"""The page of points: where they are, in which colours, and what a browser shows of it, turned and zoomed."""

import base64
import gzip
import json
import re
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.datasets.camera import Camera
from depthflow.reports.page import Picture
from depthflow.reports.panels import DepthMap, panel_jpeg
from depthflow.reports.viewer import MAX_POINTS, TRUTH_COLOUR, thinning, viewer_page
from tests.browser import opened

HEIGHT, WIDTH = 36, 48
CAMERA = Camera(width=WIDTH, height=HEIGHT, fx_px=40.0, fy_px=40.0, cx_px=24.0, cy_px=18.0)
RED, BLUE = np.array([220, 20, 20]), np.array([20, 20, 220])
NEAR_M, FAR_M = 2.0, 4.0


def halves() -> tuple[np.ndarray, np.ndarray]:
    """An image whose left half is red and near and whose right half is blue and far, and its depth."""
    left = np.arange(WIDTH)[None, :, None] < WIDTH // 2
    rgb = np.broadcast_to(np.where(left, RED, BLUE), (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return rgb, np.where(left[..., 0] & np.ones((HEIGHT, 1), bool), NEAR_M, FAR_M).astype(np.float32)


def page(*titles: str, valid_mask: np.ndarray | None = None) -> str:
    """The page of such an image; each further map is 10% deeper than the one before."""
    rgb, depth_m = halves()
    maps = [DepthMap(title=title, depth_m=depth_m * (1 + k / 10)) for k, title in enumerate(titles)]
    maps[0] = DepthMap(title=titles[0], depth_m=depth_m, valid_mask=valid_mask)
    panel = Picture(image=panel_jpeg(rgb=rgb, maps=maps, upright=True), alt="a panel")
    return viewer_page(
        title="room", subtitle="Depth in 3D", rgb=rgb, camera=CAMERA, maps=maps, pictures=[panel]
    ).to_html()


def figure(html: str) -> tuple[list, dict]:
    """The traces and the layout that the page gives to plotly.js."""
    html = gzip.decompress(base64.b64decode(re.search(r'atob\("([^"]+)"\)', html)[1])).decode()
    decoder = json.JSONDecoder()
    start = html.rindex("Plotly.newPlot(")
    traces, end = decoder.raw_decode(html, html.index("[{", start))
    layout, _ = decoder.raw_decode(html, html.index("{", end))
    return traces, layout


def points(trace: dict) -> np.ndarray:
    """(N, 3) metres."""
    return np.stack([np.frombuffer(base64.b64decode(trace[axis]["bdata"]), "<f4") for axis in "xyz"], axis=-1)


# --- what the page contains ---


@pytest.mark.parametrize(("size", "step"), [((768, 1024), 3), ((100, 1000), 1), ((100, 1001), 2), ((1, 1), 1)])
def test_thinning_by_hand(size, step):
    assert thinning(*size) == step


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_thinned_images_have_no_more_points_than_stated(height, width):
    step = thinning(height, width)
    assert ceil(height / step) * ceil(width / step) <= MAX_POINTS
    finer = step - 1
    assert finer == 0 or ceil(height / finer) * ceil(width / finer) > MAX_POINTS


def test_points_are_where_the_camera_saw_them_in_the_colours_of_the_image():
    rgb, depth_m = halves()
    ([trace], layout) = figure(page("predicted depth"))
    found = points(trace).reshape(HEIGHT, WIDTH, 3)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    np.testing.assert_allclose(40 * found[..., 0] / found[..., 2] + 24, columns + 0.5, rtol=1e-5)
    np.testing.assert_allclose(40 * found[..., 1] / found[..., 2] + 18, rows + 0.5, rtol=1e-5)
    np.testing.assert_array_equal(found[..., 2], depth_m)
    assert trace["marker"]["color"] == [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb.reshape(-1, 3)]
    lengths = {axis: np.ptp(layout["scene"][f"{axis}axis"]["range"]) for axis in "xyz"}
    ratio = layout["scene"]["aspectratio"]
    np.testing.assert_allclose([ratio[axis] / lengths[axis] for axis in "xyz"], ratio["x"] / lengths["x"])


def test_invalid_pixels_have_no_point():
    valid_mask = np.zeros((HEIGHT, WIDTH), bool)
    valid_mask[:2, :5] = True
    truth, prediction = figure(page("ground truth", "model", valid_mask=valid_mask))[0]
    assert len(points(truth)) == len(truth["marker"]["color"]) == 10
    assert len(points(prediction)) == HEIGHT * WIDTH
    nothing = figure(page("ground truth", valid_mask=valid_mask & False))[0]
    assert len(points(nothing[0])) == 0


def test_of_several_models_the_first_is_shown_at_once():
    shown = [trace.get("visible", True) for trace in figure(page("ground truth", "a", "b", "c"))[0]]
    assert shown == [True, True, "legendonly", "legendonly"]


def test_relative_depth_has_no_unit():
    rgb, depth = halves()
    maps = [DepthMap(title="predicted depth", depth_m=depth, quantity="relative depth, no unit")]
    texts = {}
    for unit in ("m", ""):
        html = viewer_page(title="", subtitle="", rgb=rgb, camera=CAMERA, maps=maps, pictures=[], unit=unit).to_html()
        [trace], layout = figure(html)
        titles = [layout["scene"][f"{axis}axis"]["title"]["text"] for axis in "xyz"]
        texts[unit] = trace["hovertemplate"], titles, "in metres" in html
    assert texts["m"] == ("x %{x:.2f} m<br>y %{y:.2f} m<br>z %{z:.2f} m", ["x, m", "y, m", "z, m"], True)
    assert texts[""] == ("x %{x:.2f}<br>y %{y:.2f}<br>z %{z:.2f}", ["x", "y", "z"], False)


def test_names_are_text():
    evil = "</script><script>alert(1)</script>"
    html = page("ground truth", evil)
    assert "<script>alert" not in html
    assert figure(html)[0][1]["name"] == evil


# --- what one sees ---


def share(picture: np.ndarray, colour: np.ndarray) -> float:
    """Share of pixels of about this colour."""
    return float((np.abs(picture.astype(int) - colour).max(axis=-1) < 40).mean())


def middle(picture: np.ndarray, colour: np.ndarray) -> float:
    """Mean column of the pixels of about this colour."""
    return float(np.nonzero(np.abs(picture.astype(int) - colour).max(axis=-1) < 40)[1].mean())


def box(tab, selector: str) -> dict:
    """Where an element is in the window."""
    return tab.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")


def test_points_are_seen_turned_and_zoomed(tmp_path):
    path = tmp_path / "room.html"
    path.write_text(page("predicted depth"))
    with opened(path, width=1280, height=900) as tab:
        scene, panel = box(tab, ".scene"), box(tab, "figure img")
        assert scene["right"] < panel["left"] and panel["right"] <= 1280, "side by side"

        def inside(picture):
            return picture[int(scene["top"]) : 900, int(scene["left"]) : int(scene["right"])]

        def seen(picture):
            return min(share(inside(picture), RED), share(inside(picture), BLUE)) > 0.01

        first = inside(tab.picture_when(seen))
        assert middle(first, RED) < middle(first, BLUE)
        x, y = (scene["left"] + scene["right"]) / 2, scene["top"] + 300
        apart = middle(first, BLUE) - middle(first, RED)
        tab.mouse("mousePressed", x, y, button="left", clickCount=1)
        for moved in (100, 200, 300):
            tab.mouse("mouseMoved", x + moved, y, button="left", buttons=1)
        tab.mouse("mouseReleased", x + 300, y, button="left")
        turned = inside(
            tab.picture_when(
                lambda now: seen(now) and abs(middle(inside(now), BLUE) - middle(inside(now), RED) - apart) > 40
            )
        )
        colours = share(turned, RED) + share(turned, BLUE)
        for _ in range(3):
            tab.mouse("mouseWheel", x, y, deltaX=0, deltaY=300)
        tab.picture_when(lambda now: 0 < share(inside(now), RED) + share(inside(now), BLUE) < 0.8 * colours)
        assert tab.requests == [path.as_uri()]


def test_truth_is_hidden_by_a_click_on_its_name_and_all_fits_a_telephone(tmp_path):
    path = tmp_path / "room.html"
    path.write_text(page("ground truth", "models:/depthflow/1"))
    orange = 0.5 * np.array(TRUTH_COLOUR)  # Red and blue are both about half as bright.
    with opened(path, width=400, height=900) as tab:
        scene, panel = box(tab, ".scene"), box(tab, "figure img")
        assert tab.run("document.documentElement.scrollWidth") == 400
        assert scene["bottom"] < panel["top"], "one below the other"
        tab.picture_when(lambda now: share(now, orange) > 0.01)
        name = box(tab, ".legendtoggle")
        for kind in ("mousePressed", "mouseReleased"):
            tab.mouse(kind, name["left"] + 20, name["top"] + 5, button="left", clickCount=1)
        tab.picture_when(lambda now: share(now, orange) < 0.001 and share(now, BLUE) > 0.001)
