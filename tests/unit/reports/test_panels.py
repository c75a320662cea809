"""Panels: files that open, with grey where invalid, one scale for all maps, and the error's sign."""

import io
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from depthflow.reports.panels import (
    EDGE_COLOUR,
    INVALID_GREY,
    DepthMap,
    draw_comparison,
    draw_panel,
    panel_jpeg,
    sample_panel,
)

GREY = np.round(np.array(to_rgb(INVALID_GREY)) * 255).astype(int)
NEAR_M, FAR_M = 1.0, 20.0


@pytest.fixture(autouse=True)
def no_warnings():
    """matplotlib warns where a scale is singular, a layout collapses or a figure is left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rgb_noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """Near on the left, far on the right."""
    return np.tile(np.geomspace(NEAR_M, FAR_M, width, dtype=np.float32), (height, 1))


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(pixels: np.ndarray, colour) -> float:
    return float((np.abs(pixels - np.asarray(colour)).max(axis=-1) <= 1).mean())


@pytest.mark.parametrize("maps", [1, 2, 3])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (1, 1), (2, 300), (480, 640)])
def test_a_picture_for_any_size(tmp_path, size, maps):
    path = tmp_path / "panel.png"
    depth_maps = [DepthMap(title=f"map {k}", depth_m=ramp(*size) * (1 + 0.1 * k)) for k in range(maps)]
    if size == (2, 300):
        warnings.simplefilter("ignore", UserWarning)  # So flat a strip leaves its bar no room.
    draw_panel(path, rgb=rgb_noise(*size), maps=depth_maps, title="a title")
    pixels = drawn(path)
    assert 90 <= pixels.shape[0] <= 800
    assert 700 <= pixels.shape[1] <= 2000
    assert path.stat().st_size > 5000
    assert pixels.std() > 10, "not a blank page"


@pytest.mark.parametrize("upright", [False, True])
def test_pictures_stand_side_by_side_or_one_below_the_other(upright):
    maps = [DepthMap(title="truth", depth_m=ramp(48, 64)), DepthMap(title="model", depth_m=ramp(48, 64) * 1.1)]
    with Image.open(io.BytesIO(panel_jpeg(rgb=rgb_noise(48, 64), maps=maps, upright=upright))) as image:
        assert (image.height > 2 * image.width) is upright and (image.width > 3 * image.height) is not upright


def test_invalid_pixels_are_grey(tmp_path):
    """Half of the map is masked: the share of grey in the panel tells."""
    depth_m, rgb = ramp(48, 64), np.zeros((48, 64, 3), np.uint8)
    valid = np.zeros((48, 64), bool)
    valid[:24] = True
    shares = {}
    for name, mask in (("all", np.ones_like(valid)), ("half", valid), ("none", np.zeros_like(valid))):
        draw_panel(tmp_path / f"{name}.png", rgb=rgb, maps=[DepthMap(title="d", depth_m=depth_m, valid_mask=mask)])
        shares[name] = share_of(drawn(tmp_path / f"{name}.png"), GREY)
    assert shares["all"] < 0.01
    assert shares["none"] > 0.2
    assert shares["half"] == pytest.approx(shares["none"] / 2, rel=0.15)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 0.0, -5.0])
def test_what_is_under_the_mask_does_not_move_the_picture(tmp_path, broken):
    valid = np.ones((24, 32), bool)
    valid[5:9, 5:9] = False
    pictures = []
    for name, value in (("plain", 2.0), ("broken", broken)):
        depth_m = ramp(24, 32)
        depth_m[~valid] = value
        truth = DepthMap(title="ground truth", depth_m=depth_m, valid_mask=valid)
        prediction = DepthMap(title="prediction", depth_m=ramp(24, 32) * 1.1)
        draw_panel(tmp_path / f"{name}.png", rgb=rgb_noise(24, 32), maps=[truth, prediction])
        pictures.append(drawn(tmp_path / f"{name}.png"))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0, -5.0])
def test_broken_predictions_can_be_looked_at(tmp_path, broken):
    depth_m = ramp(24, 32)
    depth_m[:12] = broken
    truth = DepthMap(title="ground truth", depth_m=ramp(24, 32), valid_mask=np.ones((24, 32), bool))
    for maps in ([DepthMap(title="prediction", depth_m=depth_m)], [truth, DepthMap(title="p", depth_m=depth_m)]):
        draw_panel(tmp_path / "panel.png", rgb=rgb_noise(24, 32), maps=maps)
        assert drawn(tmp_path / "panel.png").std() > 10


@pytest.mark.parametrize("maps", [1, 2])
def test_nothing_valid_can_be_drawn(tmp_path, maps):
    nothing = DepthMap(title="ground truth", depth_m=np.full((24, 32), np.nan), valid_mask=np.zeros((24, 32), bool))
    others = [DepthMap(title="prediction", depth_m=ramp(24, 32))] * (maps - 1)
    draw_panel(tmp_path / "panel.png", rgb=rgb_noise(24, 32), maps=[nothing, *others])
    assert share_of(drawn(tmp_path / "panel.png"), GREY) > 0.1


def test_one_depth_everywhere_can_be_drawn(tmp_path):
    draw_panel(tmp_path / "flat.png", rgb=rgb_noise(24, 32), maps=[DepthMap(title="d", depth_m=np.full((24, 32), 2.5))])
    assert drawn(tmp_path / "flat.png").std() > 10


def colours_of(path, **panel) -> set[tuple[int, ...]]:
    """Colours that fill more than a fiftieth of a panel: those of flat maps and of the page."""
    draw_panel(path, **panel)
    colours, counts = np.unique(drawn(path).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(colour) for colour in colours[counts > counts.sum() / 50].tolist()}


def test_both_maps_share_one_scale(tmp_path):
    """Two flat maps of one depth have one colour; of two depths, two."""
    rgb, truth = np.zeros((24, 32, 3), np.uint8), ramp(24, 32)
    truth[:, :16], truth[:, 16:] = NEAR_M, FAR_M
    maps = [DepthMap(title="truth", depth_m=truth)]
    alone = colours_of(tmp_path / "one.png", rgb=rgb, maps=maps)
    same = DepthMap(title="other", depth_m=truth[:, ::-1])
    assert colours_of(tmp_path / "two.png", rgb=rgb, maps=[*maps, same, same]) == alone
    between = DepthMap(title="other", depth_m=np.full((24, 32), np.sqrt(NEAR_M * FAR_M)))
    assert len(colours_of(tmp_path / "three.png", rgb=rgb, maps=[*maps, between, between]) - alone) == 1


@pytest.mark.parametrize(("factor", "red_over_blue"), [(1.4, True), (0.6, False)])
def test_too_far_is_red_and_too_near_is_blue(tmp_path, factor, red_over_blue):
    truth = DepthMap(title="ground truth", depth_m=ramp(24, 32), valid_mask=np.ones((24, 32), bool))
    prediction = DepthMap(title="prediction", depth_m=ramp(24, 32) * factor)
    draw_panel(tmp_path / "panel.png", rgb=np.zeros((24, 32, 3), np.uint8), maps=[truth, prediction])
    pixels = drawn(tmp_path / "panel.png")
    error = pixels[:, round(pixels.shape[1] * 0.77) : round(pixels.shape[1] * 0.9)]  # The fourth picture, without bar.
    red, blue = (share_of(error, colour) for colour in ((202, 71, 65), (59, 121, 176)))
    saturated = (np.abs(error[..., 0] - error[..., 2]) > 60) & (error.sum(axis=-1) > 60)
    assert saturated.mean() > 0.3, (red, blue)
    leaning = (error[..., 0] > error[..., 2])[saturated].mean()
    assert leaning > 0.95 if red_over_blue else leaning < 0.05


def printed(path, **panel) -> np.ndarray:
    """The panel without its colours, as black and white print has it."""
    draw_panel(path, **panel)
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(int)


def test_black_and_white_print_tells_too_near_from_too_far(tmp_path):
    """Red and blue are equally dark; stripes make the one uneven."""
    truth = DepthMap(title="truth", depth_m=ramp(96, 128))
    spread = {}
    for name, factor in (("far", 1.4), ("near", 0.6), ("right", 0.95)):
        maps = [truth, DepthMap(title="prediction", depth_m=ramp(96, 128) * factor)]
        pixels = printed(tmp_path / f"{name}.png", rgb=np.zeros((96, 128, 3), np.uint8), maps=maps)
        height, width = pixels.shape
        inside = pixels[round(height * 0.4) : round(height * 0.6), round(width * 0.79) : round(width * 0.87)]
        spread[name] = inside.std()
    assert spread["near"] > 20
    assert spread["far"] < 5 and spread["right"] < 5


def test_black_and_white_print_tells_invalid_from_any_depth(tmp_path):
    spread = {}
    for name, valid in (("valid", True), ("invalid", False)):
        depth = DepthMap(title="depth", depth_m=np.full((96, 128), 2.0), valid_mask=np.full((96, 128), valid))
        pixels = printed(tmp_path / f"{name}.png", rgb=np.zeros((96, 128, 3), np.uint8), maps=[depth])
        height, width = pixels.shape
        spread[name] = pixels[round(height * 0.4) : round(height * 0.6), round(width * 0.55) : round(width * 0.8)].std()
    assert spread["invalid"] > 8
    assert spread["valid"] < 1


@pytest.mark.parametrize("brightness", [0, 255])
def test_black_and_white_print_tells_edges_from_any_photograph(brightness):
    edges = np.zeros((48, 64), bool)
    edges[:, 32:] = True
    depth, rgb = DepthMap(title="depth", depth_m=ramp(48, 64)), np.full((48, 64, 3), brightness, np.uint8)
    with Image.open(io.BytesIO(sample_panel(rgb=rgb, depth=depth, edge_mask=edges))) as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    row, width = pixels[round(pixels.shape[0] * 0.5)], pixels.shape[1]
    shades = [row[round(width * place)] for place in (0.8, 0.95)]  # Either half of the fourth picture.
    assert shades[0] - shades[1] > 30


def test_masked_says_what_is_invalid():
    depth_m, valid = np.array([[1.0, 2.0]]), np.array([[True, False]])
    np.testing.assert_array_equal(DepthMap(title="", depth_m=depth_m, valid_mask=valid).masked.mask, [[False, True]])
    np.testing.assert_array_equal(DepthMap(title="", depth_m=depth_m).masked.mask, [[False, False]])


def sample_pixels(valid, edges, depth_m=None):
    """A stored sample's panel, of a black photograph."""
    depth = DepthMap(title="depth", depth_m=ramp(*valid.shape) if depth_m is None else depth_m, valid_mask=valid)
    jpeg = sample_panel(rgb=np.zeros((*valid.shape, 3), np.uint8), depth=depth, edge_mask=edges)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB")).astype(int)


