"""Losses on log-depth as sums and counts, so that any number of workers computes the loss of the whole batch.

Data-parallel workers see masks of unequal size; the mean of each worker's mean would be another number. Here a loss is
the sum over k of weight_k * sums_k / max(counts_k, 1). Sums and counts are additive over images and so over workers,
and counts depend on valid_mask alone, so that they are known, over all workers, before the forward pass. An invalid
pixel is replaced before any arithmetic: its loss and its gradient are exactly zero, whatever lies there.
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
SILOG_LAMBDA = 0.85
SILOG_EPSILON = 1e-12
"""Under silog's square root, so that its slope is finite at no error; a perfect image's loss is 1e-6."""
GRADIENT_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class LossInputs:
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
        sums: from `LossInputs` to a scalar an entry; a batch's is the sum of its images'.
        counts: from valid_mask (B, H, W) to what each entry's sum is divided by, float32, additive likewise.
        entries: how many.
    """

    sums: Callable[[LossInputs], list[Tensor]]
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
        sums=lambda inputs: [ops.sum(tutorial_loss(inputs.difference))],
        counts=lambda valid_mask: [_pixels(valid_mask)],
    ),
    "l1": Term(
        sums=lambda inputs: [ops.sum(ops.abs(inputs.difference))],
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

    Scale s compares prediction s with ground truth, mask and image point-sampled at every 2^s-th pixel. Its weight is
    half of the one before; the scales' weights add up to 1.

        loss = Loss((("l1", 1.0), ("gradient", 0.5)))
        counts = all_reduce(loss.counts(valid_mask))
        sums = loss.sums([prediction], log_depth=log_depth, valid_mask=valid_mask, rgb=rgb)
        this_workers_share = loss.value(sums, counts)

    Attributes:
        weights: K floats, one an entry of `sums` and `counts`: scale by scale, term by term.
    """

    def __init__(self, weights: Sequence[tuple[str, float]], *, scales: int = 1) -> None:
        """Looks the terms up.

        Args:
            weights: names in `TERMS` and their weights.
            scales: how many predictions `sums` is given.

        Raises:
            ValueError: if there is no term, one is unknown, or scales is less than 1.
        """
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
        """What the sums are divided by.

        Args:
            valid_mask: (B, H, W) bool.

        Returns:
            (K,) float32.
        """
        masks = [subsampled(valid_mask, 2**scale) for scale in range(self._scales)]
        return ops.stack([count for mask in masks for term in self._terms for count in term.counts(mask)])

    def sums(self, predictions: Sequence[Tensor], *, log_depth: Tensor, valid_mask: Tensor, rgb: Tensor) -> Tensor:
        """Each entry's sum, not yet weighted.

        Args:
            predictions: one a scale, (B, H / 2^s, W / 2^s), float, natural log of metres, finest first.
            log_depth: (B, H, W) float, natural log of metres; anything, NaN included, where invalid.
            valid_mask: (B, H, W) bool.
            rgb: (B, H, W, 3) uint8.

        Returns:
            (K,) float64 if the predictions are, else float32; 0, with zero gradients, if no pixel is valid.

        Raises:
            ValueError: if there are not as many predictions as scales.
        """
        if len(predictions) != self._scales:
            raise ValueError(f"predictions must be one a scale, {self._scales}. Received: {len(predictions)}")
        inputs = [
            _loss_inputs(prediction, *(subsampled(plane, 2**scale) for plane in (log_depth, valid_mask, rgb)))
            for scale, prediction in enumerate(predictions)
        ]
        return ops.stack([value for scale in inputs for term in self._terms for value in term.sums(scale)])

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The loss: of a batch, or the share of it whose sums these are if the counts are the batch's.

        Args:
            sums: (K,) float.
            counts: (K,) float.

        Returns:
            A scalar of the dtype of sums.
        """
        counts = ops.maximum(ops.cast(counts, sums.dtype), 1)
        return ops.sum(ops.convert_to_tensor(self.weights, dtype=sums.dtype) * sums / counts)


def _loss_inputs(prediction: Tensor, log_depth: Tensor, valid_mask: Tensor, rgb: Tensor) -> LossInputs:
    """What the terms see of one scale, in the prediction's precision but at least float32."""
    dtype = keras.backend.result_type(prediction.dtype, "float32")
    zero = ops.zeros((), dtype)
    prediction = ops.where(valid_mask, ops.cast(prediction, dtype), zero)
    difference = prediction - ops.where(valid_mask, ops.cast(log_depth, dtype), zero)
    return LossInputs(prediction=prediction, difference=difference, valid_mask=valid_mask, rgb=rgb)
