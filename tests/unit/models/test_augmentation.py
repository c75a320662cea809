"""Augmentation: draws depend only on the sample, planes share one geometry, and depths are valid source depths."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthflow.models.augmentation import NEUTRAL, Column, augment, draw, is_augmented
from depthflow.recipes import smoke

HEIGHT, WIDTH = 12, 20
PLAIN = replace(smoke(), horizontal_flip=False, max_zoom=1.0, colour_jitter=0.0)
EVERYTHING = replace(smoke(), horizontal_flip=True, max_zoom=2.0, colour_jitter=0.4, blur=0.5)
KINDS = {"horizontal_flip": True, "max_zoom": 2.0, "colour_jitter": 0.4, "blur": 0.5}
SPECS = [
    tf.TensorSpec((None, HEIGHT, WIDTH, 3), tf.uint8),
    tf.TensorSpec((None, HEIGHT, WIDTH), tf.float32),
    tf.TensorSpec((None, HEIGHT, WIDTH), tf.bool),
    tf.TensorSpec((None, len(Column)), tf.float32),
]
IDS = [f"00022_00193_indoors_{k:03d}_000" for k in range(400)]
GOLDEN = [1.0, 1.150406, 0.4782771, 0.4433075, 1.259381, 0.6958525, 1.255243, -0.03570569, 0.6570448]


@tf.function(input_signature=SPECS)
def focal(rgb, log_depth, valid_mask, draws):
    return augment(rgb, log_depth, valid_mask, draws, zoom_depth="focal")


@tf.function(input_signature=SPECS)
def keep(rgb, log_depth, valid_mask, draws):
    return augment(rgb, log_depth, valid_mask, draws, zoom_depth="keep")


def random_planes(seed=0, batch=3, height=HEIGHT, width=WIDTH):
    """Returns rgb, log_depth and valid_mask; valid depths are unique, invalid ones are NaN."""
    generator = np.random.default_rng(seed)
    shape = (batch, height, width)
    valid = generator.random(shape) < 0.7
    log_depth = generator.permutation(np.prod(shape)).reshape(shape).astype(np.float32) / 1024
    return (
        generator.integers(0, 256, (*shape, 3), dtype=np.uint8),
        np.where(valid, log_depth, np.float32(np.nan)),
        valid,
    )


def draws_of(batch=3, **values):
    draws = np.tile(NEUTRAL, (batch, 1))
    for name, value in values.items():
        draws[:, Column[name.upper()]] = value
    return draws


def augmented(augmentation, planes, draws):
    return tuple(plane.numpy() for plane in augmentation(*planes, draws))


def assert_planes_equal(planes, expected):
    """Checks equality to the last bit, with log-depth 0 where invalid."""
    rgb, log_depth, valid = expected
    np.testing.assert_array_equal(planes[0], rgb)
    np.testing.assert_array_equal(planes[1].view(np.int32), np.where(valid, log_depth, np.float32(0)).view(np.int32))
    np.testing.assert_array_equal(planes[2], valid)


# Draws.


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, 12))
def test_draws_do_not_depend_on_batch_or_order(order, seed, epoch, part):
    ids = IDS[:12]
    whole = draw(EVERYTHING, seed=seed, epoch=epoch, sample_ids=ids)
    shuffled = draw(EVERYTHING, seed=seed, epoch=epoch, sample_ids=[ids[k] for k in order[:part]])
    np.testing.assert_array_equal(shuffled, whole[list(order[:part])])
    assert whole.shape == (12, len(Column)) and whole.dtype == np.float32


def test_draws_differ_by_sample_epoch_and_seed():
    draws = [
        draw(EVERYTHING, seed=seed, epoch=epoch, sample_ids=IDS[:20])
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len(np.unique(np.concatenate(draws)[:, Column.ZOOM])) == 80


def test_draws_do_not_change_between_versions():
    """A resumed run must continue with the draws that it started with."""
    (draws,) = draw(EVERYTHING, seed=3, epoch=2, sample_ids=["00022_00193_indoors_010_020"])
    np.testing.assert_allclose(draws, GOLDEN, rtol=1e-6)


def test_draws_fill_the_ranges_of_the_recipe():
    draws = draw(EVERYTHING, seed=0, epoch=0, sample_ids=IDS)
    assert set(draws[:, Column.FLIP]) == {0, 1} and 0.4 < draws[:, Column.FLIP].mean() < 0.6
    ranges = {Column.ZOOM: (1, 2), Column.HUE: (-0.04, 0.04)}
    ranges |= dict.fromkeys((Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION), (0.6, 1.4))
    for column, (low, high) in ranges.items():
        values = draws[:, column]
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    strengths = draws[:, Column.BLUR]
    assert 0.4 < (strengths > 0).mean() < 0.6 and strengths.max() <= 1


def test_the_enlarged_part_lies_in_the_frame():
    draws = draw(EVERYTHING, seed=0, epoch=0, sample_ids=IDS)
    half = 0.5 / draws[:, Column.ZOOM]
    for column in (Column.CENTRE_Y, Column.CENTRE_X):
        assert (draws[:, column] - half >= -1e-6).all() and (draws[:, column] + half <= 1 + 1e-6).all()
        assert np.abs(draws[:, column] - 0.5).max() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_one_kind_do_not_depend_on_the_others(kind):
    columns = {
        "horizontal_flip": [Column.FLIP],
        "max_zoom": [Column.ZOOM, Column.CENTRE_Y, Column.CENTRE_X],
        "colour_jitter": [Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION, Column.HUE],
        "blur": [Column.BLUR],
    }[kind]
    everything = draw(EVERYTHING, seed=0, epoch=0, sample_ids=IDS[:20])
    alone = draw(replace(PLAIN, **{kind: KINDS[kind]}), seed=0, epoch=0, sample_ids=IDS[:20])
    expected = np.tile(NEUTRAL, (20, 1))
    expected[:, columns] = everything[:, columns]
    np.testing.assert_array_equal(alone, expected)


def test_a_recipe_without_augmentation_draws_nothing():
    np.testing.assert_array_equal(draw(PLAIN, seed=0, epoch=0, sample_ids=IDS[:5]), np.tile(NEUTRAL, (5, 1)))
    assert draw(EVERYTHING, seed=0, epoch=0, sample_ids=[]).shape == (0, len(Column))
    assert not is_augmented(PLAIN)
    assert all(is_augmented(replace(PLAIN, **{kind: value})) for kind, value in KINDS.items())


# Geometry.


@pytest.mark.parametrize("augmentation", [focal, keep])
def test_neutral_draws_change_nothing(augmentation):
    planes = random_planes()
    assert_planes_equal(augmented(augmentation, planes, draws_of()), planes)


def test_a_neutral_sample_beside_others_is_unchanged():
    planes = random_planes(batch=4)
    draws = draw(replace(EVERYTHING, blur=1.0), seed=0, epoch=0, sample_ids=IDS[:4])
    draws[2] = NEUTRAL
    result = augmented(focal, planes, draws)
    assert_planes_equal([plane[2:3] for plane in result], [plane[2:3] for plane in planes])
    assert (result[0][[0, 1, 3]] != planes[0][[0, 1, 3]]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("parts", [[6, 12], [1, 2, 5, 11], [3, 6, 9]])
def test_parts_of_a_batch_are_augmented_as_the_whole_to_the_last_bit(parts):
    """Workers augment their part of a batch, so the number of images must not affect even a logarithm's last bit."""
    planes = random_planes(batch=13)
    draws = draw(EVERYTHING, seed=3, epoch=1, sample_ids=[str(k) for k in range(13)])
    whole = augmented(focal, planes, draws)
    cut = [np.split(plane, parts) for plane in (*planes, draws)]
    pieces = [augmented(focal, piece[:3], piece[3]) for piece in zip(*cut, strict=True)]
    assert_planes_equal([np.concatenate(plane) for plane in zip(*pieces, strict=True)], whole)


