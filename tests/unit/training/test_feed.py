"""What a step eats: the tutorial's clip by hand, mirroring, the coin, and reading ahead."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from depthflow.recipes import smoke
from depthflow.samples.reader import SampleBatch
from depthflow.samples.share import Position
from depthflow.training.feed import (
    BATCHES_AHEAD,
    clip_log_depth,
    is_flipped,
    mirror,
    read_ahead,
    training_batches,
)


def clipped_m(depth_m, valid=None) -> np.ndarray:
    """`clip_log_depth` of one image, in metres."""
    depth_m = np.asarray(depth_m, np.float32)
    valid = np.ones(depth_m.shape, bool) if valid is None else np.asarray(valid)
    log_depth = clip_log_depth(np.log(depth_m)[None], valid[None])
    assert log_depth.dtype == np.float32
    return np.exp(log_depth[0])


# --- the tutorial's clip ---


def test_clip_by_hand():
    """Of 1, 2, ... 100 m the 99th percentile lies at place 98.01: 99.01 m."""
    depth_m = np.arange(1.0, 101.0).reshape(10, 10)
    expected = np.minimum(depth_m, 99.01)
    np.testing.assert_allclose(clipped_m(depth_m), expected, rtol=1e-6)


def test_percentile_is_taken_in_metres():
    """Of 1 m and 100 m it is 99.01 m; of their logarithms it would be 100^0.99 = 95.5 m."""
    np.testing.assert_allclose(clipped_m([[1.0, 100.0]]), [[1.0, 99.01]], rtol=1e-6)


def test_never_over_300_m_nor_under_10_cm():
    np.testing.assert_allclose(clipped_m([[0.02, 350.0, 340.0, 310.0]]), [[0.1, 300.0, 300.0, 300.0]], rtol=1e-6)


def test_percentile_is_of_valid_pixels():
    depth_m, valid = [[1.0, 2.0, 250.0]], [[True, True, False]]
    np.testing.assert_allclose(clipped_m(depth_m, valid), [[1.0, 1.99, 1.99]], rtol=1e-6)


def test_each_image_has_its_own_percentile():
    log_depth = np.log(np.array([[[1.0, 2.0]], [[10.0, 20.0]]], np.float32))
    clipped = np.exp(clip_log_depth(log_depth, np.ones((2, 1, 2), bool)))
    np.testing.assert_allclose(clipped, [[[1.0, 1.99]], [[10.0, 19.9]]], rtol=1e-6)


def test_image_without_a_valid_pixel_is_clipped_to_the_outer_limits():
    depth_m, valid = [[0.01, 5.0, 500.0]], np.zeros((1, 3), bool)
    np.testing.assert_allclose(clipped_m(depth_m, valid), [[0.1, 5.0, 300.0]], rtol=1e-6)


def test_does_not_write_to_its_input():
    log_depth = np.log(np.array([[[1.0, 500.0]]], np.float32))
    log_depth.setflags(write=False)
    assert clip_log_depth(log_depth, np.ones((1, 1, 2), bool)) is not log_depth


@given(hnp.arrays(np.float32, (4, 5), elements=st.floats(2**-7, 512.0, width=32)), hnp.arrays(np.bool_, (4, 5)))
def test_equals_the_tutorials_formula(depth_m, valid):
    valid[0, 0] = True
    expected = np.clip(depth_m, 0.1, min(300.0, np.percentile(depth_m[valid], 99)))
    np.testing.assert_allclose(clipped_m(depth_m, valid), expected, rtol=1e-5)


# --- mirror ---


@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 2, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_mirrors_the_marked_images_alone(shape, dtype):
    plane = (np.random.default_rng(0).random(shape) * 255).astype(np.uint8)
    plane = plane > 127 if dtype == np.bool_ else plane.astype(dtype)
    mirrored = mirror(plane, np.array([True, False, True]))
    assert mirrored.dtype == dtype
    np.testing.assert_array_equal(mirrored, np.stack([np.fliplr(plane[0]), plane[1], np.fliplr(plane[2])]))
    assert not np.array_equal(mirrored[0], plane[0])


def test_mirror_by_hand():
    np.testing.assert_array_equal(
        mirror(np.array([[[1, 2, 3], [4, 5, 6]]]), np.array([True])), [[[3, 2, 1], [6, 5, 4]]]
    )


# --- the coin ---


def flips(seed: int, epoch: int) -> np.ndarray:
    return np.array([is_flipped(seed, epoch, f"00022_00193_indoors_{k:03d}_000") for k in range(4000)])


def test_coin_is_fair():
    """Five standard deviations of 4000 throws are 158."""
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        assert abs(flips(seed, epoch).sum() - 2000) < 158


def test_coin_is_repeatable_and_depends_on_all_its_arguments():
    first = flips(0, 0)
    np.testing.assert_array_equal(first, flips(0, 0))
    for seed, epoch in ((0, 1), (1, 0), (1, 1), (0, 10)):
        assert abs((first == flips(seed, epoch)).sum() - 2000) < 158, "two epochs must be two sets of throws"
    assert len(set(first.tolist())) == 2


def test_coin_does_not_run_its_arguments_together():
    assert any(is_flipped(1, 11, str(k)) != is_flipped(11, 1, str(k)) for k in range(20))


# --- a worker's batches ---


class Split:
    """Thirty samples of random planes, read-only as a reader's views are."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.group_sizes = [8, 8, 8, 6]
        self.sample_ids = [f"00022_00193_indoors_{row:03d}_000" for row in range(30)]
        self.planes = {
            "rgb": generator.integers(0, 256, (30, 4, 6, 3), dtype=np.uint8),
            "log_depth": generator.normal(1.0, 2.0, (30, 4, 6)).astype(np.float32),
            "valid_mask": generator.random((30, 4, 6)) > 0.3,
        }

    def __len__(self):
        return 30

    def read(self, rows, *, then):
        planes = {name: plane[rows] for name, plane in self.planes.items()}
        for plane in planes.values():
            plane.setflags(write=False)
        return SampleBatch(sample_ids=tuple(self.sample_ids[row] for row in rows), scene_types=(), planes=planes)


