"""Augmentation in two halves: random draws per sample, on the host, and their application to a batch, on any device.

A draw depends only on (seed, epoch, sample id), so an epoch is the same on any number of workers and after a resume.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import xxhash
from keras import ops

from depthflow.models.colours import blurred, mean_grey, recoloured
from depthflow.models.framing import averaged, interpolated, point_sampled, source_places
from depthflow.models.views import Views, mirrored_poses, window_camera
from depthflow.recipe import Recipe

Tensor = keras.KerasTensor

HUE_FRACTION = 0.1
"""Largest turn of the hue, in colour circles, as a fraction of colour_jitter."""


class Batch(NamedTuple):
    """The batch that an augmentation changes.

    Attributes:
        rgb: (B, H, W, 3) float32, 0 to 255; clipped and rounded after all augmentations.
        log_depth: (B, H, W) float, natural log of metres; 0 where invalid.
        valid_mask: (B, H, W) bool.
    """

    rgb: Tensor
    log_depth: Tensor
    valid_mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How an augmentation is drawn for a sample and applied to a batch.

    Attributes:
        draw: Maps the amount and (n, columns) float64, uniform in [0, 1), to (n, columns) values. Zeros must leave the
            sample unchanged.
        apply: Applies (B, columns) float32 of these values to a batch.
        columns: Number of values per sample.
    """

    draw: Callable[[float, np.ndarray], np.ndarray]
    apply: Callable[[Batch, Tensor], Batch]
    columns: int = 1


def with_gamma(batch: Batch, exponent: Tensor) -> Batch:
    """Raises rgb, scaled to [0, 1], to the power 2^exponent.

    An image whose exponent, (B, 1) float32, is 0 stays the same to the last bit.

    Source: Godard et al. 2017, arXiv:1609.03677, section 4.
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

    FLIP = 0  # 1 if mirrored, else 0.
    ZOOM = 1  # Zoom factor, >= 1.
    CENTRE_Y = 2  # Centre of the enlarged part, as a fraction of the height.
    CENTRE_X = 3  # Centre of the enlarged part, as a fraction of the width.
    BRIGHTNESS = 4  # Factor of the colours.
    CONTRAST = 5  # Factor of the distance from the image's mean grey.
    SATURATION = 6  # Factor of the distance from each pixel's grey.
    HUE = 7  # Turn of the hue in colour circles.
    BLUR = 8  # Weight of the blurred image, 0 to 1.


NEUTRAL = np.array([0, 1, 0.5, 0.5, 1, 1, 1, 0, 0], np.float32)
"""Draws that leave a sample unchanged."""


def is_augmented(recipe: Recipe) -> bool:
    """Returns whether any draw of the recipe can change a sample."""
    ranges = recipe.horizontal_flip or recipe.max_zoom > 1 or recipe.colour_jitter > 0 or recipe.blur > 0
    return ranges or bool(recipe.augment)


def draw(recipe: Recipe, *, seed: int, epoch: int, sample_ids: Sequence[str]) -> np.ndarray:
    """Draws each sample's augmentation for an epoch.

    Every sample uses the same number of random values, so that enabling one kind of augmentation does not change the
    draws of the others. The zoom is log-uniform, all else uniform.

    Returns:
        (n, 9 + m) float32: the columns of `Column`, then those of recipe.augment in its order.
    """
    # One value per column, and one for whether to blur.
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
    draws[:, Column.HUE] = HUE_FRACTION * recipe.colour_jitter * signed[:, Column.HUE]
    draws[:, Column.BLUR] = np.where(uniform[:, -1] < recipe.blur, 1 - uniform[:, Column.BLUR], 0)
    named = []
    for name, amount in recipe.augment:
        uniform = _uniform(f"augmentation/{name}/{seed}/{epoch}", sample_ids, columns=AUGMENTATIONS[name].columns)
        named.append(AUGMENTATIONS[name].draw(amount, uniform))
    return np.concatenate([draws, *named], axis=1, dtype=np.float32)


def _uniform(stream: str, sample_ids: Sequence[str], *, columns: int) -> np.ndarray:
    """Returns (n, columns) float64 in [0, 1)."""
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
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Applies draws to a batch: one geometric transform for image, depth and mask, and colour and blur for the image.

    The image is interpolated, and averaged if it shrinks. Depth and mask are point-sampled at the same source pixel, so
    that no depth is a blend or comes from an invalid pixel. An image zoomed by z shows a scene at 1/z of the
    depth, or the same scene through a lens of z times the focal length (Yin et al. 2023, Metric3D, arXiv:2307.10984).

    Args:
        rgb: (B, H, W, 3) uint8, sides of at least 2.
        log_depth: (B, H, W) float, natural log of metres; any value, even NaN, where invalid.
        valid_mask: (B, H, W) bool.
        draws: (B, D) float32, the columns of `Column`, then those of the named augmentations.
        zoom_depth: focal divides depth by the zoom; keep leaves it unchanged.
        named: Names in `AUGMENTATIONS`, applied in this order after all others.
        size: Height and width of the result, neither larger than the images'. None keeps theirs.

    Returns:
        (rgb, log_depth, valid_mask) of this size and the same dtypes. Pixels from outside the source's frame are
        invalid; log_depth is 0 where invalid. Neutral draws change nothing else, to the last bit.
    """
    draws = ops.cast(draws, "float32")
    zoom, target = draws[:, Column.ZOOM], size or ops.shape(rgb)[1:3]
    image = _framed(rgb, draws, target)
    image = _coloured(image, mean_grey(image), draws)
    log_depth, valid_mask = point_sampled(log_depth, valid_mask, *_places(draws, ops.shape(rgb)[1:3], target))
    if zoom_depth == "focal":
        # In float64, since in float32 a logarithm's last bit may depend on the number of images.
        shift = ops.cast(ops.log(ops.cast(zoom, "float64")), log_depth.dtype)
        log_depth = log_depth - shift[:, None, None]
    log_depth = ops.where(valid_mask, log_depth, ops.zeros_like(log_depth))
    if named:
        image, log_depth, valid_mask = _named(Batch(image, log_depth, valid_mask), draws[:, len(Column) :], named)
    return _as_stored(image), log_depth, valid_mask


