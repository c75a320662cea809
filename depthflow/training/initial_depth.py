"""Where training without labels begins: near the constant depth that explains the views best.

The gradient of a photometric error reaches no further than the images are smooth, a few pixels. A network that begins
at depths whose disparities are far off finds no way to the right ones. A plane sweep over constant depths does, and
heads that begin almost flat keep all pixels close to it: with Keras's initial weights, depths differ by a factor of 10.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from depthflow.models.network import heads, shift_log_depth
from depthflow.models.objectives import Outputs
from depthflow.recipe import Recipe
from depthflow.store.read.reader import SplitReader
from depthflow.training.feed import views_of
from depthflow.training.learner import Learner, Sample

SWEPT_M = np.geomspace(0.3, 100.0, 24)
"""Constant depths that are tried, each 1.29 times the one before."""
SWEPT_SAMPLES = 64
LEARNED_UNIT = 0.2
"""Initial depth if poses are learned, in the unit of the translations, which begin at hundredths of it."""


FLATNESS = 0.1
"""The initial weights of new heads are multiplied by it."""


def begin_at_best_depth(model: keras.Model, recipe: Recipe, reader: SplitReader) -> None:
    """Flattens the depth that a new network predicts, and shifts its median to the best constant depth.

    Args:
        model: What `depthflow.models.network.training_network` builds; its objective needs views.
        reader: Reader of the training split.
    """
    if recipe.weights == "none" or recipe.decoder != "dpt":  # Otherwise the head may be pre-trained.
        for head in heads(model):
            head.kernel.assign(head.kernel * FLATNESS)
    learner = Learner(model, recipe)
    log_depth = tf.function(learner.log_depth, autograph=False, reduce_retracing=True)
    error = tf.function(
        lambda sample, value: ops.sum(learner.photometric(_constant(sample, value, recipe), sample)),
        autograph=False,
        reduce_retracing=True,
    )
    rows = np.unique(np.linspace(0, len(reader) - 1, SWEPT_SAMPLES).astype(int))
    medians, errors = [], np.zeros(len(SWEPT_M))
    for start in range(0, len(rows), recipe.global_batch_size):
        batch = reader.read(rows[start : start + recipe.global_batch_size])
        arrays = Sample(batch.rgb, batch.log_depth, batch.valid_mask, views_of(batch))
        sample = tf.nest.map_structure(tf.constant, arrays)
        medians.extend(np.median(log_depth(sample.rgb).numpy(), axis=(1, 2)))
        if not recipe.learns_poses:
            errors += [float(error(sample, tf.constant(np.log(depth), tf.float32))) for depth in SWEPT_M]
    best = LEARNED_UNIT if recipe.learns_poses else SWEPT_M[np.argmin(errors)]
    shift_log_depth(model, float(np.log(best) - np.median(medians)))


def _constant(sample: Sample, log_depth: tf.Tensor, recipe: Recipe) -> Outputs:
    """Returns predictions of one log-depth everywhere."""
    height, width = recipe.size
    scales = [
        tf.fill((tf.shape(sample.rgb)[0], height >> scale, width >> scale), log_depth)
        for scale in range(recipe.supervised_scales)
    ]
    return Outputs(scales, scales)
