"""Converts a Keras network to ONNX, LiteRT or a SavedModel, around what the converters do wrong without saying so."""

import gc
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depthflow.inference.exported import RUNTIMES

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One file or folder to export: its format and, for LiteRT, whether its weights are float32, float16 or int8."""

    format: str
    weights: str = "float32"

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        weights = "" if self.weights == "float32" else f".{self.weights}"
        return f"network{weights}{RUNTIMES[self.format].ending}"


def convert(network: "keras.Model", variant: Variant, path: Path, representative: Sequence[np.ndarray] = ()) -> None:
    """Writes a network that computes in float32 as a variant."""
    import keras
    import tensorflow as tf

    batch = RUNTIMES[variant.format].batch
    rgb = keras.InputSpec(shape=(batch, *network.input_shape[1:]), dtype="uint8", name="rgb")
    options: dict[str, Any] = {"input_signature": [rgb]}
    if variant.weights != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if variant.weights == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    elif variant.weights == "int8":
        options["representative_dataset"] = lambda: ([image[None]] for image in representative)
    if variant.format == "onnx":
        _teach_tf2onnx()
        warnings.filterwarnings("ignore", message="In the future `np.object`", category=FutureWarning)  # Keras's.
    # Keras compiles grouped convolutions, as of ConvNeXt, with XLA, and tf2onnx does not convert calls of functions.
    tf.config.run_functions_eagerly(True)  # While one function is traced, those that it calls become part of it.
    try:
        _without_vector_einsums(network).export(
            str(path), format=RUNTIMES[variant.format].keras_name, verbose=False, **options
        )
    finally:
        tf.config.run_functions_eagerly(False)


@lru_cache
def _teach_tf2onnx() -> None:
    """Adds erfc to tf2onnx: TensorFlow's exact gelu calls it, and ONNX only has erf.

    Without this, tf2onnx logs an error and writes a file that onnxruntime refuses. Its log is hidden, since every file
    is opened in onnxruntime and compared. Each of its optimizers copies the graph, in cycles that Python frees so late
    that the tutorial's network took 20 GB: they are collected before the next one.
    """
    from tf2onnx import optimizer
    from tf2onnx.handler import tf_op

    def collected(make: Callable[[], Any]) -> Any:
        gc.collect()
        return make()

    optimizers: Any = optimizer._get_optimizers()
    optimizers.update({name: partial(collected, make) for name, make in optimizers.items()})

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)

    @tf_op("Erfc")
    class _Erfc:
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            [output], shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
            erf = ctx.make_node("Erf", node.input)
            one = ctx.make_const(f"{node.name}/one", np.array(1.0, np.float32))
            ctx.remove_node(node.name)
            ctx.make_node("Sub", [one.output[0], erf.output[0]], outputs=[output], shapes=shapes, dtypes=dtypes)


def in_float32(network: "keras.Model") -> "keras.Model":
    """Returns a network with the same weights that computes in float32: no runtime has every operation in another."""
    import keras

    if all(layer.compute_dtype == "float32" for layer in network.layers if layer.weights):
        return network

    def converted(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    return _copied(network, converted)


def _without_vector_einsums(network: "keras.Model") -> "keras.Model":
    """Returns a network whose products with a vector, a transformer's layer scale, are depthwise convolutions.

    LiteRT's converter takes such an einsum for a product of matrices, of a wrong shape.
    """
    import keras

    def is_scale(layer: keras.Layer) -> bool:
        labels = re.split(r",|->", layer.equation) if isinstance(layer, keras.layers.EinsumDense) else []
        return len(labels) == 3 and labels[0] == labels[2] and labels[1] == labels[0][-1:] and len(labels[0]) == 3

    def converted(layer: keras.Layer) -> keras.Layer:
        if is_scale(layer):
            return keras.layers.DepthwiseConv1D(1, use_bias=False, name=layer.name)
        return type(layer).from_config(layer.get_config())

    return _copied(network, converted) if any(map(is_scale, network.layers)) else network


def _copied(network: "keras.Model", converted: Callable[["keras.Layer"], "keras.Layer"]) -> "keras.Model":
    """Returns a network of converted layers with the same weights."""
    import keras

    copy = keras.models.clone_model(network, clone_function=converted)
    for old, new in zip(network.weights, copy.weights, strict=True):
        new.assign(old.numpy().reshape(new.shape))
    return copy
