"""From stored samples to what a step eats: the recipe's clipping, what is drawn for each sample, and reading ahead."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from depthflow.models.augmentation import draw
from depthflow.recipe import Recipe
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.share import EpochShare, Position, ShareBatch

T = TypeVar("T")

TUTORIAL_CLIP_M = (0.1, 300.0)
TUTORIAL_PERCENTILE = 99.0
BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """One worker's part of a batch.

    Attributes:
        rgb: (b, H, W, 3) uint8.
        log_depth: (b, H, W) float32, natural log of metres.
        valid_mask: (b, H, W) bool.
        draws: (b, D) float32: each sample's augmentation, which the step carries out.
        epoch: passes done before this one.
        batch_rows: row numbers of the whole batch, on all workers.
        then: where to go on after this batch: what to save once its step is done.
    """

    rgb: np.ndarray
    log_depth: np.ndarray
    valid_mask: np.ndarray
    draws: np.ndarray
    epoch: int
    batch_rows: np.ndarray
    then: Position


def training_batches(
    reader: SplitReader, recipe: Recipe, *, position: Position, rank: int, num_workers: int
) -> Iterator[TrainingBatch]:
    """One worker's part of every batch of an epoch from a position on, with the recipe's clipping and draws.

    What is drawn depends on the position's seed and epoch and on the sample id, never on workers.
    """
    share = EpochShare(
        reader,
        position=position,
        global_batch_size=recipe.global_batch_size,
        rank=rank,
        num_workers=num_workers,
    )
    for batch in share:
        yield _prepare(batch, recipe, seed=position.seed, epoch=position.epoch)


def _prepare(batch: ShareBatch, recipe: Recipe, *, seed: int, epoch: int) -> TrainingBatch:
    samples = batch.samples
    log_depth = samples.log_depth
    if recipe.clip_depth == "tutorial":
        log_depth = clip_log_depth(log_depth, samples.valid_mask)
    return TrainingBatch(
        rgb=samples.rgb,
        log_depth=log_depth,
        valid_mask=samples.valid_mask,
        draws=draw(recipe, seed=seed, epoch=epoch, sample_ids=samples.sample_ids),
        epoch=epoch,
        batch_rows=batch.batch_rows,
        then=batch.next_position,
    )


def clip_log_depth(log_depth: np.ndarray, valid_mask: np.ndarray) -> np.ndarray:
    """The tutorial's per-image clip to [0.1 m, min(300 m, 99th percentile of the valid depths)].

    Args:
        log_depth: (B, H, W) float32, natural log of metres.
        valid_mask: (B, H, W) bool.

    Returns:
        (B, H, W) float32; an image without a valid pixel is clipped to [0.1 m, 300 m].
    """
    low, high = np.log(TUTORIAL_CLIP_M)
    # Logarithms keep order, so the percentile of log-depth is the log of the percentile but for interpolation
    # between two neighbouring values; it is taken in metres, as the tutorial does.
    highs = [
        min(high, np.log(np.percentile(np.exp(image[valid]), TUTORIAL_PERCENTILE))) if valid.any() else high
        for image, valid in zip(log_depth, valid_mask, strict=True)
    ]
    return np.clip(log_depth, np.float32(low), np.array(highs, np.float32)[:, None, None])


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, made in a thread of their own, `BATCHES_AHEAD` in advance."""
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = deque(pool.submit(next, iterator, end) for _ in range(BATCHES_AHEAD))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]
