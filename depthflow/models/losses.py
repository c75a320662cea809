"""Losses on log-depth as sums and counts, so that any number of workers computes the loss of the whole batch.

Data-parallel workers see masks of unequal size, so the mean of their means is not the mean over the batch. Here a loss
is the sum over k of weight_k * sums_k / max(counts_k, 1). Sums and counts are additive over images, and so over
workers. Counts depend only on valid_mask, so their totals are known before the forward pass. Invalid pixels are
replaced before any arithmetic: their loss and their gradient are exactly zero, whatever value they have.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false, reportCallIssue=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
from keras import ops

Tensor = keras.KerasTensor

HUBER_WEIGHT = 0.1
HUBER_DELTA = 1.0
BERHU_FRACTION = 0.2
SILOG_LAMBDA = 0.85
SILOG_EPSILON = 1e-12
"""Added under silog's square root, so that its gradient is finite at zero error. A perfect image's loss is 1e-6."""
GRADIENT_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The inputs of a term at one scale, in float32 or float64.

    Attributes:
        prediction: (B, H, W) predicted log-depth; 0 where invalid.
        difference: (B, H, W) predicted minus true log-depth; 0 where invalid.
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
        sums: Maps `LossInputs` to one scalar per entry, additive over images.
        counts: Maps valid_mask (B, H, W) to the divisor of each entry's sum, float32, additive over images.
        entries: Number of entries.
    """

    sums: Callable[[LossInputs], list[Tensor]]
    counts: Callable[[Tensor], list[Tensor]]
    entries: int = 1