@pytest.mark.parametrize("size", [(2, 2), (3, 7), (32, 64), (33, 31)])
def test_flip_mirrors_the_image_and_twice_restores_it(size):
    planes = random_planes(height=size[0], width=size[1])
    once = augment(*planes, draws_of(flip=[1, 0, 1]), zoom_depth="focal")
    expected = [np.stack([p[0, :, ::-1], p[1], p[2, :, ::-1]]) for p in planes]
    assert_planes_equal([plane.numpy() for plane in once], expected)
    twice = augment(*once, draws_of(flip=[1, 0, 1]), zoom_depth="focal")
    assert_planes_equal([plane.numpy() for plane in twice], planes)


def test_zoom_by_two_about_the_middle_by_hand():
    """Each source pixel of the middle half appears twice per axis; the image is sampled at quarters in between."""
    rgb, log_depth, valid = planes = random_planes()
    result = augmented(focal, planes, draws_of(zoom=2))
    rows, columns = np.arange(3, 9).repeat(2), np.arange(5, 15).repeat(2)
    np.testing.assert_array_equal(result[2], valid[:, rows][:, :, columns])
    expected = np.where(result[2], log_depth[:, rows][:, :, columns] - np.log(np.float32(2)), 0)
    np.testing.assert_array_equal(result[1], expected)
    shares = np.array([[0.25 * 0.25, 0.25 * 0.75], [0.75 * 0.25, 0.75 * 0.75]])
    corner = (shares[..., None] * rgb[0, 2:4, 4:6]).sum(axis=(0, 1))
    np.testing.assert_allclose(result[0][0, 0, 0], corner, atol=0.5 + 1e-4)


