"""The terms that a recipe's loss may name, each as sums and counts: see `depthflow.models.losses`.

Sums and counts are additive over images and so over workers, and counts depend on valid_mask alone.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false, reportCallIssue=false

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthflow.ingredients.later import Later

if TYPE_CHECKING:
    import keras
    from keras import ops

    Tensor = keras.KerasTensor
else:
    ops, Tensor = Later("keras.ops"), Any

HUBER_WEIGHT = 0.1
HUBER_DELTA = 1.0
SILOG_LAMBDA = 0.85
SILOG_EPSILON = 1e-12
"""Under silog's square root, so that its slope is finite at no error; a perfect image's loss is 1e-6."""
GRADIENT_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Planes:
    """What a term sees of one scale: float32 or float64, finite where invalid.

    Attributes:
        prediction: (B, H, W) predicted log-depth; 0 where invalid.
        difference: (B, H, W) predicted less true log-depth; 0 where invalid.
        valid_mask: (B, H, W) bool.
        rgb: (B, H, W, 3) uint8.
    """

    prediction: Tensor
    difference: Tensor
    valid_mask: Tensor
    rgb: Tensor


@dataclass(frozen=True, kw_only=True)
class Term:
    """A loss term: the mean over its entries of sum / count.

    Attributes:
        help: a few words for --help.
        sums: from `Planes` to a scalar an entry; a batch's is the sum of its images'.
        counts: from valid_mask (B, H, W) to what each entry's sum is divided by, float32, additive likewise.
        entries: how many.
    """

    help: str
    sums: Callable[[Planes], list[Tensor]]
    counts: Callable[[Tensor], list[Tensor]]
    entries: int = 1


def tutorial_loss(difference: Tensor) -> Tensor:
    """Squared error + 0.1 Huber (delta 1) of each pixel: the tutorial's. Huber 1964, doi:10.1214/aoms/1177703732."""
    square = ops.square(difference)
    size = ops.abs(difference)
    huber = ops.where(size <= HUBER_DELTA, 0.5 * square, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
    return square + HUBER_WEIGHT * huber


def silog_loss(difference: Tensor, valid_mask: Tensor) -> Tensor:
    """Scale-invariant loss of each image: sqrt(mean d^2 - 0.85 mean(d)^2), over valid pixels.

    Args:
        difference: (B, H, W) float, predicted less true log-depth; 0 where invalid.
        valid_mask: (B, H, W) bool.

    Returns:
        (B,) of the dtype of difference; 0 where no pixel is valid.

    Source: Eigen et al. 2014, arXiv:1406.2283; root and lambda of BTS, Lee et al. 2019, arXiv:1907.10326, without
    its factor 10.
    """
    valid = ops.cast(valid_mask, difference.dtype)
    pixels = ops.sum(valid, axis=(1, 2))
    divisor = ops.maximum(pixels, 1)
    mean = ops.sum(difference, axis=(1, 2)) / divisor
    deviation = (difference - mean[:, None, None]) * valid
    # mean d^2 = variance + mean(d)^2: this sum has no negative part that rounding could leave under the root.
    square = ops.sum(ops.square(deviation), axis=(1, 2)) / divisor + (1 - SILOG_LAMBDA) * ops.square(mean)
    return ops.where(pixels > 0, ops.sqrt(square + SILOG_EPSILON), ops.zeros_like(square))


def gradient_sum(difference: Tensor, valid_mask: Tensor) -> Tensor:
    """Absolute differences of neighbours' errors, down and across, summed over pairs of valid pixels.

    Args:
        difference: (B, H, W) float, predicted less true log-depth; 0 where invalid.
        valid_mask: (B, H, W) bool.

    Source: Li & Snavely 2018 (MegaDepth), arXiv:1804.00607; Ranftl et al. 2020 (MiDaS), arXiv:1907.01341.
    """
    zero = ops.zeros((), difference.dtype)
    return sum(
        ops.sum(ops.where(pairs, ops.abs(steps), zero))
        for pairs, steps in zip(_valid_pairs(valid_mask), _steps(difference), strict=True)
    )


def smoothness_sum(prediction: Tensor, valid_mask: Tensor, rgb: Tensor) -> Tensor:
    """|step of log-depth| exp(-|step of the image|), down and across, summed over pairs of valid pixels.

    Args:
        prediction: (B, H, W) float log-depth; finite where invalid.
        valid_mask: (B, H, W) bool.
        rgb: (B, H, W, 3) uint8; its steps are means over the channels, of values in [0, 1].

    Source: Godard et al. 2017, arXiv:1609.03677, equation 3, on log-depth in place of disparity.
    """
    zero = ops.zeros((), prediction.dtype)
    image = ops.cast(rgb, prediction.dtype) / 255
    edges = [ops.exp(-ops.mean(ops.abs(steps), axis=-1)) for steps in _steps(image)]
    return sum(
        ops.sum(ops.where(pairs, ops.abs(steps) * edge, zero))
        for pairs, steps, edge in zip(_valid_pairs(valid_mask), _steps(prediction), edges, strict=True)
    )


def _pixels(valid_mask: Tensor) -> Tensor:
    # Not as integers: TensorFlow sums int32 on the host.
    return ops.sum(ops.cast(valid_mask, "float32"))


def _images(valid_mask: Tensor) -> Tensor:
    return _pixels(ops.any(valid_mask, axis=(1, 2)))


def _pairs(valid_mask: Tensor) -> Tensor:
    return sum(_pixels(pairs) for pairs in _valid_pairs(valid_mask))


def _valid_pairs(valid_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where a pixel and its lower, its right neighbour are both valid: (B, H - 1, W) and (B, H, W - 1)."""
    down = ops.logical_and(valid_mask[:, 1:], valid_mask[:, :-1])
    across = ops.logical_and(valid_mask[:, :, 1:], valid_mask[:, :, :-1])
    return down, across


def _steps(plane: Tensor) -> tuple[Tensor, Tensor]:
    return plane[:, 1:] - plane[:, :-1], plane[:, :, 1:] - plane[:, :, :-1]


def subsampled(plane: Tensor, step: int) -> Tensor:
    """Every step-th pixel of (B, H, W, ...), down and across."""
    return plane[:, ::step, ::step]


TERMS: dict[str, Term] = {
    "tutorial": Term(
        help="squared error + 0.1 Huber",
        sums=lambda planes: [ops.sum(tutorial_loss(planes.difference))],
        counts=lambda valid_mask: [_pixels(valid_mask)],
    ),
    "l1": Term(
        help="absolute error",
        sums=lambda planes: [ops.sum(ops.abs(planes.difference))],
        counts=lambda valid_mask: [_pixels(valid_mask)],
    ),
    "silog": Term(
        help="scale-invariant",
        sums=lambda planes: [ops.sum(silog_loss(planes.difference, planes.valid_mask))],
        counts=lambda valid_mask: [_images(valid_mask)],
    ),
    "gradient": Term(
        help="differences of neighbours at four scales",
        sums=lambda planes: [
            gradient_sum(subsampled(planes.difference, step), subsampled(planes.valid_mask, step))
            for step in GRADIENT_STEPS
        ],
        counts=lambda valid_mask: [_pairs(subsampled(valid_mask, step)) for step in GRADIENT_STEPS],
        entries=len(GRADIENT_STEPS),
    ),
    "smoothness": Term(
        help="edge-aware",
        sums=lambda planes: [smoothness_sum(planes.prediction, planes.valid_mask, planes.rgb)],
        counts=lambda valid_mask: [_pairs(valid_mask)],
    ),
}
