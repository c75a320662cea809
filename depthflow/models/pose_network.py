"""The pose network, which predicts the motion of the camera between two frames of a video."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import keras
from keras import layers

from depthflow.recipe import Recipe

POSE_PREFIX = "pose_"
PAIR = "pair"
"""Name of the network's input."""
FILTERS = (16, 32, 64, 128, 256, 256, 256)
KERNELS = (7, 5, 3, 3, 3, 3, 3)
OUTPUT_SCALE = 0.01
"""Rotations and translations between frames are small, and so the first predictions are close to no motion."""
MEAN, DEVIATION = 0.45, 0.225
"""Of images in [0, 1]."""


def build_pose_network(recipe: Recipe) -> keras.Model:
    """Builds the pose network from layers that Keras ships.

    Returns:
        Functional model from a pair of images (B, H, W, 6) uint8, the earlier one first, to (B, 6) float32 (float64 if
        that is the dtype): axis-angle in radians and translation of the motion that takes points of the earlier camera
        to the later one. See `depthflow.models.views.view_pairs` and `learned_poses`.

    Source: the convolutions of Zhou et al. 2017, arXiv:1704.07813; input and scale of Godard et al. 2019,
    arXiv:1806.01260.
    """
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        pair = keras.Input((*recipe.size, 6), dtype="uint8", name=PAIR)
        x = layers.Rescaling(1 / (255 * DEVIATION), -MEAN / DEVIATION, name=f"{POSE_PREFIX}scaling")(pair)
        for stage, (filters, kernel) in enumerate(zip(FILTERS, KERNELS, strict=True), start=1):
            x = layers.Conv2D(filters, kernel, strides=2, padding="same", name=f"{POSE_PREFIX}{stage}_conv")(x)
            x = layers.ReLU(name=f"{POSE_PREFIX}{stage}_relu")(x)
        dtype = keras.config.dtype_policy().variable_dtype  # float32 even under a mixed policy.
        x = layers.Conv2D(6, 1, dtype=dtype, name=f"{POSE_PREFIX}motion")(x)
        x = layers.GlobalAveragePooling2D(dtype=dtype, name=f"{POSE_PREFIX}mean")(x)
        x = layers.Rescaling(OUTPUT_SCALE, dtype=dtype, name=f"{POSE_PREFIX}vector")(x)
        return keras.Model(pair, x, name=f"{POSE_PREFIX}network")
    finally:
        keras.config.set_dtype_policy(previous)
