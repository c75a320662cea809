"""The all-reduce between workers: all that training uses of tf.distribute."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from depthflow.errors import TrainingError

PACK_BYTES = 64 * 2**20
"""Gradients are reduced in packs of this size: many small collectives cost more than a few large ones."""
TEXT_BYTES = 2000
"""Longest text that a worker can send to the others."""


class WorkerGroup:
    """All workers of a run, as seen from one of them. Every worker must make the same calls in the same order.

    Reads TF_CONFIG, which `depthflow.training.backend` sets.

    Args:
        rank: This worker's number, 0 to size - 1.
    """

    def __init__(self, *, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        self.options = options
        self._sum = tf.function(self._sum_in_graph, autograph=False, reduce_retracing=True)

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the elementwise sum over all workers, float64. The shape must be the same on all of them."""
        if self.size == 1:
            return np.array(values, np.float64)
        return self._sum(tf.constant(values, tf.float64)).numpy()

    def _sum_in_graph(self, values: tf.Tensor) -> tf.Tensor:
        # The identity places the values on a device, as all_reduce requires.
        reduced = self.strategy.run(lambda v: self.all_reduce([tf.identity(v)])[0], args=(values,))
        return self.strategy.experimental_local_results(reduced)[0]

    def all_reduce(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns sums over all workers. Call it inside `strategy.run`."""
        if self.size == 1:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors, options=self.options)

    def gather(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns one row per worker, float64. The number of values must be the same on all of them."""
        rows = np.zeros((self.size, len(values)))
        rows[self.rank] = values
        return self.sum(rows)

    def gather_texts(self, text: str) -> list[str]:
        """Returns every worker's text, truncated to 2,000 bytes."""
        mine = np.zeros(TEXT_BYTES, np.uint8)
        encoded = np.frombuffer(text.encode()[:TEXT_BYTES], np.uint8)
        mine[: len(encoded)] = encoded
        return [bytes(row[row > 0]).decode(errors="ignore") for row in self.gather(mine).astype(np.uint8)]

    def agree(self, error: str) -> None:
        """Ends the run on all workers if one of them has failed.

        Args:
            error: This worker's error message; empty if it has not failed.

        Raises:
            TrainingError: with the messages of all workers that failed.
        """
        errors = [text for text in self.gather_texts(error) if text]
        if errors:
            raise TrainingError("; ".join(dict.fromkeys(errors)))

    def broadcast(self, variables: Sequence[keras.Variable]) -> None:
        """Sets the variables of every worker to worker 0's values."""
        if self.size == 1:
            return
        mine = [np.asarray(variable) for variable in variables]
        flat = np.concatenate([value.astype(np.float64).ravel() for value in mine]) * float(self.rank == 0)
        first = np.split(self.sum(flat), np.cumsum([value.size for value in mine])[:-1])
        for variable, values in zip(variables, first, strict=True):
            variable.assign(values.reshape(variable.shape).astype(variable.dtype))
