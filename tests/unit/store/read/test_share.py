"""A worker's share of an epoch: every sample once, whoever reads, wherever it was interrupted."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.errors import StoreError
from depthflow.store.read.epoch import epoch_batches, shuffled_rows
from depthflow.store.read.reader import SampleBatch, SplitReader
from depthflow.store.read.share import EpochShare, Position

groups = st.lists(st.integers(1, 20), min_size=1, max_size=12)
batches = st.integers(1, 40)
seeds = st.integers(0, 2**31)
epochs = st.integers(0, 1000)
workers = st.integers(1, 9)


class Rows:
    """A split whose samples are their row numbers, which notes what is read."""

    def __init__(self, group_sizes):
        self.group_sizes = group_sizes
        self.asked = []
        self.announced = []

    def __len__(self):
        return sum(self.group_sizes)

    def read(self, rows, *, upcoming):
        self.announced.extend(upcoming)
        self.asked.extend(rows.tolist())
        focal = np.full(len(rows), np.nan)
        return SampleBatch(sample_ids=tuple(rows.tolist()), scene_types=(), datasets=(), focal=focal, planes={})


def shares(reader, position, batch, num_workers):
    """Each step's global batch as the workers read it together, and as each of them was told that it is."""
    parts = [
        list(EpochShare(reader, position=position, global_batch_size=batch, rank=rank, num_workers=num_workers))
        for rank in range(num_workers)
    ]
    together = [[row for part in step for row in part.samples.sample_ids] for step in zip(*parts, strict=True)]
    for step, rows in zip(zip(*parts, strict=True), together, strict=True):
        assert all(part.batch_rows.tolist() == rows for part in step)
        assert len({part.next_position for part in step}) == 1
    return together, [part.next_position for part in parts[0]]


@settings(max_examples=150)
@given(group_sizes=groups, batch=batches, seed=seeds, epoch=epochs, num_workers=workers)
def test_the_workers_together_read_each_sample_once(group_sizes, batch, seed, epoch, num_workers):
    reader = Rows(group_sizes)
    read, _ = shares(reader, Position(seed=seed, epoch=epoch), batch, num_workers)
    assert sorted(row for rows in read for row in rows) == list(range(len(reader)))
    assert sorted(reader.asked) == list(range(len(reader)))


@settings(max_examples=150)
@given(group_sizes=groups, batch=batches, seed=seeds, epoch=epochs, before=workers, after=workers, data=st.data())
def test_resuming_at_any_step_is_the_tail_of_the_whole_pass(group_sizes, batch, seed, epoch, before, after, data):
    """Also for another number of workers, through JSON, and without reading what came before."""
    whole, next_positions = shares(Rows(group_sizes), Position(seed=seed, epoch=epoch), batch, before)
    done = data.draw(st.integers(0, len(whole) - 1))
    start = next_positions[done - 1] if done else Position(seed=seed, epoch=epoch)
    assert start.step == done
    resumed = Rows(group_sizes)
    tail, next_positions_of_tail = shares(
        resumed, Position.from_json(json.loads(json.dumps(start.to_json()))), batch, after
    )
    assert tail == whole[done:]
    assert next_positions_of_tail == next_positions[done:]
    assert sorted(resumed.asked) == sorted(row for rows in whole[done:] for row in rows)


def test_after_the_last_batch_comes_the_next_epoch():
    _, next_positions = shares(Rows([3, 4]), Position(seed=5, epoch=7), 3, 1)
    assert next_positions == [
        Position(seed=5, epoch=7, step=1),
        Position(seed=5, epoch=7, step=2),
        Position(seed=5, epoch=8, step=0),
    ]


def test_a_share_says_how_many_batches_are_left_and_can_be_read_again():
    share = EpochShare(
        Rows([10]), position=Position(seed=0, epoch=0, step=1), global_batch_size=4, rank=0, num_workers=1
    )
    first, second = ([batch.samples.sample_ids for batch in share] for _ in range(2))
    assert first == second
    assert len(share) == len(first) == 2


def test_what_comes_next_is_announced_to_the_reader():
    """Every row but the first batch's, and no row of another epoch or worker."""
    reader = Rows([10] * 4)
    share = EpochShare(reader, position=Position(seed=0, epoch=0), global_batch_size=4, rank=1, num_workers=2)
    first, *others = (batch.samples.sample_ids for batch in share)
    assert set(reader.announced) == {row for rows in others for row in rows}
    assert not set(first) & set(reader.announced)