def tutorial_loss(difference: Tensor) -> Tensor:
    """Squared error + 0.1 Huber (delta 1) per pixel, as in the tutorial. Huber 1964, doi:10.1214/aoms/1177703732."""
    square = ops.square(difference)
    size = ops.abs(difference)
    huber = ops.where(size <= HUBER_DELTA, 0.5 * square, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
    return square + HUBER_WEIGHT * huber


def berhu_loss(difference: Tensor) -> Tensor:
    """Reverse Huber loss per pixel: |d| up to c, and (d^2 + c^2) / (2c) above it.

    c is a fifth of the largest |d| of the image and a constant to the gradient. In the paper c is of the whole batch,
    which a worker does not see before the backward pass; of one image, N workers compute what one computes.

    Args:
        difference: (B, H, W) float, predicted minus true log-depth; 0 where invalid.

    Returns:
        (B, H, W) of the dtype of difference; 0 where invalid.

    Source: Laina et al. 2016, arXiv:1606.00373, section 3.3.
    """
    size = ops.abs(difference)
    threshold = ops.stop_gradient(BERHU_FRACTION * ops.max(size, axis=(1, 2), keepdims=True))
    divisor = ops.where(threshold > 0, 2 * threshold, ops.ones_like(threshold))
    return ops.where(size <= threshold, size, (ops.square(size) + ops.square(threshold)) / divisor)


def silog_loss(difference: Tensor, valid_mask: Tensor) -> Tensor:
    """Scale-invariant loss per image: sqrt(mean d^2 - 0.85 mean(d)^2) over valid pixels.

    Args:
        difference: (B, H, W) float, predicted minus true log-depth; 0 where invalid.
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
    # mean d^2 = variance + mean(d)^2: rounding cannot make this sum negative.
    square = ops.sum(ops.square(deviation), axis=(1, 2)) / divisor + (1 - SILOG_LAMBDA) * ops.square(mean)
    return ops.where(pixels > 0, ops.sqrt(square + SILOG_EPSILON), ops.zeros_like(square))


def gradient_sum(difference: Tensor, valid_mask: Tensor) -> Tensor:
    """Sum of |step of the error| over pairs of valid neighbours, down and across.

    Args:
        difference: (B, H, W) float, predicted minus true log-depth; 0 where invalid.
        valid_mask: (B, H, W) bool.

    Source: Li & Snavely 2018 (MegaDepth), arXiv:1804.00607; Ranftl et al. 2020 (MiDaS), arXiv:1907.01341.
    """
    zero = ops.zeros((), difference.dtype)
    return sum(
        ops.sum(ops.where(pairs, ops.abs(steps), zero))
        for pairs, steps in zip(_valid_pairs(valid_mask), _steps(difference), strict=True)
    )


def smoothness_sum(prediction: Tensor, valid_mask: Tensor, rgb: Tensor) -> Tensor:
    """Sum of |step of log-depth| exp(-|step of the image|) over pairs of valid neighbours, down and across.

    Args:
        prediction: (B, H, W) float log-depth; finite where invalid.
        valid_mask: (B, H, W) bool.
        rgb: (B, H, W, 3) uint8; a step is the mean over the channels, of values in [0, 1].

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
    # As floats, since TensorFlow sums int32 on the host.
    return ops.sum(ops.cast(valid_mask, "float32"))


def _images(valid_mask: Tensor) -> Tensor:
    return _pixels(ops.any(valid_mask, axis=(1, 2)))


def _pairs(valid_mask: Tensor) -> Tensor:
    return sum(_pixels(pairs) for pairs in _valid_pairs(valid_mask))


def _valid_pairs(valid_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where a pixel and its lower or right neighbour are both valid: (B, H - 1, W) and (B, H, W - 1)."""
    down = ops.logical_and(valid_mask[:, 1:], valid_mask[:, :-1])
    across = ops.logical_and(valid_mask[:, :, 1:], valid_mask[:, :, :-1])
    return down, across


def _steps(plane: Tensor) -> tuple[Tensor, Tensor]:
    return plane[:, 1:] - plane[:, :-1], plane[:, :, 1:] - plane[:, :, :-1]


def subsampled(plane: Tensor, step: int) -> Tensor:
    """Returns every step-th pixel of (B, H, W, ...), down and across."""
    return plane[:, ::step, ::step]


TERMS: dict[str, Term] = {
    "tutorial": Term(
        sums=lambda inputs: [ops.sum(tutorial_loss(inputs.difference))],
        counts=lambda valid_mask: [_pixels(valid_mask)],
    ),
    "l1": Term(
        sums=lambda inputs: [ops.sum(ops.abs(inputs.difference))],
        counts=lambda valid_mask: [_pixels(valid_mask)],
    ),
    "berhu": Term(
        sums=lambda inputs: [ops.sum(berhu_loss(inputs.difference))],
        counts=lambda valid_mask: [_pixels(valid_mask)],
    ),
    "silog": Term(
        sums=lambda inputs: [ops.sum(silog_loss(inputs.difference, inputs.valid_mask))],
        counts=lambda valid_mask: [_images(valid_mask)],
    ),
    "gradient": Term(
        sums=lambda inputs: [
            gradient_sum(subsampled(inputs.difference, step), subsampled(inputs.valid_mask, step))
            for step in GRADIENT_STEPS
        ],
        counts=lambda valid_mask: [_pairs(subsampled(valid_mask, step)) for step in GRADIENT_STEPS],
        entries=len(GRADIENT_STEPS),
    ),
    "smoothness": Term(
        sums=lambda inputs: [smoothness_sum(inputs.prediction, inputs.valid_mask, inputs.rgb)],
        counts=lambda valid_mask: [_pairs(valid_mask)],
    ),
}


class Loss:
    """Weighted sum of terms on one or more scales.

    Scale s compares prediction s with ground truth, mask and image, point-sampled at every 2^s-th pixel. Each scale has
    half the weight of the one before; the weights of all scales add up to 1.

        loss = Loss((("l1", 1.0), ("gradient", 0.5)))
        counts = all_reduce(loss.counts(valid_mask))
        sums = loss.sums([prediction], log_depth=log_depth, valid_mask=valid_mask, rgb=rgb)
        this_workers_part = loss.value(sums, counts)

    Args:
        weights: Names in `TERMS` and their weights.
        scales: Number of predictions.

    Attributes:
        weights: K floats, one per entry of `sums` and `counts`: scale by scale, term by term.

    Raises:
        ValueError: if there is no term, one is unknown, or scales is less than 1.
    """

    def __init__(self, weights: Sequence[tuple[str, float]], *, scales: int = 1) -> None:
        unknown = [name for name, _ in weights if name not in TERMS]
        if unknown or not weights:
            raise ValueError(f"weights takes terms of: {', '.join(TERMS)}. Received: {tuple(weights)}")
        if scales < 1:
            raise ValueError(f"scales must be at least 1. Received: {scales}")
        self._terms = [TERMS[name] for name, _ in weights]
        self._scales = scales
        total = sum(0.5**scale for scale in range(scales))
        self.weights = tuple(
            0.5**scale / total * weight / TERMS[name].entries
            for scale in range(scales)
            for name, weight in weights
            for _ in range(TERMS[name].entries)
        )

    def counts(self, valid_mask: Tensor) -> Tensor:
        """Returns the divisors of the sums, (K,) float32, given valid_mask (B, H, W) bool."""
        masks = [subsampled(valid_mask, 2**scale) for scale in range(self._scales)]
        return ops.stack([count for mask in masks for term in self._terms for count in term.counts(mask)])

    def sums(self, predictions: Sequence[Tensor], *, log_depth: Tensor, valid_mask: Tensor, rgb: Tensor) -> Tensor:
        """Returns each entry's sum, not yet weighted.

        Args:
            predictions: One per scale, finest first, (B, H / 2^s, W / 2^s) float, natural log of metres.
            log_depth: (B, H, W) float, natural log of metres; any value, even NaN, where invalid.
            valid_mask: (B, H, W) bool.
            rgb: (B, H, W, 3) uint8.

        Returns:
            (K,) float64 if the predictions are, else float32. 0, with zero gradients, if no pixel is valid.

        Raises:
            ValueError: if the number of predictions is not the number of scales.
        """
        if len(predictions) != self._scales:
            raise ValueError(f"predictions must be one per scale, {self._scales}. Received: {len(predictions)}")
        inputs = [
            _loss_inputs(prediction, *(subsampled(plane, 2**scale) for plane in (log_depth, valid_mask, rgb)))
            for scale, prediction in enumerate(predictions)
        ]
        return ops.stack([value for scale in inputs for term in self._terms for value in term.sums(scale)])

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Returns the loss, a scalar of the dtype of sums.

        Args:
            sums: (K,) float, of a batch or of one worker's part of it.
            counts: (K,) float, of the whole batch.
        """
        return weighted_mean(self.weights, sums, counts)


def weighted_mean(weights: Sequence[float], sums: Tensor, counts: Tensor) -> Tensor:
    """Returns the sum over k of weight_k * sums_k / max(counts_k, 1), a scalar of the dtype of sums (K,)."""
    counts = ops.maximum(ops.cast(counts, sums.dtype), 1)
    return ops.sum(ops.convert_to_tensor(weights, dtype=sums.dtype) * sums / counts)


def _loss_inputs(prediction: Tensor, log_depth: Tensor, valid_mask: Tensor, rgb: Tensor) -> LossInputs:
    """Returns the terms' inputs at one scale, in the prediction's precision but at least float32."""
    dtype = keras.backend.result_type(prediction.dtype, "float32")
    zero = ops.zeros((), dtype)
    prediction = ops.where(valid_mask, ops.cast(prediction, dtype), zero)
    difference = prediction - ops.where(valid_mask, ops.cast(log_depth, dtype), zero)
    return LossInputs(prediction=prediction, difference=difference, valid_mask=valid_mask, rgb=rgb)
