"""The training feed: the tutorial's clip by hand, draws that depend only on the sample, and reading ahead."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from depthflow.models.augmentation import NEUTRAL, draw
from depthflow.recipes import smoke
from depthflow.store.read.reader import SampleBatch
from depthflow.store.read.share import Position
from depthflow.training.feed import (
    BATCHES_AHEAD,
    clip_log_depth,
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
    """The 99th percentile of 1, 2, ... 100 m is at position 98.01: 99.01 m."""
    depth_m = np.arange(1.0, 101.0).reshape(10, 10)
    expected = np.minimum(depth_m, 99.01)
    np.testing.assert_allclose(clipped_m(depth_m), expected, rtol=1e-6)


def test_percentile_is_taken_in_metres():
    """For 1 m and 100 m it is 99.01 m; for their logarithms it would be 100^0.99 = 95.5 m."""
    np.testing.assert_allclose(clipped_m([[1.0, 100.0]]), [[1.0, 99.01]], rtol=1e-6)


def test_depth_is_clipped_to_10_cm_and_300_m():
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


# --- a worker's batches ---


class Split:
    """Thirty samples of random planes, read-only like a reader's views."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.group_sizes = [8, 8, 8, 6]
        self.sample_ids = [f"00022_00193_indoors_{row:03d}_000" for row in range(30)]
        self.datasets = ["tum" if row % 3 == 0 else "diode" for row in range(30)]
        self.focal = np.geomspace(0.5, 2.0, 30)
        self.planes = {
            "rgb": generator.integers(0, 256, (30, 4, 6, 3), dtype=np.uint8),
            "log_depth": generator.normal(1.0, 2.0, (30, 4, 6)).astype(np.float32),
            "valid_mask": generator.random((30, 4, 6)) > 0.3,
        }

    def __len__(self):
        return 30

    def read(self, rows, *, upcoming):
        planes = {name: plane[rows] for name, plane in self.planes.items()}
        for plane in planes.values():
            plane.setflags(write=False)
        return SampleBatch(
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            scene_types=(),
            datasets=(),
            focal=self.focal[rows],
            planes=planes,
        )


def batches_of(recipe, *, rank=0, num_workers=1, **position):
    place = Position(**{"seed": 3, "epoch": 2, **position})
    return list(training_batches(Split(), recipe, position=place, rank=rank, num_workers=num_workers))


def test_the_canonical_camera_sees_half_the_depth_through_twice_the_focal_length():
    """clip_depth is in metres of the image's own lens, so it comes first."""
    recipe = replace(smoke(), global_batch_size=30, camera="canonical", clip_depth="tutorial")
    (batch,) = batches_of(recipe)
    split, rows = Split(), batch.batch_rows
    depth_m = np.exp(clip_log_depth(split.planes["log_depth"][rows], split.planes["valid_mask"][rows]))
    np.testing.assert_allclose(np.exp(batch.log_depth), depth_m / split.focal[rows, None, None], rtol=1e-5)
    assert split.focal.max() > 1.5 * split.focal.min()


EVERYTHING = replace(smoke(), global_batch_size=8, max_zoom=2.0, colour_jitter=0.4, blur=0.5)


@pytest.mark.parametrize("recipe", [replace(EVERYTHING, clip_depth="tutorial"), EVERYTHING, smoke()])
def test_batches_are_the_stored_samples_with_their_draws(recipe):
    """Augmentation is left to the step; only the tutorial's clip is applied here."""
    split = Split()
    recipe = replace(recipe, global_batch_size=8)
    seen = []
    for batch in batches_of(recipe):
        rows = batch.batch_rows
        log_depth = split.planes["log_depth"][rows]
        if recipe.clip_depth == "tutorial":
            log_depth = clip_log_depth(log_depth, split.planes["valid_mask"][rows])
        np.testing.assert_array_equal(batch.rgb, split.planes["rgb"][rows])
        np.testing.assert_array_equal(batch.log_depth, log_depth)
        np.testing.assert_array_equal(batch.valid_mask, split.planes["valid_mask"][rows])
        wanted = draw(recipe, seed=3, epoch=2, sample_ids=[split.sample_ids[row] for row in rows])
        assert batch.draws.dtype == np.float32
        np.testing.assert_array_equal(batch.draws, wanted)
        assert batch.epoch == 2
        seen.extend(rows.tolist())
    assert sorted(seen) == list(range(30))


def test_without_augmentation_draws_are_neutral():
    recipe = replace(smoke(), horizontal_flip=False, max_zoom=1.0, colour_jitter=0.0, blur=0.0, global_batch_size=8)
    for batch in batches_of(recipe):
        np.testing.assert_array_equal(batch.draws, np.tile(NEUTRAL, (len(batch.rgb), 1)))