def test_a_share_that_is_left_reads_nothing_more():
    reader = Rows([10] * 4)
    for batch in EpochShare(reader, position=Position(seed=0, epoch=0), global_batch_size=4, rank=1, num_workers=2):
        assert len(reader.asked) == len(batch.samples.sample_ids) == 2
        break


@pytest.mark.parametrize("step", [3, 4, 1000])
def test_a_position_beyond_the_epoch_is_refused(step):
    with pytest.raises(StoreError, match=rf"10 samples in batches of 4 has 3 batches.*step={step}"):
        EpochShare(
            Rows([10]), position=Position(seed=0, epoch=0, step=step), global_batch_size=4, rank=0, num_workers=1
        )


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"seed": 0, "epoch": 0},
        {"seed": 0, "epoch": 0, "step": 0, "worker": 1},
        {"seed": 0, "epoch": 0, "step": -1},
        {"seed": 0, "epoch": 1.5, "step": 0},
        {"seed": "0", "epoch": 0, "step": 0},
        {"seed": None, "epoch": 0, "step": 0},
    ],
)
def test_what_is_no_position_is_refused(saved):
    with pytest.raises(StoreError, match=r"A position .*Received"):
        Position.from_json(saved)


def test_a_real_split_is_resumed_with_its_planes(small):
    """What two workers would have read from step 3 on, one worker reads after them."""
    whole = list(
        EpochShare(
            SplitReader(small.store, "train"),
            position=Position(seed=1, epoch=2),
            global_batch_size=8,
            rank=0,
            num_workers=1,
        )
    )
    parts = [
        list(
            EpochShare(
                SplitReader(small.store, "train", cache_bytes=0),
                position=whole[2].next_position,
                global_batch_size=8,
                rank=rank,
                num_workers=2,
            )
        )
        for rank in range(2)
    ]
    assert len(whole) == 9
    for wanted, *halves in zip(whole[3:], *parts, strict=True):
        for name, plane in wanted.samples.planes.items():
            np.testing.assert_array_equal(np.concatenate([half.samples.planes[name] for half in halves]), plane)


# --- weights of data sets ---


@pytest.mark.parametrize("dataset_weights", [{}, {"tum": 3}])
def test_a_mixture_is_read_by_any_number_of_workers_and_taken_up_anywhere(mixed, dataset_weights):
    def read(*, num_workers, **position):
        """Each step's (sample id, repeat, pixels), as the workers have them together."""
        parts = [
            list(
                EpochShare(
                    SplitReader(mixed, "train"),
                    position=Position(seed=4, epoch=1, **position),
                    global_batch_size=8,
                    rank=rank,
                    num_workers=num_workers,
                    dataset_weights=dataset_weights,
                )
            )
            for rank in range(num_workers)
        ]
        assert all(part[-1].next_position == Position(seed=4, epoch=2) for part in parts)
        return [
            [
                (part.samples.sample_ids[k], part.samples.datasets[k], repeat, part.samples.rgb[k].tobytes())
                for part in step
                for k, repeat in enumerate(part.repeats.tolist())
            ]
            for step in zip(*parts, strict=True)
        ]

    whole = read(num_workers=1)
    assert [len(batch) for batch in whole] == [8] * 7 + [7, 7]
    assert read(num_workers=3) == whole
    assert read(num_workers=2, step=5) == whole[5:]
    drawn = [sample for batch in whole for sample in batch]
    assert len({sample[:3] for sample in drawn}) == 70
    of_tum = [repeat for _, dataset, repeat, _ in drawn if dataset == "tum"]
    # Of 70 draws 17.5 and 52.5: equal remainders, so the first data set by name has one more.
    assert Counter(of_tum) == ({0: 28, 1: 24} if dataset_weights else {0: 28})


def test_without_weights_the_order_is_that_of_before():
    """These rows were written down before weights existed."""
    before = [[4, 6, 2, 7], [3, 0, 8], [5, 1]]
    share = EpochShare(Rows([3, 4, 2]), position=Position(seed=5, epoch=7), global_batch_size=4, rank=0, num_workers=1)
    order = shuffled_rows([3, 4, 2], seed=5, epoch=7)
    assert [batch.batch_rows.tolist() for batch in share] == before
    assert [rows.tolist() for rows in epoch_batches(order, global_batch_size=4)] == before
