"""What training minimises: depth labels, the other image of a stereo pair, or the neighbours of a video's frame.

Each objective is, as the losses are, the sum over k of weight_k * sums_k / max(counts_k, 1). Sums and counts are
additive over images, and so over workers, and counts do not depend on predictions. An image without depth adds nothing
to what is learned from labels. Of views, every pixel of every image counts: what a prediction moves out of a view's
frame is not left out of a mean, which would reward it.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import keras
from keras import ops

from depthflow.models.losses import Loss, weighted_mean
from depthflow.models.photometric import Reprojection, consistency, over_views, reprojection, smoothness
from depthflow.models.scales import at_scale
from depthflow.models.views import Views, swapped

Tensor = keras.KerasTensor

CONSISTENCY_WEIGHT = 1.0


class ObjectiveInputs(NamedTuple):
    """A batch after augmentation.

    Attributes:
        rgb: (B, H, W, 3) uint8.
        log_depth: (B, H, W) float, natural log of metres; any value where invalid.
        valid_mask: (B, H, W) bool; all False for a frame without depth.
        views: Views, if the objective needs them.
    """

    rgb: Tensor
    log_depth: Tensor
    valid_mask: Tensor
    views: Views | None = None


class Outputs(NamedTuple):
    """What the network predicts for a batch.

    Attributes:
        predictions: One per scale, finest first, (B, H / 2^s, W / 2^s) float, log-depth of the frames.
        partner_predictions: Likewise of the frames' first views, if the objective needs them.
        poses: (B, V, 4, 4) float from `depthflow.models.views.learned_poses`, in place of those of the views.
    """

    predictions: Sequence[Tensor]
    partner_predictions: Sequence[Tensor] | None = None
    poses: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """The options of objectives, fields of a recipe.

    Attributes:
        loss: Loss terms of supervised, each with its weight.
        scales: Number of predictions.
        smoothness: Weight of the smoothness at the finest scale, halved at each further one.
        auto_mask: Whether video leaves out pixels that look no worse without any warp.
        min_reprojection: Whether video takes the best view per pixel; otherwise, the mean of the views.
        photometric_scale: full: compare images at full size, with each prediction enlarged to it. own: at each
            prediction's own size, with images averaged over areas.
        camera: canonical: predictions are depths of the canonical camera.
    """

    loss: Sequence[tuple[str, float]] = (("tutorial", 1.0),)
    scales: int = 1
    smoothness: float = 1e-3
    auto_mask: bool = True
    min_reprojection: bool = True
    photometric_scale: Literal["full", "own"] = "full"
    camera: Literal["none", "canonical"] = "none"


class Objective(Protocol):
    """One way to learn depth.

    Attributes:
        needs_views: Whether inputs must have views.
        needs_partner: Whether outputs must have partner_predictions.
        needs_poses: Whether views need poses from elsewhere where the store has none.
        weights: K floats, one per entry of sums and counts.
    """

    needs_views: bool
    needs_partner: bool
    needs_poses: bool
    weights: tuple[float, ...]

    def __init__(self, options: ObjectiveOptions) -> None: ...

    def counts(self, inputs: ObjectiveInputs) -> Tensor:
        """Returns the divisors of the sums, (K,) float32."""
        ...

    def sums(self, outputs: Outputs, inputs: ObjectiveInputs) -> Tensor:
        """Returns each entry's sum, (K,) float64 if the predictions are, else float32."""
        ...


class Supervised:
    """Loss terms on log-depth over valid pixels; see `depthflow.models.losses`."""

    needs_views = needs_partner = needs_poses = False

    def __init__(self, options: ObjectiveOptions) -> None:
        self._loss = Loss(options.loss, scales=options.scales)
        self.weights = self._loss.weights

    def counts(self, inputs: ObjectiveInputs) -> Tensor:
        """Returns the divisors of the sums."""
        return self._loss.counts(inputs.valid_mask)

    def sums(self, outputs: Outputs, inputs: ObjectiveInputs) -> Tensor:
        """Returns each entry's sum."""
        return self._loss.sums(
            outputs.predictions, log_depth=inputs.log_depth, valid_mask=inputs.valid_mask, rgb=inputs.rgb
        )


