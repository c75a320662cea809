"""Augmentation in two halves: what is drawn for a sample, on the host, and what that makes of a batch, on any device.

A draw depends on (seed, epoch, sample id) alone, so an epoch is the same on any number of workers and after a resume.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

import keras
import numpy as np
import xxhash
from keras import ops

from depthflow.recipe import Recipe

Tensor = keras.KerasTensor

HUE_SHARE = 0.1
"""Of colour_jitter: the largest turn of the hue, in colour circles."""
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
"""NTSC 1953: brightness and two colour axes, in whose plane a rotation turns the hue."""
BLUR_RADIUS_PX = 2


class Batch(NamedTuple):
    """What an augmentation changes.

    Attributes:
        rgb: (B, H, W, 3) float32, 0 to 255; it is rounded and cut to these when all augmentations are done.
        log_depth: (B, H, W) float, natural log of metres; 0 where invalid.
        valid_mask: (B, H, W) bool.
    """

    rgb: Tensor
    log_depth: Tensor
    valid_mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for a sample, and what that makes of a batch.

    Attributes:
        draw: from the amount and (n, columns) float64, uniform in [0, 1), to as many values, which must leave the
            sample as it is where they are 0. What is uniform depends on name, seed, epoch and sample id alone.
        apply: a batch with (B, columns) float32 of these values.
        columns: how many.
    """

    draw: Callable[[float, np.ndarray], np.ndarray]
    apply: Callable[[Batch, Tensor], Batch]
    columns: int = 1


def with_gamma(batch: Batch, exponent: Tensor) -> Batch:
    """rgb to the power 2^exponent, of values in [0, 1]. Source: Godard et al. 2017, arXiv:1609.03677, section 4.

    Args:
        batch: to change.
        exponent: (B, 1) float32; an image whose exponent is 0 is returned to the last bit.
    """
    power = 2 ** exponent[:, :, None, None]
    curved = 255 * (ops.maximum(batch.rgb, 0) / 255) ** power
    return batch._replace(rgb=ops.where(ops.equal(power, 1), batch.rgb, curved))


AUGMENTATIONS: dict[str, Augmentation] = {
    "gamma": Augmentation(
        draw=lambda amount, uniform: amount * (2 * uniform - 1),
        apply=with_gamma,
    ),
}


class Column(IntEnum):
    """Columns of the draws."""

    FLIP = 0
    """1: mirrored, 0: not."""
    ZOOM = 1
    """Enlargement, >= 1."""
    CENTRE_Y = 2
    """Centre of the part that is enlarged, as a share of the height."""
    CENTRE_X = 3
    """As a share of the width."""
    BRIGHTNESS = 4
    """Factor."""
    CONTRAST = 5
    """Factor of the distance from the image's mean grey."""
    SATURATION = 6
    """Factor of the distance from each pixel's grey."""
    HUE = 7
    """Turn in colour circles."""
    BLUR = 8
    """0: sharp, 1: the blurred image."""


NEUTRAL = np.array([0, 1, 0.5, 0.5, 1, 1, 1, 0, 0], np.float32)
"""Leaves a sample as it is."""


def is_augmented(recipe: Recipe) -> bool:
    """Whether any draw of the recipe can change a sample."""
    ranges = recipe.horizontal_flip or recipe.max_zoom > 1 or recipe.colour_jitter > 0 or recipe.blur > 0
    return ranges or bool(recipe.augment)


def draw(recipe: Recipe, *, seed: int, epoch: int, sample_ids: Sequence[str]) -> np.ndarray:
    """What each sample's augmentation is in an epoch.

    Every sample uses the same number of random values whatever the recipe, so that switching one kind of augmentation
    on leaves the others' draws alone. Zoom is log-uniform, all else uniform.

    Args:
        recipe: the ranges.
        seed: the position's.
        epoch: from 0.
        sample_ids: n of them.

    Returns:
        (n, 9) float32, columns as in `Column`; after them those of recipe.augment, in its order.
    """
    # One value a column, and one for whether there is blur.
    uniform = _uniform(f"augmentation/{seed}/{epoch}", sample_ids, columns=len(Column) + 1)
    signed = 2 * uniform - 1
    draws = np.tile(NEUTRAL, (len(uniform), 1))
    if recipe.horizontal_flip:
        draws[:, Column.FLIP] = uniform[:, Column.FLIP] < 0.5
    draws[:, Column.ZOOM] = recipe.max_zoom ** uniform[:, Column.ZOOM]
    for centre in (Column.CENTRE_Y, Column.CENTRE_X):
        draws[:, centre] = 0.5 + 0.5 * signed[:, centre] * (1 - 1 / draws[:, Column.ZOOM])
    for factor in (Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION):
        draws[:, factor] = 1 + recipe.colour_jitter * signed[:, factor]
    draws[:, Column.HUE] = HUE_SHARE * recipe.colour_jitter * signed[:, Column.HUE]
    draws[:, Column.BLUR] = np.where(uniform[:, -1] < recipe.blur, 1 - uniform[:, Column.BLUR], 0)
    named = [_drawn(name, amount, seed=seed, epoch=epoch, sample_ids=sample_ids) for name, amount in recipe.augment]
    return np.concatenate([draws, *named], axis=1)


