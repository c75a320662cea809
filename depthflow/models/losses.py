"""Losses on log-depth as sums and counts, so that any number of workers computes the loss of the whole batch.

Data-parallel workers see masks of unequal size; the mean of each worker's mean would be another number. Here a loss is
the sum over k of weight_k * sums_k / max(counts_k, 1). Sums and counts are additive over images and so over workers,
and counts depend on valid_mask alone, so that they are known, over all workers, before the forward pass. An invalid
pixel is replaced before any arithmetic: its loss and its gradient are exactly zero, whatever lies there.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false, reportCallIssue=false

from collections.abc import Sequence

import keras
from keras import ops

from depthflow.ingredients.loss_terms import TERMS, Planes, subsampled

Tensor = keras.KerasTensor


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
        planes = [
            _planes(prediction, *(subsampled(plane, 2**scale) for plane in (log_depth, valid_mask, rgb)))
            for scale, prediction in enumerate(predictions)
        ]
        return ops.stack([value for scale in planes for term in self._terms for value in term.sums(scale)])

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


def _planes(prediction: Tensor, log_depth: Tensor, valid_mask: Tensor, rgb: Tensor) -> Planes:
    """Planes of one scale, in the prediction's precision but at least float32."""
    dtype = keras.backend.result_type(prediction.dtype, "float32")
    zero = ops.zeros((), dtype)
    prediction = ops.where(valid_mask, ops.cast(prediction, dtype), zero)
    difference = prediction - ops.where(valid_mask, ops.cast(log_depth, dtype), zero)
    return Planes(prediction=prediction, difference=difference, valid_mask=valid_mask, rgb=rgb)