def near(pixels, colour) -> float:
    """The share of pixels within what JPEG changes."""
    return float((np.abs(pixels - np.round(np.array(to_rgb(colour)) * 255)).max(axis=-1) <= 12).mean())


@pytest.mark.parametrize(
    ("colour", "mask_of", "more"),
    [(INVALID_GREY, "valid", False), ("white", "valid", True), ("black", "valid", False), (EDGE_COLOUR, "edges", True)],
)
def test_a_sample_shows_its_masks(colour, mask_of, more):
    """A whole mask makes its colour more or less by a picture's pixels, half a mask by half as many."""
    whole, nothing = np.ones((48, 64), bool), np.zeros((48, 64), bool)
    half = whole.copy()
    half[:24] = False
    shares = []
    for mask in (nothing, half, whole):
        masks = {"valid": whole, "edges": nothing} | {mask_of: mask}
        shares.append(near(sample_pixels(**masks), colour))
    assert (shares[2] - shares[0] if more else shares[0] - shares[2]) > 0.15
    assert shares[1] == pytest.approx((shares[0] + shares[2]) / 2, rel=0.1)


def test_a_sample_without_a_valid_pixel_or_under_garbage_can_be_drawn():
    nothing = np.zeros((24, 32), bool)
    assert sample_pixels(nothing, nothing, np.full((24, 32), np.nan)).std() > 10
    half, garbage = nothing.copy(), ramp(24, 32)
    half[:, 16:], garbage[:, :16] = True, 1e20
    np.testing.assert_array_equal(sample_pixels(half, nothing), sample_pixels(half, nothing, garbage))


