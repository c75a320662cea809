"""What a recipe learns from images: their augmentation, the predictions for them, and the sums and counts of its loss.

Everything is a sum over images and a count, so any number of workers computes what one does.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalCall=false, reportGeneralTypeIssues=false

from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from depthflow.models.augmentation import augment, augment_views, is_augmented
from depthflow.models.blocks import rematerialized
from depthflow.models.network import depth_network, pose_network
from depthflow.models.objectives import ObjectiveInputs, ObjectiveOptions, Outputs, WeightedObjective
from depthflow.models.views import Views, learned_poses, view_pairs
from depthflow.recipe import Recipe
from depthflow.store.schema import KINDS


class Sample(NamedTuple):
    """Images with what is learned from them.

    Attributes:
        rgb: (b, H, W, 3) uint8.
        log_depth: (b, H, W) float32.
        valid_mask: (b, H, W) bool.
        views: Further views; empty if the objective needs none.
    """

    rgb: tf.Tensor
    log_depth: tf.Tensor
    valid_mask: tf.Tensor
    views: Views | tuple[()] = ()


class Learner:
    """A network with the objective of its recipe.

    Args:
        model: What `depthflow.models.network.training_network` builds.

    Attributes:
        objective: The recipe's objectives, weighted.
        learns_poses: Whether poses are predicted.
    """

    def __init__(self, model: keras.Model, recipe: Recipe) -> None:
        self.objective = WeightedObjective(recipe.objective, objective_options(recipe))
        self.learns_poses = recipe.learns_poses
        self._recipe, self._depth, self._pose = recipe, depth_network(model), pose_network(model)
        self._size = tuple(self._depth.inputs[0].shape[1:3])
        self._names = KINDS[recipe.views_from] if recipe.views_from else ()
        self._train = rematerialized(self._depth) if recipe.remat else partial(self._depth, training=True)

    def augmented(self, sample: Sample, draws: tf.Tensor) -> Sample:
        """Applies the draws of `depthflow.models.augmentation.draw` to images, labels and views.

        Images without views that are larger than the network's shrink to its size.
        """
        size, stored_size = self._size, tuple(sample.rgb.shape[1:3])
        if not is_augmented(self._recipe) and size == stored_size:
            return sample
        how = {"zoom_depth": self._recipe.zoom_depth, "named": [name for name, _ in self._recipe.augment]}
        images = augment(*sample[:3], draws, **how, size=size)
        if not sample.views:
            return Sample(*images)
        if self._recipe.camera == "canonical":  # Its focal length tells of the zoom.
            how["zoom_depth"] = "keep"
        return Sample(*images, augment_views(sample.views, sample.rgb, draws, **how))

    def predict(self, sample: Sample, *, training: bool) -> Outputs:
        """Returns log-depth at all scales, of a stereo pair's right image too, and the poses that are learned."""
        images, forward = sample.rgb, self._train if training else partial(self._depth, training=False)
        if self.objective.needs_partner:  # One pass, so that normalisation sees both.
            images = ops.concatenate([images, sample.views.images[:, 0]])
        predicted = forward(images)
        scales = [output[..., 0] for output in (predicted if isinstance(predicted, list | tuple) else [predicted])]
        poses = self.poses(sample.rgb, sample.views, training=training) if self.learns_poses else None
        if not self.objective.needs_partner:
            return Outputs(scales, poses=poses)
        halves = [ops.split(scale, 2) for scale in scales]
        return Outputs([left for left, _ in halves], [right for _, right in halves], poses)

    def log_depth(self, rgb: tf.Tensor) -> tf.Tensor:
        """Predicts the log-depth of images at the finest scale, (b, H, W)."""
        predicted = self._depth(rgb, training=False)
        return (predicted[0] if isinstance(predicted, list | tuple) else predicted)[..., 0]

    def poses(self, rgb: tf.Tensor, views: Views, *, training: bool = False) -> tf.Tensor:
        """Predicts the poses of the views, (b, V, 4, 4)."""
        return learned_poses(self._pose(view_pairs(rgb, views.images, self._names), training=training), self._names)

    def photometric(self, outputs: Outputs, sample: Sample) -> tf.Tensor:
        """Returns each image's photometric error at the finest scale, (b,)."""
        return self.objective.parts[self._recipe.views_from].photometric(outputs, _inputs(sample))

    def counts(self, sample: Sample) -> tf.Tensor:
        """Returns the divisors of the sums, (K,)."""
        return self.objective.counts(_inputs(sample))

    def sums(self, outputs: Outputs, sample: Sample) -> tf.Tensor:
        """Returns the sums over images, (K,)."""
        return self.objective.sums(outputs, _inputs(sample))

    def value(self, sums: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Returns the loss."""
        return self.objective.value(sums, counts)


def objective_options(recipe: Recipe) -> ObjectiveOptions:
    """Returns the fields of a recipe that its objectives depend on."""
    own: dict[str, Any] = {
        field.name: getattr(recipe, field.name) for field in fields(ObjectiveOptions) if field.name != "scales"
    }
    return ObjectiveOptions(scales=recipe.supervised_scales, **own)


def _inputs(sample: Sample) -> ObjectiveInputs:
    return ObjectiveInputs(sample.rgb, sample.log_depth, sample.valid_mask, sample.views or None)