def augment_views(
    views: Views,
    rgb: Tensor,
    draws: Tensor,
    *,
    zoom_depth: Literal["focal", "keep"],
    named: Sequence[str] = (),
) -> Views:
    """Applies the draws of frames to their views: one mirroring, zoom and colours, with cameras and poses to match.

    So a frame's pixel and the pixels of its views that show the same point show it after `augment` as well. In a
    mirrored world x is negative: a pose P becomes M P M with M = diag(-1, 1, 1, 1). A zoom multiplies focal lengths.

    Args:
        views: The views before augmentation, of at least one view each.
        rgb: (B, H, W, 3) uint8, the frames before augmentation. Contrast refers to their mean grey.
        draws: (B, D) float32, as for `augment`.
        zoom_depth: focal: a zoom by z divides the depths that `augment` returns, and here translations. keep: neither.
            With a canonical camera take keep here, since there the camera's focal length tells of the zoom.
        named: As for `augment`. They must change colours only.

    Returns:
        Views of the same shapes and dtypes. Neutral draws change nothing, to the last bit; NaN stays NaN.
    """
    draws = ops.cast(draws, "float32")
    count, size = views.images.shape[1], ops.shape(rgb)[1:3]
    of_views = ops.repeat(draws, count, axis=0)
    grey = ops.repeat(mean_grey(_framed(rgb, draws, size)), count, axis=0)
    images = _framed(ops.reshape(views.images, (-1, *size, 3)), of_views, size)
    images = _coloured(images, grey, of_views)
    if named:
        blank = ops.zeros_like(images[..., 0])
        images = _named(Batch(images, blank, ops.equal(blank, 0)), of_views[:, len(Column) :], named).rgb
    zoom, mirrored = draws[:, Column.ZOOM], draws[:, Column.FLIP]
    # In float64, since in float32 a reciprocal's last bit may depend on the number of images.
    nearer = 1 / ops.cast(zoom, "float64") if zoom_depth == "focal" else None
    window: Any = {
        "size": size,
        "zoom": zoom,
        "mirrored": mirrored,
        "centre": draws[:, Column.CENTRE_Y : Column.CENTRE_X + 1],
    }
    return Views(
        images=ops.reshape(_as_stored(images), (-1, count, *size, 3)),
        camera=window_camera(views.camera[:, None], **window)[:, 0],
        view_cameras=window_camera(views.view_cameras, **window),
        poses=mirrored_poses(views.poses, mirrored=mirrored, scale=nearer),
    )


def _named(batch: Batch, draws: Tensor, names: Sequence[str]) -> Batch:
    """Applies the named augmentations; log_depth stays 0 where invalid."""
    first = 0
    for augmentation in map(AUGMENTATIONS.__getitem__, names):
        batch = augmentation.apply(batch, draws[:, first : first + augmentation.columns])
        first += augmentation.columns
    log_depth = ops.where(batch.valid_mask, batch.log_depth, ops.zeros_like(batch.log_depth))
    return batch._replace(log_depth=log_depth)


def _framed(rgb: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the mirrored and zoomed image at a size."""
    source = ops.shape(rgb)[1:3]
    times = tuple(-(-old // new) for old, new in zip(source, size, strict=True))
    points = [new * count for new, count in zip(size, times, strict=True)]
    return averaged(interpolated(rgb, *_places(draws, source, points)), times)


def _places(draws: Tensor, source: Sequence[int], points: Sequence[int]) -> list[Tensor]:
    """Returns the source positions of rows and of columns."""
    flip, zoom, centre_y, centre_x = ops.unstack(draws[:, : Column.CENTRE_X + 1], 4, axis=1)
    framing = (centre_y, ops.zeros_like(zoom)), (centre_x, flip)
    return [
        source_places(length, zoom, centre, mirrored=mirrored, points=count)
        for length, count, (centre, mirrored) in zip(source, points, framing, strict=True)
    ]


def _coloured(image: Tensor, grey: Tensor, draws: Tensor) -> Tensor:
    names = ("brightness", "contrast", "saturation", "hue")
    colours = {name: draws[:, Column[name.upper()]] for name in names}
    return blurred(recoloured(image, grey, **colours), draws[:, Column.BLUR])


def _as_stored(image: Tensor) -> Tensor:
    return ops.cast(ops.round(ops.clip(image, 0, 255)), "uint8")