def test_a_title_with_dollars_is_no_mathematics(tmp_path):
    rgb, depth = np.zeros((4, 6, 3), np.uint8), DepthMap(title="models/$\\frac$", depth_m=np.ones((4, 6)))
    assert panel_jpeg(rgb=rgb, maps=[depth], title=depth.title)
    for draw in (draw_panel, draw_comparison):
        draw(tmp_path / "panel.png", rgb=rgb, maps=[depth])


@pytest.mark.parametrize(("views", "is_deep"), [(0, True), (1, True), (2, True), (0, False), (1, False), (2, False)])
def test_a_sample_shows_its_views(views, is_deep):
    """Each is a picture of its colour; without depth, there is nothing else beside the photograph."""
    size, names = (30, 40), ("previous", "next")[:views]
    colours = [(200, 30, 30), (30, 30, 200)][:views]
    images = {name: np.full((*size, 3), colour, np.uint8) for name, colour in zip(names, colours, strict=True)}
    depth = DepthMap(title="depth", depth_m=ramp(*size)) if is_deep else None
    photograph = np.full((*size, 3), (30, 200, 30), np.uint8)
    jpeg = sample_panel(rgb=photograph, depth=depth, edge_mask=np.zeros(size, bool), views=images)
    with Image.open(io.BytesIO(jpeg)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    shares = [float((np.abs(pixels - colour).max(axis=-1) <= 12).mean()) for colour in (*colours, (30, 200, 30))]
    assert min(shares) > 0.5 / (1 + views + 3 * is_deep)
    assert shares == pytest.approx([shares[-1]] * len(shares), rel=0.1)
    width = pixels.shape[1] / pixels.shape[0]
    assert width == pytest.approx((1 + views + 3 * is_deep) * 3.4 / (3.4 * 0.75 + 0.9), rel=0.35)
