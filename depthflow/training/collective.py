"""The all-reduce between workers, and nothing else of tf.distribute."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from depthflow.errors import TrainingError

PACK_BYTES = 64 * 2**20
"""Gradients are reduced in packs of this size: many small collectives cost more than a few large ones."""
TEXT_BYTES = 2000
"""What a worker can say to the others at once."""


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
        self._sum = tf.function(self._sum_in_graph, autograph=False, reduce_retracing=True)

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Elementwise sum over all workers, float64. Every worker must call it, with the same shape."""
        if self.size == 1:
            return np.array(values, np.float64)
        return self._sum(tf.constant(values, tf.float64)).numpy()

    def _sum_in_graph(self, values: tf.Tensor) -> tf.Tensor:
        # The identity places the values on a device, which all_reduce insists on.
        reduced = self.strategy.run(lambda v: self.all_reduce([tf.identity(v)])[0], args=(values,))
        return self.strategy.experimental_local_results(reduced)[0]

    def all_reduce(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums over all workers; to be called inside `strategy.run`."""
        if self.size == 1:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors, options=self.options)

    def gather(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Every worker's values, one row each, float64. Every worker must call it, with as many values."""
        rows = np.zeros((self.size, len(values)))
        rows[self.rank] = values
        return self.sum(rows)

    def gather_texts(self, text: str) -> list[str]:
        """Every worker's text, cut to 2,000 bytes. Every worker must call it."""
        mine = np.zeros(TEXT_BYTES, np.uint8)
        said = np.frombuffer(text.encode()[:TEXT_BYTES], np.uint8)
        mine[: len(said)] = said
        return [bytes(row[row > 0]).decode(errors="ignore") for row in self.gather(mine).astype(np.uint8)]

    def agree(self, error: str) -> None:
        """Ends the run on all workers if one of them cannot go on. Every worker must call it.

        Args:
            error: why this one cannot; empty if it can.

        Raises:
            TrainingError: with what the workers said that cannot.
        """
        said = [text for text in self.gather_texts(error) if text]
        if said:
            raise TrainingError("; ".join(dict.fromkeys(said)))

    def share_first_workers(self, variables: Sequence[keras.Variable]) -> None:
        """Gives every worker the values that worker 0 has."""
        if self.size == 1:
            return
        mine = [np.asarray(variable) for variable in variables]
        kept = 1.0 if self.rank == 0 else 0.0
        flat = np.concatenate([value.astype(np.float64).ravel() for value in mine]) * kept
        first = np.split(self.sum(flat), np.cumsum([value.size for value in mine])[:-1])
        for variable, values in zip(variables, first, strict=True):
            variable.assign(values.reshape(variable.shape).astype(variable.dtype))
