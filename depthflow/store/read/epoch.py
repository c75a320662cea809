"""The order of an epoch: pure functions of (number of samples, batch size, seed, epoch), never of workers.

Row groups are permuted, their rows shuffled, and the resulting sequence is cut into as many equal streams as a full
batch has places: batch t takes the t-th row of every stream. A worker holds some of the streams, so it reads few row
groups at a time and only its own part of the store, and a batch is the same for any number of workers.

With weights per data set, an epoch draws as many rows as it has without, each data set's by its weight. It goes over
the row groups in as many rounds as the most repeated data set takes, with an equal part of every data set's draws in
each, so that the mixture is the same throughout and each row group is read once per round.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from depthflow.errors import StoreError


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


def draws_by_weight(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Returns how often each data set is drawn in an epoch: its share of all samples by weight, by largest remainder.

    Args:
        sizes: Samples of each data set. Their sum is the number of draws.
        weights: Finite weights, none negative. A data set without one has weight 1.

    Raises:
        StoreError: if a weight is for a data set that is not there, or no data set has a weight above 0.
    """
    names, samples = sorted(sizes), sum(sizes.values())
    received = "Received: --dataset-weights " + " ".join(f"{name} {weight:g}" for name, weight in weights.items())
    if unknown := sorted(weights.keys() - sizes.keys()):
        raise StoreError(
            f"--dataset-weights names {', '.join(unknown)}, of which the training split has no sample. It holds "
            f"{', '.join(f'{sizes[name]} of {name}' for name in names)}. {received}"
        )
    exact = {name: Fraction(weights.get(name, 1)) for name in names}  # A float's sum could overflow.
    total = sum(exact.values())
    if not total:
        raise StoreError(f"--dataset-weights leaves nothing to train on: give a data set a weight above 0. {received}")
    shares = {name: samples * weight / total for name, weight in exact.items()}
    draws = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(names, key=lambda name: draws[name] - shares[name])
    for name in by_remainder[: samples - sum(draws.values())]:
        draws[name] += 1
    return draws


def weighted_rows(
    group_sizes: Sequence[int], datasets: Sequence[str], *, weights: Mapping[str, float], seed: int, epoch: int
) -> np.ndarray:
    """The rows of an epoch with weights: each row of a data set as often as any other of it, or once more.

    A data set's rows are taken in a seeded order, and after the last of them in another one.

    Args:
        group_sizes: See `shuffled_rows`.
        datasets: Each row's data set.
        weights: See `draws_by_weight`, which says what is raised.

    Returns:
        (len(datasets),) int64 row numbers.
    """
    generator = np.random.default_rng([seed, epoch])
    draws = draws_by_weight(Counter(datasets), weights)
    names, orders, rounds = np.array(datasets), [], 1
    for name, count in draws.items():
        rows = np.flatnonzero(names == name)
        repeats = -(-count // len(rows))
        passes = [generator.permutation(rows) for _ in range(repeats)]
        orders.append(np.concatenate([rows[:0], *passes])[:count])
        rounds = max(rounds, repeats)
    group_of = np.repeat(np.arange(len(group_sizes)), group_sizes)
    mixed = []
    for k in range(rounds):
        parts = [order[len(order) * k // rounds : len(order) * (k + 1) // rounds] for order in orders]
        rows = generator.permutation(np.concatenate(parts))
        place = generator.permutation(len(group_sizes))[group_of[rows]]
        mixed.append(rows[np.argsort(place, kind="stable")])
    return np.concatenate(mixed)


def times_before(rows: np.ndarray) -> np.ndarray:
    """How often each row occurs before its place.

    Args:
        rows: (n,) row numbers.

    Returns:
        (n,) int64.
    """
    order = np.argsort(rows, kind="stable")
    _, firsts, counts = np.unique(rows[order], return_index=True, return_counts=True)
    times = np.empty(len(rows), np.int64)
    times[order] = np.arange(len(rows)) - np.repeat(firsts, counts)
    return times


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
