"""The order of an epoch: each row once, whatever the workers, and different every epoch."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.errors import StoreError
from depthflow.store.read.epoch import (
    batch_sizes,
    draws_by_weight,
    epoch_batches,
    shuffled_rows,
    times_before,
    weighted_rows,
    worker_part,
)

groups = st.lists(st.integers(1, 20), min_size=1, max_size=12)
batches = st.integers(1, 40)
seeds = st.integers(0, 2**31)
epochs = st.integers(0, 1000)


def batches_of(group_sizes, batch, seed, epoch):
    return epoch_batches(shuffled_rows(group_sizes, seed=seed, epoch=epoch), global_batch_size=batch)


@settings(deadline=None, max_examples=150)
@given(group_sizes=groups, batch=batches, seed=seeds, epoch=epochs, workers=st.integers(1, 9))
def test_the_workers_together_see_each_row_once(group_sizes, batch, seed, epoch, workers):
    whole = batches_of(group_sizes, batch, seed, epoch)
    seen = []
    for rows in whole:
        parts = [rows[worker_part(len(rows), rank=rank, num_workers=workers)] for rank in range(workers)]
        assert np.concatenate(parts).tolist() == rows.tolist()  # The batch does not depend on who reads it.
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        seen.extend(np.concatenate(parts).tolist())
    assert sorted(seen) == list(range(sum(group_sizes)))


@settings(deadline=None, max_examples=150)
@given(group_sizes=groups, batch=batches, seed=seeds, epoch=epochs)
def test_batches_are_as_large_as_promised(group_sizes, batch, seed, epoch):
    samples = sum(group_sizes)
    sizes = [len(rows) for rows in batches_of(group_sizes, batch, seed, epoch)]
    assert sizes == batch_sizes(samples, global_batch_size=batch)
    assert sum(sizes) == samples
    assert len(sizes) == -(-samples // batch)
    assert all(size == batch for size in sizes[:-2])
    if samples % batch and samples > batch:
        assert abs(sizes[-1] - sizes[-2]) <= 1
        assert min(sizes) >= batch // 2
    if samples % batch == 0:
        assert set(sizes) == {batch}


@pytest.mark.parametrize(
    ("samples", "batch", "wanted"),
    [
        (12, 4, [4, 4, 4]),
        (13, 4, [4, 4, 3, 2]),
        (14, 4, [4, 4, 3, 3]),
        (15, 4, [4, 4, 4, 3]),
        (5, 4, [3, 2]),
        (3, 4, [3]),
        (4, 4, [4]),
        (3, 1, [1, 1, 1]),
        (0, 4, []),
    ],
)
def test_batch_sizes_by_hand(samples, batch, wanted):
    assert batch_sizes(samples, global_batch_size=batch) == wanted


def test_a_batch_takes_a_row_of_every_stream_by_hand():
    # 13 rows, batches of 4, 4, 3 and 2: streams of 4, 4, 3 and 2 rows.
    got = epoch_batches(np.arange(13), global_batch_size=4)
    assert [rows.tolist() for rows in got] == [[0, 4, 8, 11], [1, 5, 9, 12], [2, 6, 10], [3, 7]]


def test_no_rows_are_no_batches():
    assert epoch_batches(np.arange(0), global_batch_size=4) == []


@settings(deadline=None, max_examples=100)
@given(group_sizes=groups, seed=seeds, epoch=epochs)
def test_rows_are_shuffled_group_by_group(group_sizes, seed, epoch):
    rows = shuffled_rows(group_sizes, seed=seed, epoch=epoch)
    assert rows.dtype == np.int64
    assert sorted(rows.tolist()) == list(range(sum(group_sizes)))
    owner = np.repeat(np.arange(len(group_sizes)), group_sizes)[rows]
    assert np.count_nonzero(np.diff(owner)) == len(group_sizes) - 1  # A group is read once, in one go.


@settings(deadline=None, max_examples=50)
@given(group_sizes=st.lists(st.integers(8, 20), min_size=6, max_size=9), batch=batches, seed=seeds, epoch=epochs)
def test_epochs_and_seeds_differ_and_repeat(group_sizes, batch, seed, epoch):
    def order(**changes):
        return [rows.tolist() for rows in batches_of(**{**arguments, **changes})]

    arguments = {"group_sizes": group_sizes, "batch": batch, "seed": seed, "epoch": epoch}
    assert order() == order()
    assert order() != order(epoch=epoch + 1)
    assert order() != order(seed=seed + 1)
    assert order() != order(seed=epoch, epoch=seed) or seed == epoch


def test_both_the_groups_and_their_rows_are_shuffled():
    orders = [shuffled_rows([16] * 8, seed=0, epoch=epoch) for epoch in range(20)]
    assert len({tuple(rows[::16] // 16) for rows in orders}) == 20
    within = [rows[np.flatnonzero(rows // 16 == 0)] for rows in orders]
    assert len({tuple(rows) for rows in within}) == 20


def test_a_worker_reads_few_groups():
    # 64 groups of 16 rows in batches of 32: a worker of four holds eight streams of 32 rows.
    whole = batches_of([16] * 64, 32, 0, 0)
    for rank in range(4):
        mine = np.concatenate([rows[worker_part(len(rows), rank=rank, num_workers=4)] for rows in whole])
        assert len(np.unique(mine // 16)) == 16


@given(places=st.integers(0, 100), workers=st.integers(1, 20))
def test_parts_are_contiguous_and_whole(places, workers):
    parts = [worker_part(places, rank=rank, num_workers=workers) for rank in range(workers)]
    assert parts[0].start == 0
    assert parts[-1].stop == places
    assert all(before.stop == after.start for before, after in itertools.pairwise(parts))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


# --- weights of data sets ---


@pytest.mark.parametrize(
    ("sizes", "weights", "wanted"),
    [
        ({"diode": 60, "tum": 40}, {"diode": 1, "tum": 3}, {"diode": 25, "tum": 75}),
        ({"diode": 60, "tum": 40}, {"tum": 3}, {"diode": 25, "tum": 75}),
        ({"diode": 60, "tum": 40}, {"diode": 0}, {"diode": 0, "tum": 100}),
        ({"diode": 60, "tum": 40}, {"diode": 60, "tum": 40}, {"diode": 60, "tum": 40}),
        ({"a": 3, "b": 3, "c": 4}, {}, {"a": 4, "b": 3, "c": 3}),
        ({"a": 1, "b": 1}, {"b": 1e-9}, {"a": 2, "b": 0}),
        ({"a": 5, "b": 5}, {"a": 1e308, "b": 1e308}, {"a": 5, "b": 5}),
        ({"a": 7}, {"a": 0.1}, {"a": 7}),
    ],
)
def test_draws_by_hand(sizes, weights, wanted):
    assert draws_by_weight(sizes, weights) == wanted


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"kitti": 2, "tum": 1.5},
            r"names kitti, of which .* no sample\. It holds 60 of diode, 40 of tum\. Received: .* kitti 2 tum 1\.5",
        ),
        ({"diode": 0, "tum": 0}, r"leaves nothing to train on.* Received: --dataset-weights diode 0 tum 0"),
    ],
)
def test_weights_that_do_not_fit_the_split_fail(weights, message):
    with pytest.raises(StoreError, match=message):
        draws_by_weight({"diode": 60, "tum": 40}, weights)


@st.composite
def mixtures(draw):
    """Row groups, each row's data set, and weights of which one is above 0."""
    sizes = draw(groups)
    names = draw(st.lists(st.sampled_from("abc"), min_size=sum(sizes), max_size=sum(sizes)))
    weights = {name: draw(st.sampled_from([0, 0.3, 1, 2, 17])) for name in sorted(set(names))}
    return sizes, names, {**weights, names[0]: 1}


