"""The all-reduce between workers, and nothing else of tf.distribute."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

PACK_BYTES = 64 * 2**20
"""Gradients are reduced in packs of this size: many small collectives cost more than a few large ones."""


class WorkerGroup:
    """All workers of a run, as one of them sees it. Needs TF_CONFIG, which Ray Train sets.

    Args:
        rank: this worker's number, 0 to size - 1.
        size: workers in all.
    """

    def __init__(self, *, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        self.options = options
        self._sum = tf.function(self._sum_in_graph, reduce_retracing=True)

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Elementwise sum over all workers, float64. Every worker must call it, with the same shape."""
        return self._sum(tf.constant(values, tf.float64)).numpy()

    def _sum_in_graph(self, values: tf.Tensor) -> tf.Tensor:
        # The identity places the values on a device, which all_reduce insists on.
        reduced = self.strategy.run(lambda v: self.all_reduce([tf.identity(v)])[0], args=(values,))
        return self.strategy.experimental_local_results(reduced)[0]

    def all_reduce(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums over all workers; to be called inside `strategy.run`."""
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors, options=self.options)

    def share_first_workers(self, model: keras.Model) -> None:
        """Gives every worker the weights of worker 0."""
        mine = model.get_weights()
        kept = 1.0 if self.rank == 0 else 0.0
        flat = np.concatenate([weight.astype(np.float64).ravel() for weight in mine]) * kept
        first = np.split(self.sum(flat), np.cumsum([weight.size for weight in mine])[:-1])
        model.set_weights([f.reshape(w.shape).astype(w.dtype) for f, w in zip(first, mine, strict=True)])
