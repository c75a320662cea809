"""Times one training step of a recipe's U-Net on the device that is here, and gives its share of the device's peak.

    python benchmarks/step.py --backend tensorflow --recipe diode --batch-size 32
    python benchmarks/step.py --backend jax --recipe diode --batch-size 32 --dtype mixed_bfloat16

tensorflow takes the library's own step, augmentation included, with one worker; jax (pip install jax, or jax[cuda12])
the same network, loss and optimizer as one jitted function, without augmentation: what XLA makes of the whole.

Floating-point operations are counted from the network's graph: two for each multiplication of every convolution and
dense layer, and three times the forward pass for a step (forward, gradient by the input, gradient by the weights; the
first convolution needs no gradient by its input). Normalisation, losses and the optimizer are not counted, so the share
is a lower bound. The peak is measured by square matrix products in the step's own type; for a GPU that is known by its
name, the data sheet's is given, too. Weights are random: they cost nothing. The last line on stdout is one JSON object.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tyro

from depthflow.recipe import Recipe
from depthflow.recipes import RECIPES

DATASHEET_TFLOPS = {
    "H200": {"mixed_bfloat16": 989.0, "mixed_float16": 989.0, "float32": 494.5},
    "H100": {"mixed_bfloat16": 989.0, "mixed_float16": 989.0, "float32": 494.5},
    "A100": {"mixed_bfloat16": 312.0, "mixed_float16": 312.0, "float32": 156.0},
    "L4": {"mixed_bfloat16": 121.0, "mixed_float16": 121.0, "float32": 60.0},
}
"""NVIDIA's data sheets, SXM where there are several, dense; float32 is TF32 on tensor cores."""
MATRIX_SIDE = {"cpu": 2048, "gpu": 8192}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One training step."""

    backend: Literal["tensorflow", "jax"] = "tensorflow"
    """Keras's backend."""
    recipe: str = "diode"
    """Which recipe."""
    batch_size: int = 8
    """Images a step."""
    height: int | None = None
    """Default: the recipe's."""
    width: int | None = None
    """Default: the recipe's."""
    dtype: Literal["float32", "mixed_bfloat16", "mixed_float16"] | None = None
    """Default: the recipe's."""
    xla: bool | None = None
    """TensorFlow's step with XLA. Default: the recipe's."""
    frozen: bool = True
    """Encoder batch normalisation in inference mode, as with pre-trained weights."""
    steps: int = 10
    """Steps that are timed, one by one."""


def main(benchmark: Benchmark) -> int:
    """Prints milliseconds, images a second and the share of the peak."""
    os.environ["KERAS_BACKEND"] = benchmark.backend
    recipe = _recipe(benchmark)
    step, flops, kind, name = (_tensorflow if benchmark.backend == "tensorflow" else _jax)(recipe, benchmark)
    began = time.monotonic()
    step()
    first_s = time.monotonic() - began
    step()
    seconds = [_seconds(step) for _ in range(benchmark.steps)]
    step_s = statistics.median(seconds)
    peak = _measured_peak(benchmark.backend, recipe.dtype, kind)
    sheet = next((by[recipe.dtype] * 1e12 for key, by in DATASHEET_TFLOPS.items() if key in name), None)
    result = {
        "device": name,
        "backend": benchmark.backend,
        "dtype": recipe.dtype,
        "batch_size": benchmark.batch_size,
        "size": recipe.size,
        "first_step_s": round(first_s, 2),
        "step_ms": round(1e3 * step_s, 2),
        "slowest_ms": round(1e3 * max(seconds), 2),
        "images_per_s": round(benchmark.batch_size / step_s, 2),
        "gflop_per_step": round(flops / 1e9, 2),
        "tflop_per_s": round(flops / step_s / 1e12, 4),
        "measured_peak_tflop_per_s": round(peak / 1e12, 4),
        "share_of_measured_peak": round(flops / step_s / peak, 4),
        "share_of_datasheet_peak": round(flops / step_s / sheet, 4) if sheet else None,
    }
    for label, value in result.items():
        print(f"{label:<28}{value}")
    print(json.dumps(result))
    return 0


def _recipe(benchmark: Benchmark) -> Recipe:
    recipe = RECIPES[benchmark.recipe]()
    return replace(
        recipe,
        weights="random",  # Never loaded: the network is built blank.
        batch_norm="frozen" if benchmark.frozen else "synchronized",
        height=benchmark.height or recipe.height,
        width=benchmark.width or recipe.width,
        dtype=benchmark.dtype or recipe.dtype,
        xla=recipe.xla if benchmark.xla is None else benchmark.xla,
    )


def _seconds(step: Callable[[], None]) -> float:
    began = time.monotonic()
    step()
    return time.monotonic() - began