def batches_of(recipe, *, rank=0, num_workers=1, **position):
    place = Position(**{"seed": 3, "epoch": 2, **position})
    return list(training_batches(Split(), recipe, position=place, rank=rank, num_workers=num_workers))


@pytest.mark.parametrize("horizontal_flip", [False, True])
@pytest.mark.parametrize("clip_depth", ["none", "tutorial"])
def test_batches_are_the_samples_prepared(horizontal_flip, clip_depth):
    split = Split()
    recipe = replace(smoke(), global_batch_size=8, horizontal_flip=horizontal_flip, clip_depth=clip_depth)
    seen = []
    for batch in batches_of(recipe):
        for k, row in enumerate(batch.batch_rows):
            rgb, log_depth, valid_mask = (split.planes[name][row] for name in ("rgb", "log_depth", "valid_mask"))
            if clip_depth == "tutorial":
                log_depth = clip_log_depth(log_depth[None], valid_mask[None])[0]
            step = -1 if horizontal_flip and is_flipped(3, 2, split.sample_ids[row]) else 1
            np.testing.assert_array_equal(batch.rgb[k], rgb[:, ::step])
            np.testing.assert_array_equal(batch.log_depth[k], log_depth[:, ::step])
            np.testing.assert_array_equal(batch.valid_mask[k], valid_mask[:, ::step])
        seen.extend(batch.batch_rows.tolist())
    assert sorted(seen) == list(range(30))


def test_batches_from_a_position_are_the_tail_for_any_number_of_workers():
    recipe = replace(smoke(), global_batch_size=8)
    whole = batches_of(recipe)
    assert [batch.then.step for batch in whole] == [1, 2, 3, 0]
    assert whole[-1].then == Position(seed=3, epoch=3)
    parts = [batches_of(recipe, step=2, rank=rank, num_workers=3) for rank in range(3)]
    for wanted, *thirds in zip(whole[2:], *parts, strict=True):
        for name in ("rgb", "log_depth", "valid_mask"):
            joined = np.concatenate([getattr(third, name) for third in thirds])
            np.testing.assert_array_equal(joined, getattr(wanted, name))
        assert all(third.then == wanted.then for third in thirds)
        assert all(third.batch_rows.tolist() == wanted.batch_rows.tolist() for third in thirds)


def test_order_and_coins_are_of_the_position():
    recipe = replace(smoke(), global_batch_size=8, seed=99)
    rows = [
        [batch.batch_rows.tolist() for batch in batches_of(recipe, **change)]
        for change in ({}, {"epoch": 3}, {"seed": 4})
    ]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert rows[0] == [batch.batch_rows.tolist() for batch in batches_of(replace(recipe, seed=0))]


# --- reading ahead ---


class Source:
    """Counts what was asked of it, and by which thread."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self.made = 0
        self.threads: set[int] = set()
        self._count, self._fails_at = count, fails_at

    def __iter__(self):
        for k in range(self._count):
            if k == self._fails_at:
                raise OSError(f"item {k} is broken")
            self.made += 1
            self.threads.add(threading.get_ident())
            yield k


def wait_until(condition, timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_everything_in_order(count):
    assert list(read_ahead(Source(count))) == list(range(count))


def test_false_and_none_are_items():
    assert list(read_ahead([None, 0, False, ""])) == [None, 0, False, ""]


@pytest.mark.parametrize("fails_at", [0, 1, 5])
def test_an_error_comes_after_the_items_before_it(fails_at):
    items = read_ahead(Source(10, fails_at=fails_at))
    assert [next(items) for _ in range(fails_at)] == list(range(fails_at))
    with pytest.raises(OSError, match=f"item {fails_at} is broken"):
        next(items)


def test_reads_ahead_but_not_further_than_it_should():
    source = Source(20)
    items = read_ahead(source)
    for k in range(5):
        assert next(items) == k
        wait_until(lambda wanted=k + 1 + BATCHES_AHEAD: source.made == wanted)
    time.sleep(0.05)
    assert source.made == 5 + BATCHES_AHEAD
    items.close()
    assert source.threads and threading.get_ident() not in source.threads


def test_nothing_is_read_before_the_first_item_is_asked_for():
    source = Source(5)
    items = read_ahead(source)
    time.sleep(0.02)
    assert source.made == 0
    items.close()


def test_leaving_early_leaves_no_thread():
    before = threading.active_count()
    items = read_ahead(Source(20))
    next(items)
    items.close()
    assert threading.active_count() == before