def _drawn(name: str, amount: float, *, seed: int, epoch: int, sample_ids: Sequence[str]) -> np.ndarray:
    """(n, columns) float32 of one of `AUGMENTATIONS`, which draws the same whatever else there is."""
    augmentation = AUGMENTATIONS[name]
    uniform = _uniform(f"augmentation/{name}/{seed}/{epoch}", sample_ids, columns=augmentation.columns)
    return augmentation.draw(amount, uniform).astype(np.float32)


def _uniform(stream: str, sample_ids: Sequence[str], *, columns: int) -> np.ndarray:
    """(n, columns) float64 in [0, 1)."""
    keys = [xxhash.xxh3_128_intdigest(f"{stream}/{sample_id}".encode()) for sample_id in sample_ids]
    return np.array([np.random.Generator(np.random.Philox(key=key)).random(columns) for key in keys]).reshape(
        -1, columns
    )


def augment(
    rgb: Tensor,
    log_depth: Tensor,
    valid_mask: Tensor,
    draws: Tensor,
    *,
    zoom_depth: Literal["focal", "keep"],
    named: Sequence[str] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch as drawn: one geometric transform for all planes, and colour and blur for the image.

    The image is interpolated, depth and mask are point-sampled at the same source pixel: no depth is a blend, none
    comes from an invalid pixel. A zoom by z shows what a pinhole camera sees from things at 1/z of their depth, or
    what a lens of z times the focal length sees from the same things (the ambiguity: Yin et al. 2023, Metric3D,
    arXiv:2307.10984).

    Args:
        rgb: (B, H, W, 3) uint8, sides of at least 2.
        log_depth: (B, H, W) float, natural log of metres; anything, NaN included, where invalid.
        valid_mask: (B, H, W) bool.
        draws: (B, D) float32, columns as in `Column`, then those of the named augmentations.
        zoom_depth: focal divides depth by the zoom; keep leaves it.
        named: of `AUGMENTATIONS`, carried out in this order, after all others.

    Returns:
        (rgb, log_depth, valid_mask) of the same shapes and dtypes. What lies outside the source's frame is invalid;
        log_depth is 0 where invalid. Neutral draws change nothing else, to the last bit.
    """
    draws = ops.cast(draws, "float32")
    columns = ops.unstack(draws[:, : len(Column)], len(Column), axis=1)
    height, width = ops.shape(rgb)[1:3]
    zoom = columns[Column.ZOOM]
    rows = _source_places(height, zoom, columns[Column.CENTRE_Y], mirrored=ops.zeros_like(zoom))
    across = _source_places(width, zoom, columns[Column.CENTRE_X], mirrored=columns[Column.FLIP])
    image = _blurred(_recoloured(_interpolated(rgb, rows, across), columns), columns[Column.BLUR])
    log_depth, valid_mask = _point_sampled(log_depth, valid_mask, rows, across)
    if zoom_depth == "focal":
        # In float64: in float32 a logarithm's last bit may depend on how many images are taken together.
        shift = ops.cast(ops.log(ops.cast(zoom, "float64")), log_depth.dtype)
        log_depth = log_depth - shift[:, None, None]
    log_depth = ops.where(valid_mask, log_depth, ops.zeros_like(log_depth))
    if named:
        image, log_depth, valid_mask = _named(Batch(image, log_depth, valid_mask), draws[:, len(Column) :], named)
    return ops.cast(ops.round(ops.clip(image, 0, 255)), "uint8"), log_depth, valid_mask


def _named(batch: Batch, draws: Tensor, names: Sequence[str]) -> Batch:
    """The batch after the named augmentations: log_depth stays 0 where invalid."""
    first = 0
    for augmentation in map(AUGMENTATIONS.__getitem__, names):
        batch = augmentation.apply(batch, draws[:, first : first + augmentation.columns])
        first += augmentation.columns
    log_depth = ops.where(batch.valid_mask, batch.log_depth, ops.zeros_like(batch.log_depth))
    return batch._replace(log_depth=log_depth)


def _source_places(size: int, zoom: Tensor, centre: Tensor, *, mirrored: Tensor) -> Tensor:
    """(B, size) float32: the place in the source, pixel centres at whole numbers, that each target pixel shows.

    Every term is exact in float32 at zoom 1 about the middle, so that the place then is the pixel itself.
    """
    from_middle = ops.arange(size, dtype="float32") + 0.5 - ops.cast(size, "float32") / 2
    step = (1 - 2 * mirrored) / zoom
    return (centre * ops.cast(size, "float32"))[:, None] + from_middle * step[:, None] - 0.5


def _interpolated(rgb: Tensor, rows: Tensor, across: Tensor) -> Tensor:
    """(B, H, W, 3) float32: bilinear between source pixels; beyond the frame its edge goes on."""
    # Columns of the transposed image are contiguous: half the time of gathering single pixels.
    image = _interpolated_rows(ops.transpose(rgb, (0, 2, 1, 3)), across)
    return _interpolated_rows(ops.transpose(image, (0, 2, 1, 3)), rows)


def _interpolated_rows(image: Tensor, places: Tensor) -> Tensor:
    before = ops.floor(places)
    share = (places - before)[:, :, None, None]
    here, next_ = (ops.cast(_taken(image, _held(row, image, 1)), "float32") for row in (before, before + 1))
    return here + share * (next_ - here)


def _point_sampled(log_depth: Tensor, valid_mask: Tensor, rows: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """The planes at the nearest source pixels; False where that is beyond the frame."""
    height, width = ops.shape(valid_mask)[1:]
    row, column = ops.floor(rows + 0.5), ops.floor(across + 0.5)
    row_index, column_index = _held(row, valid_mask, 1), _held(column, valid_mask, 2)
    inside = ops.logical_and(
        ops.equal(row, ops.cast(row_index, "float32"))[:, :, None],
        ops.equal(column, ops.cast(column_index, "float32"))[:, None, :],
    )
    pixel = row_index[:, :, None] * width + column_index[:, None, :]
    log_depth, valid_mask = (
        _taken(ops.reshape(plane, (-1, height * width)), pixel) for plane in (log_depth, valid_mask)
    )
    return log_depth, ops.logical_and(valid_mask, inside)


def _held(places: Tensor, plane: Tensor, axis: int) -> Tensor:
    """Whole places as int32, those beyond the frame moved to its edge."""
    return ops.cast(ops.clip(places, 0, ops.cast(ops.shape(plane)[axis] - 1, "float32")), "int32")


def _taken(plane: Tensor, index: Tensor) -> Tensor:
    """plane[b, index[b]] for each image b: (B, N, ...) by (B, ...) int32."""
    batch, size, *rest = ops.shape(plane)
    first = ops.reshape(ops.arange(batch, dtype="int32") * size, (-1, *[1] * (len(index.shape) - 1)))
    return ops.take(ops.reshape(plane, (-1, *rest)), index + first, axis=0)


def _recoloured(image: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """Brightness, contrast, saturation and hue as one affine map of the colours of each image.

    Greys are its fixed directions: saturation and hue leave them, so contrast's mean grey passes through unchanged.
    """
    brightness, contrast, saturation, hue = columns[Column.BRIGHTNESS : Column.HUE + 1]

    def mapped() -> Tensor:
        matrix = (brightness * contrast)[:, None, None] * _colour_matrix(saturation, hue)
        mean_grey = ops.sum(ops.mean(image, axis=(1, 2)) * ops.convert_to_tensor(RGB_TO_YIQ[0], "float32"), axis=-1)
        offset = brightness * (1 - contrast) * mean_grey
        return ops.einsum("bhwc,bdc->bhwd", image, matrix) + offset[:, None, None, None]

    neutral = zip((brightness, contrast, saturation, hue), NEUTRAL[Column.BRIGHTNESS : Column.HUE + 1], strict=True)
    changed = ops.any(ops.stack([ops.not_equal(column, value) for column, value in neutral]))
    return ops.cond(changed, mapped, lambda: image)


def _colour_matrix(saturation: Tensor, hue: Tensor) -> Tensor:
    """(B, 3, 3) from RGB to RGB: in YIQ, the plane of I and Q is scaled by saturation and turned by hue."""
    angle = 2 * math.pi * hue
    cosine, sine, zero = saturation * ops.cos(angle), saturation * ops.sin(angle), ops.zeros_like(hue)
    rows = [[zero + 1, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]]
    turned = ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)
    to_yiq, from_yiq = (ops.convert_to_tensor(m, "float32") for m in (RGB_TO_YIQ, np.linalg.inv(RGB_TO_YIQ)))
    return ops.matmul(ops.matmul(from_yiq, turned), to_yiq)


def _blurred(image: Tensor, strength: Tensor) -> Tensor:
    """Blended by (B,) strength with itself under the 5 x 5 binomial kernel, continued at its edges by mirroring."""
    share = strength[:, None, None, None]
    radius = (BLUR_RADIUS_PX, BLUR_RADIUS_PX)

    def blended() -> Tensor:
        # The binomial kernel is the sum of two neighbours, four times an axis.
        total = ops.pad(image, ((0, 0), radius, radius, (0, 0)), mode="symmetric")
        for _ in range(2 * BLUR_RADIUS_PX):
            total = total[:, 1:] + total[:, :-1]
        for _ in range(2 * BLUR_RADIUS_PX):
            total = total[:, :, 1:] + total[:, :, :-1]
        return (1 - share) * image + (share / 2 ** (4 * BLUR_RADIUS_PX)) * total

    return ops.cond(ops.any(strength > 0), blended, lambda: image)