def test_batches_from_a_position_are_the_rest_of_the_epoch_for_any_number_of_workers():
    """Draws included: resuming in the middle of an epoch gives the same batches."""
    whole = batches_of(EVERYTHING)
    assert [batch.next_position.step for batch in whole] == [1, 2, 3, 0]
    assert whole[-1].next_position == Position(seed=3, epoch=3)
    parts = [batches_of(EVERYTHING, step=2, rank=rank, num_workers=3) for rank in range(3)]
    for wanted, *thirds in zip(whole[2:], *parts, strict=True):
        for name in ("rgb", "log_depth", "valid_mask", "draws"):
            joined = np.concatenate([getattr(third, name) for third in thirds])
            np.testing.assert_array_equal(joined, getattr(wanted, name))
        assert all(third.next_position == wanted.next_position for third in thirds)
        assert all(third.batch_rows.tolist() == wanted.batch_rows.tolist() for third in thirds)


def draws_by_row(recipe, **position):
    return {
        row: tuple(drawn)
        for batch in batches_of(recipe, **position)
        for row, drawn in zip(batch.batch_rows.tolist(), batch.draws.tolist(), strict=True)
    }


def test_a_samples_draw_does_not_depend_on_its_batch():
    first = draws_by_row(EVERYTHING)
    assert draws_by_row(replace(EVERYTHING, global_batch_size=5)) == first
    assert len(set(first.values())) == 30


def test_a_sample_that_an_epoch_repeats_has_other_draws():
    """Its first draws are those of an epoch without weights. A resume has the rest of the epoch, repeats included."""
    weighted = replace(EVERYTHING, dataset_weights=(("tum", 8.0),))
    once, drawn = draws_by_row(EVERYTHING), {}
    for batch in batches_of(weighted):
        for row, values in zip(batch.batch_rows.tolist(), batch.draws.tolist(), strict=True):
            drawn.setdefault(row, []).append(tuple(values))
    assert sum(map(len, drawn.values())) == 30
    assert sum(len(drawn[row]) for row in range(0, 30, 3)) == 27  # Of 10 rows, by 8 / 9 of 30 draws.
    for row, values in drawn.items():
        assert once[row] in values
        assert len(set(values)) == len(values)
    whole = batches_of(weighted)
    halves = [batches_of(weighted, step=2, rank=rank, num_workers=2) for rank in range(2)]
    for wanted, *parts in zip(whole[2:], *halves, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.draws for part in parts]), wanted.draws)


@pytest.mark.parametrize("change", [{"epoch": 3}, {"seed": 4}])
def test_every_epoch_and_seed_has_other_draws(change):
    first, other = draws_by_row(EVERYTHING), draws_by_row(EVERYTHING, **change)
    assert all(first[row] != other[row] for row in range(30))


def test_order_and_draws_depend_on_the_position():
    """Not on the recipe's seed: a resumed run keeps the seed that it started with."""
    recipe = replace(EVERYTHING, seed=99)
    rows = [
        [batch.batch_rows.tolist() for batch in batches_of(recipe, **change)]
        for change in ({}, {"epoch": 3}, {"seed": 4})
    ]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert rows[0] == [batch.batch_rows.tolist() for batch in batches_of(EVERYTHING)]
    assert draws_by_row(recipe) == draws_by_row(EVERYTHING)


# --- reading ahead ---


class Source:
    """Counts the items that were made, and by which threads."""

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


def test_falsy_items_are_kept():
    assert list(read_ahead([None, 0, False, ""])) == [None, 0, False, ""]


@pytest.mark.parametrize("fails_at", [0, 1, 5])
def test_an_error_comes_after_the_items_before_it(fails_at):
    items = read_ahead(Source(10, fails_at=fails_at))
    assert [next(items) for _ in range(fails_at)] == list(range(fails_at))
    with pytest.raises(OSError, match=f"item {fails_at} is broken"):
        next(items)


def test_reads_ahead_up_to_the_limit():
    source = Source(20)
    items = read_ahead(source)
    for k in range(5):
        assert next(items) == k
        wait_until(lambda wanted=k + 1 + BATCHES_AHEAD: source.made == wanted)
    time.sleep(0.05)
    assert source.made == 5 + BATCHES_AHEAD
    items.close()
    assert source.threads and threading.get_ident() not in source.threads


def test_nothing_is_read_before_the_first_item_is_requested():
    source = Source(5)
    items = read_ahead(source)
    time.sleep(0.02)
    assert source.made == 0
    items.close()


def test_closing_early_leaves_no_thread():
    before = threading.active_count()
    items = read_ahead(Source(20))
    next(items)
    items.close()
    assert threading.active_count() == before
