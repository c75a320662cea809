"""The order of an epoch: each row once, whatever the workers, and different every epoch."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.store.read.epoch import batch_sizes, epoch_batches, shuffled_rows, worker_part

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