def _batch(recipe: Recipe, size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (size, *recipe.size)
    return {
        "rgb": generator.integers(0, 256, (*shape, 3), np.uint8),
        "log_depth": generator.normal(1.0, 0.5, shape).astype(np.float32),
        "valid_mask": generator.random(shape) < 0.8,
    }


def _network(recipe: Recipe, benchmark: Benchmark) -> tuple[Any, Any]:
    """Model and built optimizer."""
    from depthflow.models.network import build_network, encoder_variables, set_batch_norm
    from depthflow.training.optimizer import build_optimizer

    model = build_network(recipe.blank())
    set_batch_norm(model, recipe.batch_norm)
    optimizer = build_optimizer(recipe, total_steps=1000, steps_per_epoch=100, encoder=encoder_variables(model))
    optimizer.build(model.trainable_variables)
    return model, optimizer


def forward_flops(model: Any, batch_size: int) -> tuple[float, float]:
    """Floating-point operations of the forward pass, and those of the first convolution, from the layers' shapes."""
    import keras

    counts = []
    for layer in model.layers:
        if not isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2D | keras.layers.Dense):
            continue
        output: Any = layer.output
        places = np.prod(list(output.shape[1:-1]), initial=1.0)
        # A depthwise kernel is (height, width, channels, multiplier): an entry for each product at a place, too.
        counts.append(2.0 * np.prod(list(layer.weights[0].shape)) * places)
    return batch_size * float(sum(counts)), batch_size * float(counts[0])


def _step_flops(model: Any, batch_size: int) -> float:
    forward, first = forward_flops(model, batch_size)
    return 3 * forward - first


def _tensorflow(recipe: Recipe, benchmark: Benchmark) -> tuple[Callable[[], None], float, str, str]:
    from depthflow.cluster.session import WORKER_ENVIRONMENT
    from depthflow.observability.noise import TENSORFLOW_ENVIRONMENT
    from depthflow.training.trainer import tensorflow_environment

    os.environ.update(WORKER_ENVIRONMENT | TENSORFLOW_ENVIRONMENT | tensorflow_environment(recipe))
    import tensorflow as tf

    from depthflow.models.augmentation import draw
    from depthflow.training.collective import WorkerGroup
    from depthflow.training.step import StepInput, build_step

    group = WorkerGroup(rank=0, size=1)
    model, optimizer = _network(recipe, benchmark)
    traced = build_step(model=model, optimizer=optimizer, recipe=recipe, group=group)
    arrays = _batch(recipe, benchmark.batch_size)
    draws = draw(recipe, seed=0, epoch=0, sample_ids=[str(k) for k in range(benchmark.batch_size)])
    planes = [tf.constant(arrays[name]) for name in ("rgb", "log_depth", "valid_mask")]
    batch = StepInput(*planes, draws=tf.constant(draws), signals=tf.zeros(2))
    gpus = tf.config.list_physical_devices("GPU")
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"

    def timed() -> None:
        traced(batch).loss.numpy()

    return timed, _step_flops(model, benchmark.batch_size), "gpu" if gpus else "cpu", name


def _jax(recipe: Recipe, benchmark: Benchmark) -> tuple[Callable[[], None], float, str, str]:
    import jax  # pyright: ignore[reportMissingImports]

    from depthflow.models.losses import Loss

    model, optimizer = _network(recipe, benchmark)
    loss = Loss(recipe.loss, scales=recipe.supervised_scales)

    def loss_of(trainable: Any, fixed: Any, batch: Any) -> Any:
        outputs, fixed = model.stateless_call(trainable, fixed, batch["rgb"], training=True)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        sums = loss.sums(
            [output[..., 0] for output in outputs],
            log_depth=batch["log_depth"],
            valid_mask=batch["valid_mask"],
            rgb=batch["rgb"],
        )
        return loss.value(sums, loss.counts(batch["valid_mask"])), fixed

    @jax.jit
    def step(trainable: Any, fixed: Any, state: Any, batch: Any) -> Any:
        (value, fixed), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, fixed, batch)
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        return trainable, fixed, state, value

    batch = {name: jax.numpy.asarray(value) for name, value in _batch(recipe, benchmark.batch_size).items()}
    held = {
        "state": (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
            [variable.value for variable in optimizer.variables],
        )
    }

    def timed() -> None:
        *state, value = step(*held["state"], batch)
        held["state"] = tuple(state)
        value.block_until_ready()

    device = jax.devices()[0]
    kind = "gpu" if device.platform in ("gpu", "cuda") else "cpu"
    return timed, _step_flops(model, benchmark.batch_size), kind, device.device_kind if kind == "gpu" else "CPU"


def _measured_peak(backend: str, dtype: str, kind: str) -> float:
    """Operations a second of a large square matrix product in the step's arithmetic: the best of ten."""
    side = MATRIX_SIDE[kind]
    arithmetic = dtype.removeprefix("mixed_")
    if backend == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        a = jax.numpy.ones((side, side), arithmetic)
        product = jax.jit(jax.numpy.matmul)

        def run() -> None:
            product(a, a).block_until_ready()
    else:
        import tensorflow as tf

        b = tf.ones((side, side), arithmetic)

        def run() -> None:
            tf.linalg.matmul(b, b)[0, 0].numpy()

    run()
    return 2.0 * side**3 / min(_seconds(run) for _ in range(10))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark, description=__doc__)))