def test_the_image_agrees_with_pillow():
    planes = random_planes(batch=1)
    draws = draws_of(batch=1, zoom=1.6, centre_y=0.4, centre_x=0.55)
    half_x, half_y = WIDTH / 3.2, HEIGHT / 3.2
    box = (0.55 * WIDTH - half_x, 0.4 * HEIGHT - half_y, 0.55 * WIDTH + half_x, 0.4 * HEIGHT + half_y)
    x0, y0, x1, y1 = box
    affine = ((x1 - x0) / WIDTH, 0, x0, 0, (y1 - y0) / HEIGHT, y0)
    expected = Image.fromarray(planes[0][0]).transform(
        (WIDTH, HEIGHT), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    np.testing.assert_allclose(augmented(focal, planes, draws)[0][0].astype(int), np.asarray(expected), atol=1)


AFFINES = {
    "flip": st.integers(0, 1),
    "zoom": st.floats(1, 4, width=32),
    "centre_y": st.floats(-0.5, 1.5, width=32),
    "centre_x": st.floats(-0.5, 1.5, width=32),
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries(AFFINES), st.integers(0, 9))
def test_every_depth_is_a_valid_source_depth_minus_log_zoom(values, seed):
    """For any window, even outside the frame; mask and depth come from the same pixels."""
    _, log_depth, valid = planes = random_planes(seed, batch=1)
    draws = draws_of(batch=1, **values)
    zoom = draws[0, Column.ZOOM]
    _, result, result_valid = augmented(focal, planes, draws)
    sources = log_depth[valid] - np.log(zoom)  # 1/1024 apart at least; processors round logarithms differently.
    assert (np.abs(result[result_valid][:, None] - sources).min(axis=1) < 1e-6).all()
    np.testing.assert_array_equal(result[~result_valid], 0.0)
    _, kept, kept_valid = augmented(keep, planes, draws)
    assert np.isin(kept[kept_valid], log_depth[valid]).all()
    np.testing.assert_array_equal(kept_valid, result_valid)
    np.testing.assert_array_equal(result_valid, expected_mask(valid, draws))


def expected_mask(valid, draws):
    """Computes the mask in float64 per axis; positions within 1e-4 of a pixel's border come from float32."""
    places = []
    for size, centre, sign in (
        (HEIGHT, draws[0, Column.CENTRE_Y], 1),
        (WIDTH, draws[0, Column.CENTRE_X], 1 - 2 * draws[0, Column.FLIP]),
    ):
        offset = np.arange(size) + 0.5 - size / 2
        exact = np.float64(centre) * size + sign * offset / np.float64(draws[0, Column.ZOOM])
        single = (
            centre * np.float32(size) + offset.astype(np.float32) * (np.float32(sign) / draws[0, Column.ZOOM]) - 0.5
        )
        close = np.abs(exact - np.round(exact)) < 1e-4
        places.append(
            np.where(close, np.floor(single.astype(np.float32) + np.float32(0.5)), np.floor(exact)).astype(int)
        )
    rows, columns = places
    inside = ((rows >= 0) & (rows < HEIGHT))[:, None] & ((columns >= 0) & (columns < WIDTH))[None]
    return inside & valid[:, rows.clip(0, HEIGHT - 1)][:, :, columns.clip(0, WIDTH - 1)]


def test_drawn_windows_keep_a_full_mask_full():
    draws = draw(replace(EVERYTHING, max_zoom=4.0), seed=0, epoch=0, sample_ids=IDS)
    rgb, _, _ = random_planes(batch=len(IDS))
    whole = np.ones(rgb.shape[:3], bool)
    _, log_depth, valid = augmented(keep, (rgb, np.ones(rgb.shape[:3], np.float32), whole), draws)
    assert valid.all()
    np.testing.assert_array_equal(log_depth, 1.0)


def test_beyond_the_frame_is_invalid():
    planes = random_planes(batch=1)
    _, log_depth, valid = augmented(focal, planes, draws_of(batch=1, centre_x=1.0))
    np.testing.assert_array_equal(valid[:, :, : WIDTH // 2], planes[2][:, :, WIDTH // 2 :])
    assert not valid[:, :, WIDTH // 2 :].any()
    assert not log_depth[:, :, WIDTH // 2 :].any()


def test_an_empty_mask_stays_empty():
    rgb, log_depth, valid = random_planes()
    draws = draw(EVERYTHING, seed=0, epoch=0, sample_ids=IDS[:3])
    _, log_depth, valid = augmented(focal, (rgb, np.full_like(log_depth, np.inf), np.zeros_like(valid)), draws)
    assert not valid.any() and not log_depth.any()


# Colour and blur.


def recoloured(rgb, **values):
    rgb = np.broadcast_to(np.asarray(rgb, np.uint8), (1, HEIGHT, WIDTH, 3))
    planes = (rgb, np.zeros(rgb.shape[:3], np.float32), np.ones(rgb.shape[:3], bool))
    return augmented(focal, planes, draws_of(batch=1, **values))[0]


def test_brightness_by_hand():
    np.testing.assert_array_equal(recoloured((10, 100, 201), brightness=1.3), recoloured((13, 130, 255)))


def test_contrast_moves_away_from_the_mean_grey():
    rgb = np.full((1, HEIGHT, WIDTH, 3), 100)
    rgb[:, :, ::2] = 140
    result = recoloured(rgb, contrast=0.5)
    np.testing.assert_array_equal(result[:, :, ::2], 130)
    np.testing.assert_array_equal(result[:, :, 1::2], 110)
    np.testing.assert_array_equal(recoloured(rgb, contrast=0.5, brightness=1.5)[:, :, ::2], 195)


def test_no_saturation_is_grey():
    grey = round(0.299 * 200 + 0.587 * 40 + 0.114 * 90)
    np.testing.assert_array_equal(recoloured((200, 40, 90), saturation=0), recoloured((grey,) * 3))


@pytest.mark.parametrize("values", [{"hue": 0.3}, {"saturation": 0.2}, {"saturation": 1.9, "hue": -0.1}])
def test_hue_and_saturation_do_not_change_greys(values):
    np.testing.assert_array_equal(recoloured((77, 77, 77), **values), recoloured((77, 77, 77)))


def test_a_third_of_the_circle_takes_red_towards_blue_or_green():
    """YIQ's circle is not HSV's hexagon: the largest channel changes, brightness does not."""
    turned = [recoloured((160, 60, 60), hue=hue)[0, 0, 0].astype(float) for hue in (1 / 3, -1 / 3)]
    assert {int(colour.argmax()) for colour in turned} == {1, 2}
    for colour in turned:
        assert colour @ [0.299, 0.587, 0.114] == pytest.approx(0.299 * 160 + 0.701 * 60, abs=1)
    np.testing.assert_array_equal(recoloured((160, 60, 60), hue=1), recoloured((160, 60, 60)))


def test_colours_change_per_sample_and_depth_does_not():
    rgb, log_depth, valid = random_planes()
    draws = draws_of(brightness=[1, 0.6, 1], saturation=[1, 1, 0])
    result = augmented(focal, (rgb, log_depth, valid), draws)
    np.testing.assert_array_equal(result[0][0], rgb[0])
    np.testing.assert_array_equal(result[0][1], np.round(rgb[1] * 0.6))
    assert (np.ptp(result[0][2].astype(int), axis=-1) == 0).all()
    assert_planes_equal((rgb, *result[1:]), (rgb, log_depth, valid))


def test_blur_is_the_binomial_kernel():
    rgb = np.zeros((1, HEIGHT, WIDTH, 3))
    rgb[0, 6, 10] = 255
    binomial = np.array([1, 4, 6, 4, 1]) / 16
    result = recoloured(rgb, blur=1)
    np.testing.assert_array_equal(result[0, 4:9, 8:13, 1], np.round(255 * np.outer(binomial, binomial)))
    assert result[0].sum() == result[0, 4:9, 8:13].sum()
    half = recoloured(rgb, blur=0.5)
    assert half[0, 6, 10, 0] == round(255 * (0.5 + 0.5 * 36 / 256))
    np.testing.assert_array_equal(recoloured((9, 80, 255), blur=1), recoloured((9, 80, 255)))


# Precision and compilation.


def test_runs_under_xla():
    planes = random_planes()
    draws = draw(EVERYTHING, seed=0, epoch=0, sample_ids=IDS[:3])
    compiled = tf.function(focal.python_function, input_signature=SPECS, jit_compile=True)
    result, expected = augmented(compiled, planes, draws), augmented(focal, planes, draws)
    np.testing.assert_allclose(result[0].astype(int), expected[0].astype(int), atol=1)
    np.testing.assert_allclose(result[1], expected[1], atol=1e-6)
    np.testing.assert_array_equal(result[2], expected[2])
    assert_planes_equal(augmented(compiled, planes, draws_of(flip=1)), [plane[:, :, ::-1] for plane in planes])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_shapes_and_dtypes(dtype):
    rgb, log_depth, valid = random_planes()
    draws = draw(EVERYTHING, seed=0, epoch=0, sample_ids=IDS[:3])
    result = augment(rgb, log_depth.astype(dtype), valid, draws, zoom_depth="focal")
    assert [plane.dtype for plane in result] == ["uint8", np.dtype(dtype).name, "bool"]
    assert [plane.shape for plane in result] == [rgb.shape, log_depth.shape, valid.shape]


# Named augmentations.


NAMED = replace(EVERYTHING, augment=(("gamma", 0.5),))


def test_named_augmentations_do_not_change_other_draws():
    draws = draw(NAMED, seed=0, epoch=1, sample_ids=IDS)
    np.testing.assert_array_equal(draws[:, : len(Column)], draw(EVERYTHING, seed=0, epoch=1, sample_ids=IDS))
    gamma = draws[:, len(Column)]
    assert draws.shape == (400, len(Column) + 1) and draws.dtype == np.float32
    assert -0.5 <= gamma.min() < -0.48 and 0.48 < gamma.max() < 0.5
    np.testing.assert_array_equal(draw(NAMED, seed=0, epoch=1, sample_ids=IDS[7:9])[:, len(Column)], gamma[7:9])
    assert is_augmented(replace(PLAIN, augment=NAMED.augment))


def test_gamma_by_hand():
    """255 x (51 / 255)^(2^g): the square for 1, the root for -1. Black, white and an exponent of 0 stay the same."""
    rgb = np.zeros((3, 2, 2, 3), np.uint8)
    rgb[:, 0, 0], rgb[:, 1, 1] = 51, 255
    planes = (rgb, np.zeros(rgb.shape[:3], np.float32), np.ones(rgb.shape[:3], bool))
    draws = np.column_stack([draws_of(), np.array([1, -1, 0], np.float32)])
    (changed, log_depth, valid) = (
        np.asarray(plane) for plane in augment(*planes, draws, zoom_depth="focal", named=["gamma"])
    )
    assert changed[:, 0, 0, 0].tolist() == [round(255 * 0.2**2), round(255 * 0.2**0.5), 51]
    assert (changed[:, 1, 1] == 255).all() and (changed[:, 0, 1] == 0).all()
    assert valid.all() and not log_depth.any()


def test_named_augmentations_keep_log_depth_0_where_invalid():
    planes = random_planes()
    draws = np.column_stack([draws_of(), np.zeros(3, np.float32)])
    result = augment(*planes, draws, zoom_depth="focal", named=["gamma"])
    assert_planes_equal([np.asarray(plane) for plane in result], planes)


# --- a smaller result ---


def shrunk(planes, draws, size):
    return [np.asarray(plane) for plane in augment(*planes, draws, zoom_depth="focal", size=size)]


def test_what_shrinks_to_a_whole_fraction_is_averaged_and_its_depth_is_point_sampled():
    rgb, log_depth, valid = random_planes(height=6, width=8, batch=2)
    image, depth, mask = shrunk((rgb, log_depth, valid), draws_of(2), (3, 4))
    blocks = rgb.reshape(2, 3, 2, 4, 2, 3).astype(np.float64).mean(axis=(2, 4))
    assert np.abs(image - blocks).max() <= 0.5
    assert np.array_equal(mask, valid[:, 1::2, 1::2])
    assert np.array_equal(depth, np.where(mask, log_depth[:, 1::2, 1::2], 0))


def test_a_zoom_of_a_larger_image_shows_its_own_pixels():
    """At the zoom that undoes the shrinking about the middle, the result is a cut of the image, not a blur of it."""
    rgb, log_depth, valid = random_planes(height=8, width=8, batch=1)
    image, depth, mask = shrunk((rgb, log_depth, valid), draws_of(1, zoom=2.0), (4, 4))
    expected = rgb[:, 2:6, 2:6].astype(np.float64)
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.8
    assert np.array_equal(mask, valid[:, 2:6, 2:6])
    assert np.allclose(depth, np.where(mask, log_depth[:, 2:6, 2:6] - np.log(2.0), 0), atol=1e-6)