@settings(deadline=None, max_examples=150)
@given(mixture=mixtures(), batch=batches, seed=seeds, epoch=epochs, workers=st.integers(1, 9))
def test_a_weighted_epoch_is_exact_for_any_number_of_workers(mixture, batch, seed, epoch, workers):
    """As many rows as the split has, each data set's share of them, and no row twice before all of its set once."""
    sizes, names, weights = mixture
    rows = weighted_rows(sizes, names, weights=weights, seed=seed, epoch=epoch)
    assert rows.dtype == np.int64
    assert len(rows) == len(names)
    assert Counter(names[row] for row in rows) == +Counter(draws_by_weight(Counter(names), weights))
    times = Counter(rows.tolist())
    for name in set(names):
        of_name = [times[row] for row, other in enumerate(names) if other == name]
        assert max(of_name) - min(of_name) <= 1
    seen = []
    for rows_of_batch in epoch_batches(rows, global_batch_size=batch):
        for rank in range(workers):
            seen.extend(rows_of_batch[worker_part(len(rows_of_batch), rank=rank, num_workers=workers)].tolist())
    assert sorted(seen) == sorted(rows.tolist())
    assert weighted_rows(sizes, names, weights=weights, seed=seed, epoch=epoch).tolist() == rows.tolist()


SIZES, NAMES = [16] * 40, ["tum" if row % 5 == 0 else "diode" for row in range(640)]


def test_every_part_of_a_weighted_epoch_has_the_same_mixture():
    """128 of tum, drawn 320 times: in each round of three 106 or 107 times."""
    rows = weighted_rows(SIZES, NAMES, weights={"diode": 1, "tum": 1}, seed=0, epoch=0)
    of_tum = np.array(NAMES)[rows] == "tum"
    assert of_tum.sum() == 320
    assert [int(part.sum()) for part in np.split(of_tum, [212, 426])] == [106, 107, 107]
    assert all(0.35 < part.mean() < 0.65 for part in np.array_split(of_tum, 10))


def test_a_weighted_epoch_reads_a_row_group_once_per_round():
    rows = weighted_rows(SIZES, NAMES, weights={"diode": 1, "tum": 1}, seed=0, epoch=0)
    assert np.count_nonzero(np.diff(rows // 16)) < 3 * 40


def test_weighted_epochs_and_seeds_differ():
    orders = {
        tuple(weighted_rows(SIZES, NAMES, weights={"tum": 3}, seed=seed, epoch=epoch))
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    assert len(orders) == 4


def test_times_before_by_hand():
    assert times_before(np.array([5, 3, 5, 5, 0, 3])).tolist() == [0, 0, 1, 2, 0, 1]
    assert times_before(np.arange(0)).tolist() == []
