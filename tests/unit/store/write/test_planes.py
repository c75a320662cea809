"""Masked log-depth: what is stored is a source's pixel, never a blend."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.camera import Camera
from depthflow.store.write.planes import (
    Planes,
    depth_edges,
    depth_figures,
    make_planes,
    point_sample_index,
    resize_rgb,
    seen_by_depth,
)

sides = st.integers(1, 23)
GARBAGE = np.array([np.nan, np.inf, -np.inf, 0.0, -4.0, 1e30], np.float32)


def containing(index: int, stored: int, source: int) -> int:
    """The source pixel that contains the centre of a stored pixel, in exact arithmetic."""
    return int((Fraction(2 * index + 1, 2) * Fraction(source, stored)).__floor__())


# --- point sampling ---


@pytest.mark.parametrize(
    ("source", "stored", "wanted"),
    [
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [1, 3]),
        (6, 2, [1, 4]),
        (2, 4, [0, 0, 1, 1]),
        (5, 3, [0, 2, 4]),
        (3, 5, [0, 0, 1, 2, 2]),
        (7, 1, [3]),
        (1, 3, [0, 0, 0]),
        (768, 3, [128, 384, 640]),
    ],
)
def test_point_sample_index_by_hand(source, stored, wanted):
    rows, columns = point_sample_index((source, 2 * source), height=stored, width=1)
    assert rows.ravel().tolist() == wanted
    assert rows.shape == (stored, 1)
    assert columns.tolist() == [[source]]
    rows, columns = point_sample_index((9, source), height=1, width=stored)
    assert columns.ravel().tolist() == wanted
    assert columns.shape == (1, stored)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), h=sides, w=sides, height=sides, width=sides, seed=st.integers(0, 2**16))
def test_every_stored_depth_is_that_of_the_source_pixel_at_its_centre(data, h, w, height, width, seed):
    generator = np.random.default_rng(seed)
    depth = generator.permutation(np.geomspace(0.1, 300, h * w)).astype(np.float32).reshape(h, w)
    valid = generator.random((h, w)) < data.draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    source = np.where(valid, depth, generator.choice(GARBAGE, (h, w)))

    planes = make_planes(
        rgb=np.zeros((h, w, 3), np.uint8),
        depth_m=source,
        valid_mask=valid,
        height=height,
        width=width,
        edge_relative_jump=0.1,
        edge_radius_px=1,
    )

    edges = depth_edges(depth_m=source, valid_mask=valid, relative_jump=0.1, radius_px=1)
    assert (planes.log_depth.dtype, planes.valid_mask.dtype, planes.edge_mask.dtype) == (np.float32, bool, bool)
    assert planes.rgb.shape == (height, width, 3)
    for i in range(height):
        for j in range(width):
            r, c = containing(i, height, h), containing(j, width, w)
            assert planes.valid_mask[i, j] == valid[r, c]
            assert planes.edge_mask[i, j] == edges[r, c]
            if valid[r, c]:
                assert np.exp(np.float64(planes.log_depth[i, j])) == pytest.approx(depth[r, c], rel=1e-4)
            else:
                assert planes.log_depth[i, j] == 0


@pytest.mark.parametrize(
    ("focal_px", "shape", "rows", "columns"),
    [
        (4, (4, 8), [0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
        (4, (8, 16), [1, 3, 5, 7], [1, 3, 5, 7, 9, 11, 13, 15]),
        (8, (4, 8), [-1, 1, 3, 5], [-3, -1, 1, 3, 5, 7, 9, 11]),  # It shows the middle half of the image.
        (2, (8, 16), [2, 3, 4, 5], [4, 5, 6, 7, 8, 9, 10, 11]),  # The image shows the middle half of it.
    ],
)
def test_an_image_looks_up_the_depth_map_by_direction(focal_px, shape, rows, columns):
    image = Camera(width=8, height=4, fx_px=4, fy_px=4, cx_px=4, cy_px=2)
    depth = Camera(width=8, height=4, fx_px=focal_px, fy_px=focal_px, cx_px=4, cy_px=2)
    (found_rows, found_columns), seen = seen_by_depth(image, depth, shape=shape, height=4, width=8)
    inside = np.outer([0 <= row < shape[0] for row in rows], [0 <= column < shape[1] for column in columns])
    np.testing.assert_array_equal(seen, inside)
    np.testing.assert_array_equal(found_rows.ravel(), np.clip(rows, 0, shape[0] - 1))
    np.testing.assert_array_equal(found_columns.ravel(), np.clip(columns, 0, shape[1] - 1))


def test_a_near_and_a_far_surface_are_never_blended():
    depth = np.tile(np.float32([1, 100]), (9, 8))
    depth[::2] = depth[::2, ::-1]
    for height, width in ((4, 7), (5, 5), (9, 16), (17, 31), (3, 40)):
        planes = make_planes(
            rgb=np.zeros((9, 16, 3), np.uint8),
            depth_m=depth,
            valid_mask=np.ones_like(depth, bool),
            height=height,
            width=width,
            edge_relative_jump=0.1,
            edge_radius_px=0,
        )
        assert planes.log_depth.shape == (height, width)
        assert set(np.unique(planes.log_depth)) <= {np.float32(0), np.log(np.float32(100))}


def test_log_depth_by_hand():
    planes = make_planes(
        rgb=np.zeros((1, 4, 3), np.uint8),
        depth_m=np.float32([[1, np.e, 0.5, np.nan]]),
        valid_mask=np.array([[True, True, True, False]]),
        height=1,
        width=4,
        edge_relative_jump=100.0,
        edge_radius_px=0,
    )
    np.testing.assert_allclose(planes.log_depth, [[0, 1, -0.6931472, 0]], atol=1e-6)
    assert planes.valid_mask.tolist() == [[True, True, True, False]]
    assert not planes.edge_mask.any()


def test_edges_are_found_at_the_sources_resolution():
    depth = np.ones((6, 6), np.float32)
    depth[:, 3] = 10.0  # A post one pixel wide; sampled at columns 1 and 4, it would be gone.
    planes = make_planes(
        rgb=np.zeros((6, 6, 3), np.uint8),
        depth_m=depth,
        valid_mask=np.ones((6, 6), bool),
        height=2,
        width=2,
        edge_relative_jump=0.1,
        edge_radius_px=0,
    )
    assert not planes.log_depth.any()
    assert planes.edge_mask.tolist() == [[False, True], [False, True]]


# --- the image ---


def test_area_average_by_hand():
    red = np.array([[10, 20, 0, 0], [30, 40, 0, 100], [5, 5, 200, 200], [5, 5, 100, 100]], np.uint8)
    rgb = np.stack([red, 255 - red, np.full_like(red, 7)], axis=-1)
    small = resize_rgb(rgb, height=2, width=2)
    assert small[..., 0].tolist() == [[25, 25], [5, 150]]
    assert small[..., 1].tolist() == [[230, 230], [250, 105]]
    assert small[..., 2].tolist() == [[7, 7], [7, 7]]
    assert small.dtype == np.uint8


def test_area_average_three_by_one_by_hand():
    red = np.array([[3, 6, 9, 90, 0, 0], [12, 12, 12, 30, 30, 30]], np.uint8)
    rgb = np.repeat(red[..., None], 3, axis=2)
    assert resize_rgb(rgb, height=2, width=2)[..., 0].tolist() == [[6, 30], [12, 30]]
    assert resize_rgb(rgb, height=1, width=2)[..., 1].tolist() == [[9, 30]]


def test_area_average_between_pixels_by_hand():
    # Three pixels to two: each takes one whole and half of the middle one, (2 a + b) / 3.
    rgb = np.repeat(np.array([[[30], [60], [120]]], np.uint8), 3, axis=2)
    assert resize_rgb(rgb, height=1, width=2)[0, :, 0].tolist() == [40, 100]


@pytest.mark.parametrize("size", [(5, 7), (9, 3), (2, 2), (40, 41), (5, 8)])
def test_resizing_keeps_the_range_and_a_flat_image(size):
    rgb = np.random.default_rng(0).integers(50, 200, (5, 7, 3), dtype=np.uint8)
    resized = resize_rgb(rgb, height=size[0], width=size[1])
    assert resized.shape == (*size, 3)
    assert resized.min() >= rgb.min()
    assert resized.max() <= rgb.max()
    flat = resize_rgb(np.full((5, 7, 3), (1, 128, 254), np.uint8), height=size[0], width=size[1])
    assert np.unique(flat.reshape(-1, 3), axis=0).tolist() == [[1, 128, 254]]


def test_the_same_size_is_the_same_image():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_rgb(rgb, height=5, width=7), rgb)


# --- edges ---


def edges_of(depth, *, jump=0.5, radius=0, valid=None):
    depth = np.atleast_2d(np.asarray(depth, np.float32))
    valid = np.ones(depth.shape, bool) if valid is None else np.atleast_2d(np.asarray(valid, bool))
    return depth_edges(depth_m=depth, valid_mask=valid, relative_jump=jump, radius_px=radius).astype(int).tolist()


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [
        ([2, 3], [0, 0]),  # Exactly 1.5 of the nearer one is no jump.
        ([3, 2], [0, 0]),
        ([2, 3.0001], [1, 1]),
        ([3.0001, 2], [1, 1]),
        ([4, 7], [1, 1]),  # More than half of the nearer one, less than half of the farther one.
        ([200, 300], [0, 0]),
        ([0.02, 0.04], [1, 1]),
        ([1, 1.4, 1.9, 2.7], [0, 0, 0, 0]),  # A slope, though it more than doubles.
        ([1, 1, 5, 5, 5], [0, 1, 1, 0, 0]),
        ([1, 5, 1], [1, 1, 1]),
        ([7], [0]),
    ],
)
def test_a_jump_marks_both_sides(depth, wanted):
    assert edges_of(depth) == [wanted]
    assert edges_of(np.transpose([depth])) == np.transpose([wanted]).tolist()


@pytest.mark.parametrize(
    ("radius", "wanted"),
    [(0, [0, 0, 0, 1, 1, 0, 0, 0]), (1, [0, 0, 1, 1, 1, 1, 0, 0]), (2, [0, 1, 1, 1, 1, 1, 1, 0]), (9, [1] * 8)],
)
def test_radius(radius, wanted):
    assert edges_of([1, 1, 1, 1, 5, 5, 5, 5], radius=radius) == [wanted]


def test_radius_is_a_square_and_reaches_invalid_pixels():
    depth = np.ones((5, 5))
    depth[0, 0] = 9
    valid = np.ones((5, 5), bool)
    valid[2, 2] = False
    assert edges_of(depth, radius=1, valid=valid) == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("garbage", [0.0, 50.0, 1e30, -2.0, np.nan, np.inf, -np.inf])
def test_an_invalid_neighbour_never_makes_an_edge(garbage):
    assert edges_of([1, garbage, 1], valid=[1, 0, 1], radius=2) == [[0, 0, 0]]
    assert edges_of([1, garbage, 50], valid=[1, 0, 1], radius=2) == [[0, 0, 0]]
    assert edges_of([garbage, garbage], valid=[0, 0]) == [[0, 0]]


def test_diagonal_neighbours_count():
    assert edges_of([[1, 50], [50, 9]], valid=[[1, 0], [0, 1]]) == [[1, 0], [0, 1]]
    assert edges_of([[50, 1], [9, 50]], valid=[[0, 1], [1, 0]]) == [[0, 1], [1, 0]]


@settings(deadline=None, max_examples=150)
@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    seed=st.integers(0, 2**16),
    radius=st.integers(0, 3),
    jump=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_edges_match_their_definition(h, w, seed, radius, jump):
    generator = np.random.default_rng(seed)
    depth = generator.integers(1, 9, (h, w)).astype(np.float32)  # Whole numbers: the threshold is exact.
    valid = generator.random((h, w)) < 0.8

    def near(r, c, reach):
        return [(a, b) for a in range(h) for b in range(w) if abs(a - r) <= reach and abs(b - c) <= reach]

    def jumps(r, c):
        pairs = [(depth[r, c], depth[n]) for n in near(r, c, 1) if valid[r, c] and valid[n]]
        return any(abs(a - b) > jump * min(a, b) for a, b in pairs)

    wanted = [[int(any(jumps(*n) for n in near(r, c, radius))) for c in range(w)] for r in range(h)]
    assert edges_of(depth, jump=jump, radius=radius, valid=valid) == wanted


# --- figures ---


def planes_of(depth_m, valid, edge):
    valid = np.array(valid, bool)
    log_depth = np.where(valid, np.log(np.array(depth_m)), 0).astype(np.float32)
    rgb = np.zeros((*valid.shape, 3), np.uint8)
    return Planes(rgb=rgb, log_depth=log_depth, valid_mask=valid, edge_mask=np.array(edge, bool))


def test_figures_by_hand():
    planes = planes_of([[1, 8], [2, 1000]], [[1, 1], [1, 0]], [[0, 0], [0, 1]])
    figures = depth_figures(planes)
    assert figures == {
        "depth_min_m": pytest.approx(1.0),
        "depth_median_m": pytest.approx(2.0),
        "depth_max_m": pytest.approx(8.0),
        "log_depth_mean": pytest.approx(np.log(16) / 3),
        "valid_fraction": 0.75,
        "edge_fraction": 0.25,
    }
    assert all(type(value) is float for value in figures.values())


def test_masked_zeros_do_not_count_as_one_metre():
    figures = depth_figures(planes_of([[4, 1, 1]], [[1, 0, 0]], [[0, 0, 0]]))
    assert figures["depth_min_m"] == figures["depth_max_m"] == pytest.approx(4.0)
    assert figures["log_depth_mean"] == pytest.approx(np.log(4))


def test_without_a_valid_pixel_there_are_no_figures():
    figures = depth_figures(planes_of([[1, 1]], [[0, 0]], [[0, 0]]))
    assert {name for name, value in figures.items() if value is None} == {
        *("depth_min_m", "depth_median_m", "depth_max_m", "log_depth_mean"),
    }
    assert figures["valid_fraction"] == figures["edge_fraction"] == 0


def test_the_median_of_two_pixels_in_metres():
    assert depth_figures(planes_of([[1, 4]], [[1, 1]], [[0, 0]]))["depth_median_m"] == pytest.approx(2.5)