class Video:
    """Photometric error of a frame's views, warped to it by its depth and their poses, and smoothness, per scale.

    Every entry is a sum over images of a mean over pixels, and counts the images.

    Source: Godard et al. 2019 (Monodepth2), arXiv:1806.01260.
    """

    needs_views = needs_poses = True
    needs_partner = False
    _per_scale = ("photometric", "smoothness")

    def __init__(self, options: ObjectiveOptions) -> None:
        self._options = options
        self._scaling: Any = {"photometric_scale": options.photometric_scale, "camera": options.camera}
        self.weights = tuple(
            self._weight(name, scale) / options.scales for scale in range(options.scales) for name in self._per_scale
        )

    def _weight(self, name: str, scale: int) -> float:
        return {
            "photometric": 1.0,
            "smoothness": self._options.smoothness * 0.5**scale,
            "consistency": CONSISTENCY_WEIGHT,
        }[name]

    def counts(self, inputs: ObjectiveInputs) -> Tensor:
        """Returns the number of images, for each entry."""
        images = ops.sum(ops.ones_like(inputs.rgb[:, 0, 0, 0], dtype="float32"))
        return ops.tile(images[None], [len(self.weights)])

    def sums(self, outputs: Outputs, inputs: ObjectiveInputs) -> Tensor:
        """Returns each entry's sum.

        Raises:
            ValueError: if the number of predictions is not the number of scales.
        """
        if len(outputs.predictions) != self._options.scales:
            wanted = f"one per scale, {self._options.scales}"
            raise ValueError(f"predictions must be {wanted}. Received: {len(outputs.predictions)}")
        entries = [entry for scale in range(self._options.scales) for entry in self._entries(outputs, inputs, scale)]
        return ops.stack([ops.sum(entry) for entry in entries])

    def photometric(self, outputs: Outputs, inputs: ObjectiveInputs) -> Tensor:
        """Returns each image's photometric error of the finest prediction, (B,): a score where there are no labels."""
        return self._entries(outputs, inputs, 0)[0]

    def _entries(self, outputs: Outputs, inputs: ObjectiveInputs, scale: int) -> list[Tensor]:
        """Returns the entries of one scale for each image, (B,)."""
        frames = at_scale(inputs.rgb, _views(outputs, inputs), outputs.predictions[scale], **self._scaling)
        warp = reprojection(1 / frames.disparity, frames.image, frames.views)
        return [self._photometric(warp), smoothness(frames.own_disparity, frames.own_image)]

    def _photometric(self, warp: Reprojection) -> Tensor:
        per_pixel, _ = over_views(
            warp.error,
            warp.unwarped,
            min_reprojection=self._options.min_reprojection,
            auto_mask=self._options.auto_mask,
        )
        return ops.mean(per_pixel, axis=(1, 2))


class Stereo(Video):
    """As `Video` from left to right and from right to left, the mean of both, with their consistency, per scale.

    The network predicts for both images of the pair. Without an auto-mask: an unwarped partner is the pair's at
    infinite distance, and a mask that prefers it would leave depths that are far too near without a gradient.

    Source: Godard et al. 2017 (Monodepth), arXiv:1609.03677, which predicts both disparities from the left image.
    """

    needs_views = needs_partner = True
    needs_poses = False
    _per_scale = ("photometric", "smoothness", "consistency")

    def _entries(self, outputs: Outputs, inputs: ObjectiveInputs, scale: int) -> list[Tensor]:
        views = _views(outputs, inputs)
        partner, partner_views = swapped(inputs.rgb, views)
        both = Views(*(ops.concatenate(pair) for pair in zip(views, partner_views, strict=True)))
        log_depth = ops.concatenate([outputs.predictions[scale], outputs.partner_predictions[scale]])
        frames = at_scale(ops.concatenate([inputs.rgb, partner]), both, log_depth, **self._scaling)
        warp = reprojection(1 / frames.disparity, frames.image, frames.views)
        left, right = ops.split(frames.disparity, 2)
        entries = [
            ops.mean(warp.error[:, 0], axis=(1, 2)),
            smoothness(frames.own_disparity, frames.own_image),
            consistency(
                warp, ops.concatenate([right, left]), frames.views.view_cameras[:, 0], frames.views.poses[:, 0]
            ),
        ]
        return [ops.mean(ops.reshape(entry, (2, -1)), axis=0) for entry in entries]


OBJECTIVES: dict[str, type[Objective]] = {"supervised": Supervised, "stereo": Stereo, "video": Video}


class WeightedObjective:
    """Weighted sum of objectives, each of which learns from the frames that it is for.

        objective = WeightedObjective((("supervised", 1.0), ("video", 0.5)), ObjectiveOptions(scales=4))
        counts = all_reduce(objective.counts(inputs))
        this_workers_part = objective.value(objective.sums(outputs, inputs), counts)

    Args:
        weights: Names in `OBJECTIVES` and their weights.
        options: Options of all of them.

    Attributes:
        parts: The objectives by name.
        needs_views, needs_partner, needs_poses: As in `Objective`, whether any of them does.
        weights: K floats, one per entry of `sums` and `counts`, objective by objective.

    Raises:
        ValueError: if there is no objective, or one is unknown.
    """

    def __init__(self, weights: Sequence[tuple[str, float]], options: ObjectiveOptions) -> None:
        unknown = [name for name, _ in weights if name not in OBJECTIVES]
        if unknown or not weights:
            raise ValueError(f"weights takes objectives of: {', '.join(OBJECTIVES)}. Received: {tuple(weights)}")
        self.parts = {name: OBJECTIVES[name](options) for name, _ in weights}
        self.needs_views = any(part.needs_views for part in self.parts.values())
        self.needs_partner = any(part.needs_partner for part in self.parts.values())
        self.needs_poses = any(part.needs_poses for part in self.parts.values())
        self.weights = tuple(weight * entry for name, weight in weights for entry in self.parts[name].weights)

    def counts(self, inputs: ObjectiveInputs) -> Tensor:
        """Returns the divisors of the sums, (K,) float32."""
        return _joined([part.counts(inputs) for part in self.parts.values()])

    def sums(self, outputs: Outputs, inputs: ObjectiveInputs) -> Tensor:
        """Returns each entry's sum, (K,) float64 if the predictions are, else float32, not yet weighted."""
        return _joined([part.sums(outputs, inputs) for part in self.parts.values()])

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Returns the loss, a scalar: sums (K,) of a batch or of a worker's part, counts (K,) of the whole batch."""
        return weighted_mean(self.weights, sums, counts)


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    return vectors[0] if len(vectors) == 1 else ops.concatenate(vectors)


def _views(outputs: Outputs, inputs: ObjectiveInputs) -> Views:
    """Returns the views with the poses to use."""
    return inputs.views if outputs.poses is None else inputs.views._replace(poses=outputs.poses)
