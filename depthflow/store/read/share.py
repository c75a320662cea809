"""A worker's share of an epoch, which can be left at any batch and taken up there, by any number of workers."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType

import numpy as np

from depthflow.errors import StoreError
from depthflow.store.read.epoch import (
    batch_sizes,
    epoch_batches,
    shuffled_rows,
    times_before,
    weighted_rows,
    worker_part,
)
from depthflow.store.read.reader import SampleBatch, SplitReader

BATCHES_AHEAD = 2
"""Whose row groups are read meanwhile. Of two, a batch seldom waits; more gained nothing on two cores."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the reading of a split: the batch that comes next.

    Attributes:
        seed: of the order.
        epoch: passes done.
        step: batches of this pass done.
    """

    seed: int
    epoch: int
    step: int = 0

    def __post_init__(self) -> None:
        if any(type(value) is not int or value < 0 for value in asdict(self).values()):
            raise StoreError(f"A position is three whole numbers, none negative. Received: {asdict(self)}")

    def to_json(self) -> dict[str, int]:
        """As plain numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, int]) -> "Position":
        """What `to_json` was made from.

        Raises:
            StoreError: if it is none.
        """
        if set(saved) != {field.name for field in fields(cls)}:
            raise StoreError(f"A position has seed, epoch and step. Received: {dict(saved)}")
        return cls(**saved)


@dataclass(frozen=True, kw_only=True)
class ShareBatch:
    """One worker's part of a batch.

    Attributes:
        samples: the part; empty where the batch has fewer samples than there are workers.
        repeats: (n,) int, how often the epoch's order has each sample of the part before; 0 without weights.
        batch_rows: row numbers of the whole batch, on all workers.
        next_position: Position after this batch, to be saved once the batch is done.
    """

    samples: SampleBatch
    repeats: np.ndarray
    batch_rows: np.ndarray
    next_position: Position


class EpochShare:
    """One worker's part of every batch of an epoch, in order, from a position on.

    The workers' parts together hold every sample exactly once, or as often as the weights of the data sets say. The
    batches depend on seed, epoch, batch size and weights alone, so a position that was saved by four workers may be
    taken up by two. Nothing before it is read.

    Args:
        reader: the split.
        position: the batch to begin with.
        global_batch_size: samples of a full batch, on all workers.
        rank: this worker's number.
        num_workers: of all.
        dataset_weights: See `draws_by_weight`; none draws every sample once.

    Raises:
        StoreError: if the epoch has no such batch; on iteration, if the weights are not for this split.
    """

    def __init__(
        self,
        reader: SplitReader,
        *,
        position: Position,
        global_batch_size: int,
        rank: int,
        num_workers: int,
        dataset_weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._reader = reader
        self._weights = dataset_weights
        self._position = position
        self._global_batch_size = global_batch_size
        self._rank = rank
        self._num_workers = num_workers
        self._steps = len(batch_sizes(len(reader), global_batch_size=global_batch_size))
        if position.step >= self._steps:
            raise StoreError(
                f"An epoch of {len(reader)} samples in batches of {global_batch_size} has {self._steps} batches. "
                f"Received: {position}"
            )

    def __len__(self) -> int:
        """Batches from the position to the end of the epoch."""
        return self._steps - self._position.step

    def __iter__(self) -> Iterator[ShareBatch]:
        seed, epoch = self._position.seed, self._position.epoch
        rows = self._rows()
        repeats = times_before(rows)
        batches = epoch_batches(np.arange(len(rows)), global_batch_size=self._global_batch_size)
        parts = [batch[worker_part(len(batch), rank=self._rank, num_workers=self._num_workers)] for batch in batches]
        places = [Position(seed=seed, epoch=epoch, step=step) for step in range(self._steps)]
        places.append(Position(seed=seed, epoch=epoch + 1))
        for step in range(self._position.step, self._steps):
            upcoming = [row for part in parts[step + 1 : step + 1 + BATCHES_AHEAD] for row in rows[part]]
            yield ShareBatch(
                samples=self._reader.read(rows[parts[step]], upcoming=upcoming),
                repeats=repeats[parts[step]],
                batch_rows=rows[batches[step]],
                next_position=places[step + 1],
            )

    def _rows(self) -> np.ndarray:
        """Returns the epoch's rows in their order."""
        sizes, keys = self._reader.group_sizes, {"seed": self._position.seed, "epoch": self._position.epoch}
        if not self._weights:
            return shuffled_rows(sizes, **keys)
        return weighted_rows(sizes, self._reader.datasets, weights=self._weights, **keys)
