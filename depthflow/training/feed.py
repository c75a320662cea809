"""The training feed: stored samples with the recipe's clipping and augmentation draws, read ahead of the step."""

# The fields of `Views` are tensors for pyright; here they are arrays.
# pyright: reportArgumentType=false

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from depthflow.models.augmentation import draw
from depthflow.models.canonical_camera import to_canonical
from depthflow.models.views import Views
from depthflow.recipe import Recipe
from depthflow.store.read.reader import DEPTH_PLANES, SampleBatch, SplitReader
from depthflow.store.read.share import EpochShare, Position
from depthflow.store.schema import KINDS
from depthflow.store.store import SampleStore

T = TypeVar("T")

TUTORIAL_CLIP_M = (0.1, 300.0)
TUTORIAL_PERCENTILE = 99.0
BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """One worker's part of a batch.

    Attributes:
        rgb: (b, H, W, 3) uint8.
        log_depth: (b, H, W) float32, natural log of metres, of the canonical camera if the recipe's is.
        valid_mask: (b, H, W) bool.
        draws: (b, D) float32, each sample's augmentation, which the step applies.
        epoch: Epoch, from 0.
        batch_rows: Row numbers of the whole batch, over all workers.
        next_position: Position after this batch, which is saved once its step is done.
        views: Further views of each sample; empty if the objective needs none.
    """

    rgb: np.ndarray
    log_depth: np.ndarray
    valid_mask: np.ndarray
    draws: np.ndarray
    epoch: int
    batch_rows: np.ndarray
    next_position: Position
    views: Views | tuple[()] = ()


def training_batches(
    reader: SplitReader, recipe: Recipe, *, position: Position, rank: int, num_workers: int
) -> Iterator[TrainingBatch]:
    """Yields one worker's part of every batch from a position to the end of its epoch.

    A sample's draws depend on the position's seed and epoch, on the sample id and on how often the epoch had the sample
    before, never on the workers.
    """
    share = EpochShare(
        reader,
        position=position,
        global_batch_size=recipe.global_batch_size,
        rank=rank,
        num_workers=num_workers,
        dataset_weights=dict(recipe.dataset_weights),
    )
    for batch in share:
        samples, log_depth = batch.samples, batch.samples.log_depth
        if recipe.clip_depth == "tutorial":
            log_depth = clip_log_depth(log_depth, samples.valid_mask)
        if recipe.camera == "canonical":
            log_depth = to_canonical(log_depth, samples.focal)
        keys = [f"{name} again {k}" if k else name for name, k in zip(samples.sample_ids, batch.repeats, strict=True)]
        yield TrainingBatch(
            rgb=samples.rgb,
            log_depth=log_depth,
            valid_mask=samples.valid_mask,
            draws=draw(recipe, seed=position.seed, epoch=position.epoch, sample_ids=keys),
            views=views_of(samples) if recipe.views_from else (),
            epoch=position.epoch,
            batch_rows=batch.batch_rows,
            next_position=batch.next_position,
        )


def planes_of(recipe: Recipe, store: SampleStore) -> tuple[str, ...]:
    """Returns the planes of a store that a recipe's objective needs."""
    return (*DEPTH_PLANES, *(store.views if recipe.views_from else ()))


def views_of(samples: SampleBatch) -> Views:
    """Returns the further views of some samples; poses are NaN where unknown."""
    geometry = samples.geometry
    assert geometry is not None, "the store is of kind depth"
    return Views(samples.views, geometry.camera, geometry.view_cameras, geometry.view_poses)


def no_views(recipe: Recipe, size: tuple[int, int]) -> Views | tuple[()]:
    """Returns black views of one image, of a camera that stands still; empty if the objective needs no views."""
    if recipe.views_from is None:
        return ()
    (height, width), views = size, (1, len(KINDS[recipe.views_from]))
    camera = np.array([width, width, width / 2, height / 2], np.float32)
    return Views(
        images=np.zeros((*views, height, width, 3), np.uint8),
        camera=camera[None],
        view_cameras=np.broadcast_to(camera, (*views, 4)),
        poses=np.broadcast_to(np.eye(4, dtype=np.float32), (*views, 4, 4)),
    )


def clip_log_depth(log_depth: np.ndarray, valid_mask: np.ndarray) -> np.ndarray:
    """Clips each image to [0.1 m, min(300 m, 99th percentile of its valid depths)], as the tutorial does.

    Args:
        log_depth: (B, H, W) float32, natural log of metres.
        valid_mask: (B, H, W) bool.

    Returns:
        (B, H, W) float32. An image without a valid pixel is clipped to [0.1 m, 300 m].
    """
    low, high = np.log(TUTORIAL_CLIP_M)
    # In metres, as in the tutorial: a percentile of log-depth would interpolate differently between two values.
    highs = [
        min(high, np.log(np.percentile(np.exp(image[valid]), TUTORIAL_PERCENTILE))) if valid.any() else high
        for image, valid in zip(log_depth, valid_mask, strict=True)
    ]
    return np.clip(log_depth, np.float32(low), np.array(highs, np.float32)[:, None, None])


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, which a thread makes `BATCHES_AHEAD` in advance."""
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = deque(pool.submit(next, iterator, end) for _ in range(BATCHES_AHEAD))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]
