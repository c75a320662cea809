"""Settings of a training process from before TensorFlow does anything, so each test runs a process of its own."""

import subprocess
import sys

import pytest

MAX_POOLING = """
import sys, numpy as np, tensorflow as tf
from depthflow.training.worker import configure_process
configure_process(1, seed=0, xla=sys.argv[1] == "xla")

@tf.function(jit_compile=sys.argv[1] == "xla")
def gradient(image):
    with tf.GradientTape() as tape:
        tape.watch(image)
        pooled = tf.reduce_sum(tf.nn.max_pool2d(image, 2, 2, "SAME"))
    return tape.gradient(pooled, image)

image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
print(gradient(tf.constant(image)).numpy().ravel().astype(int).tolist())
"""


@pytest.mark.parametrize("compiled", ["xla", "plain"])
def test_max_pooling_has_a_gradient(compiled):
    """As ResNet50 needs. XLA has none if operations must be deterministic."""
    done = subprocess.run([sys.executable, "-c", MAX_POOLING, compiled], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str([0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1])
