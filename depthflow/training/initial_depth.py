"""Where training without labels begins: near the depth of most of the scene, as a plane sweep finds it.

The gradient of a photometric error reaches no further than the images are smooth, a few pixels. A network that begins
at depths whose disparities are far off finds no way to the right ones. So depth begins at the median over pixels of the
constant depth that explains each pixel best; the constant depth that explains whole images best can be three times as
far, since an error grows faster with disparities that are too large. And heads begin almost flat: with Keras's initial
weights, depths differ by a factor of ten.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from depthflow.models.network import heads, shift_log_depth
from depthflow.models.photometric import reprojection
from depthflow.models.scales import at_scale
from depthflow.models.views import Views
from depthflow.recipe import Recipe
from depthflow.store.read.reader import SplitReader
from depthflow.training.feed import views_of
from depthflow.training.learner import Learner

SWEPT_M = np.geomspace(0.3, 100.0, 24)
"""Constant depths that are tried, each 1.29 times the one before."""
SWEPT_SAMPLES = 32
LEARNED_UNIT = 0.2
"""Initial depth if poses are learned, in the unit of the translations, which begin at hundredths of it."""
FLATNESS = 0.1
"""The initial weights of new heads are multiplied by it."""


def begin_at_likely_depth(model: keras.Model, recipe: Recipe, reader: SplitReader) -> None:
    """Flattens the depth that a new network predicts, and shifts its median to a likely depth of the scene.

    Args:
        model: What `depthflow.models.network.training_network` builds; its objective needs views.
        reader: Reader of the training split, at most 32 samples of which are read.
    """
    if recipe.weights == "none" or recipe.decoder != "dpt":  # Otherwise the head may be pre-trained.
        for head in heads(model):
            head.kernel.assign(head.kernel * FLATNESS)
    predict = tf.function(Learner(model, recipe).log_depth, autograph=False, reduce_retracing=True)
    sweep = tf.function(lambda rgb, views: _errors(rgb, views, recipe), autograph=False)
    predicted, swept = [], []
    for row in np.unique(np.linspace(0, len(reader) - 1, SWEPT_SAMPLES).astype(int)):
        sample = reader.read([row])
        predicted.append(np.median(predict(tf.constant(sample.rgb))))
        if not recipe.learns_poses:
            views = tf.nest.map_structure(tf.constant, views_of(sample))
            swept.append(best_log_depths(sweep(tf.constant(sample.rgb), views).numpy()))
    likely = np.log(LEARNED_UNIT) if recipe.learns_poses else np.median(np.concatenate(swept))
    shift_log_depth(model, float(likely - np.median(predicted)))


def best_log_depths(errors: np.ndarray) -> np.ndarray:
    """Returns log-depths that explain pixels best, of the half of the pixels that tell depths apart most clearly.

    Args:
        errors: (D, P) float, photometric error of each depth of `SWEPT_M` at each pixel; infinite where a depth has
            none.
    """
    errors = np.minimum(errors, 1.0)  # The largest photometric error.
    clarity = np.median(errors, axis=0) - errors.min(axis=0)
    return np.log(SWEPT_M)[errors.argmin(axis=0)][clarity >= np.median(clarity)]


def _errors(rgb: tf.Tensor, views: Views, recipe: Recipe) -> tf.Tensor:
    """Returns (D, H * W): the least photometric error over the views of one image, at each depth that is tried."""
    rows = []
    for depth in SWEPT_M:
        log_depth = tf.fill(tf.shape(rgb)[:3], tf.constant(np.log(depth), tf.float32))
        frames = at_scale(rgb, views, log_depth, photometric_scale="full", camera=recipe.camera)
        warp = reprojection(1 / frames.disparity, frames.image, frames.views)
        error = ops.where(warp.visible, warp.error, ops.full_like(warp.error, np.inf))
        rows.append(ops.reshape(ops.min(error, axis=1), (-1,)))
    return ops.stack(rows)
