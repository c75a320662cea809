"""The order of an epoch: pure functions of (number of samples, batch size, seed, epoch), never of workers.

Row groups are permuted, their rows shuffled, and the resulting sequence is cut into as many equal streams as a full
batch has places: batch t takes the t-th row of every stream. A worker holds some of the streams, so it reads few row
groups at a time and only its own part of the store, and a batch is the same for any number of workers.
"""

from collections.abc import Sequence

import numpy as np


def shuffled_rows(group_sizes: Sequence[int], *, seed: int, epoch: int) -> np.ndarray:
    """Every row once: row groups in a seeded order, the rows of each in a seeded order.

    Args:
        group_sizes: rows of each row group, in the store's order.

    Returns:
        (sum of group_sizes,) int64: row numbers counted through all groups.
    """
    generator = np.random.default_rng([seed, epoch])
    starts = np.concatenate([[0], np.cumsum(group_sizes)[:-1]]).astype(np.int64)
    order = generator.permutation(len(group_sizes))
    return np.concatenate([starts[g] + generator.permutation(group_sizes[g]) for g in order])


def batch_sizes(samples: int, *, global_batch_size: int) -> list[int]:
    """Sizes of an epoch's batches: full ones, and a remainder that shares evenly with the batch before it.

    Sharing keeps the smallest batch at half of a full one, so that every worker has a part of it. Nothing is dropped
    or padded.
    """
    full, remainder = divmod(samples, global_batch_size)
    if remainder == 0:
        return [global_batch_size] * full
    if full == 0:
        return [remainder]
    last_two = global_batch_size + remainder
    return [global_batch_size] * (full - 1) + [last_two - last_two // 2, last_two // 2]


def epoch_batches(rows: np.ndarray, *, global_batch_size: int) -> list[np.ndarray]:
    """Cuts an epoch's rows into its batches, place p of every batch from the p-th stream.

    Args:
        rows: (n,) row numbers in the order of `shuffled_rows`.

    Returns:
        one array of row numbers a batch.
    """
    sizes = batch_sizes(len(rows), global_batch_size=global_batch_size)
    lengths = [sum(1 for size in sizes if size > place) for place in range(max(sizes, default=0))]
    streams = np.split(rows, np.cumsum(lengths)[:-1])
    return [np.array([streams[place][t] for place in range(size)]) for t, size in enumerate(sizes)]


def worker_part(places: int, *, rank: int, num_workers: int) -> slice:
    """The places of a batch that one worker holds: contiguous parts whose sizes differ by one at most."""
    return slice(places * rank // num_workers, places * (rank + 1) // num_workers)
