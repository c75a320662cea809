"""Times the bilinear sampler beside a plain gather of as many pixels, and the whole photometric error.

    python benchmarks/warp.py --batch-size 8 --height 128 --width 256

Positions are a few pixels off each pixel, as in training. The gather takes one pixel per position, as tf.gather does;
the sampler takes four and blends them. The last line on stdout is one JSON object; times are the best of --repeats.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One batch of images."""

    batch_size: int = 8
    """Images."""
    height: int = 128
    """Pixels."""
    width: int = 256
    """Pixels."""
    xla: bool = False
    """Compile with XLA."""
    repeats: int = 20
    """Runs of each."""


def main(benchmark: Benchmark) -> int:
    """Prints milliseconds, and the sampler's ratio to the gather."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # As in training.
    import tensorflow as tf

    from depthflow.models.photometric import photometric_error
    from depthflow.models.warp import bilinear_sample, taken

    generator = np.random.default_rng(0)
    shape = (benchmark.batch_size, benchmark.height, benchmark.width)
    image = tf.constant(generator.random((*shape, 3), np.float32))
    rows, columns = np.mgrid[: shape[1], : shape[2]] + 0.5
    x = tf.constant((columns + generator.normal(0, 3, shape)).astype(np.float32))
    y = tf.constant((rows + generator.normal(0, 1, shape)).astype(np.float32))
    pixel = np.clip(np.floor(y), 0, shape[1] - 1) * shape[2] + np.clip(np.floor(x), 0, shape[2] - 1)
    index = tf.constant(pixel.astype(np.int32))
    pixels = tf.reshape(image, (shape[0], -1, 3))

    def gradient(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((x, y))
            total = tf.reduce_sum(bilinear_sample(image, x, y)[0] ** 2)
        return tape.gradient(total, (x, y))

    def error_gradient(warped: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(warped)
            total = tf.reduce_sum(photometric_error(image, warped))
        return tape.gradient(total, warped)

    cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "gather": (lambda index: taken(pixels, index), (index,)),
        "sampler": (lambda x, y: bilinear_sample(image, x, y)[0], (x, y)),
        "sampler_and_gradient": (gradient, (x, y)),
        "photometric_and_gradient": (error_gradient, (image[:, ::-1],)),
    }
    times = {name: _best_ms(tf, benchmark, *case) for name, case in cases.items()}
    result = {f"{name}_ms": round(ms, 2) for name, ms in times.items()}
    result["sampler_ratio"] = round(times["sampler"] / times["gather"], 2)
    result["sampler_megapixels_per_s"] = round(np.prod(shape) / times["sampler"] / 1e3, 1)
    for label, value in result.items():
        print(f"{label:<28}{value}")
    print(json.dumps({"size": shape, "xla": benchmark.xla, **result}))
    return 0


def _best_ms(tf: Any, benchmark: Benchmark, function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    compiled = tf.function(function, autograph=False, jit_compile=benchmark.xla)
    compiled(*arguments)
    seconds = []
    for _ in range(benchmark.repeats):
        began = time.perf_counter()
        tf.nest.flatten(compiled(*arguments))[0][0].numpy()
        seconds.append(time.perf_counter() - began)
    return 1e3 * min(seconds)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark, description=__doc__)))
