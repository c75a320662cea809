"""Panels of warped views: each is drawn, and so are what no view shows and what the auto-mask leaves out."""

import io

import numpy as np
import pytest
from PIL import Image

from depthflow.reports.view_panels import views_jpeg

HEIGHT, WIDTH = 48, 64
GREY = np.array([153, 153, 153])
COLOURS = {"previous": np.array([200, 30, 30]), "next": np.array([30, 30, 200])}
PHOTOGRAPH = np.array([30, 150, 30])


def flat(colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def share(jpeg: bytes, colour: np.ndarray) -> float:
    """The share of the panel's pixels of about this colour."""
    picture = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)
    return float((np.abs(picture - colour).max(axis=-1) < 20).mean())


def panel(*views: str, unseen: float = 0.0, counted: float = 1.0, error: float = 0.05) -> bytes:
    """A panel whose upper part is seen by no view, and whose left part counts, by these shares."""
    errors = np.full((HEIGHT, WIDTH), error)
    errors[: round(unseen * HEIGHT)] = np.nan
    mask = np.broadcast_to(np.arange(WIDTH) < counted * WIDTH, (HEIGHT, WIDTH))
    warped = {name: flat(COLOURS[name]) for name in views}
    return views_jpeg(rgb=flat(PHOTOGRAPH), warped=warped, error=errors, counted=mask)


@pytest.mark.parametrize("views", [("next",), ("previous", "next")])
def test_each_view_is_as_large_as_the_photograph(views):
    drawn = panel(*views)
    whole = share(drawn, PHOTOGRAPH)
    assert whole > 0.08
    for name, colour in COLOURS.items():
        assert share(drawn, colour) == pytest.approx(whole if name in views else 0.0, abs=0.01)


def test_what_no_view_shows_is_grey_and_the_scale_is_of_the_rest():
    seen, half, nothing = (share(panel("next", unseen=unseen), GREY) for unseen in (0.0, 0.5, 1.0))
    assert seen < 0.01 and half > 0.04 and nothing == pytest.approx(2 * half, rel=0.15)


def test_the_auto_mask_is_black_where_it_leaves_out():
    black = np.zeros(3)
    all_of_it, half, nothing = (share(panel("next", counted=counted), black) for counted in (1.0, 0.5, 0.0))
    assert nothing - all_of_it > 0.08
    assert half == pytest.approx((all_of_it + nothing) / 2, rel=0.15)


def test_a_large_error_does_not_look_like_a_small_one():
    """The least scale ends at 0.1, so that a good reprojection is dark all over."""
    dark = np.zeros(3)
    assert share(panel("next", error=0.001), dark) > share(panel("next", error=0.09), dark) + 0.08
