"""A probe of what training depends on: Ray Train's workers and the all-reduce between them. Imports no TensorFlow."""

import os
import tempfile
import time
import uuid
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from depthflow.errors import StoreError, TrainingError
from depthflow.storage.files import StoreFiles, open_files

TENSORS = 4
TENSOR_BYTES = 16 * 2**20
"""The tensors add up to one pack of gradients, as training reduces them."""
ROUNDS = 3


def probe_all_reduce(*, num_workers: int, use_gpu: bool, storage: str | None, timeout_s: float) -> dict[str, float]:
    """Starts workers as training does, and sums float32 tensors over them as training sums gradients.

    Args:
        num_workers: Number of workers, spread evenly over all nodes.
        use_gpu: Whether each worker has a GPU instead of a CPU.
        storage: Location that all nodes share, for Ray Train's temporary files; None on a single node.
        timeout_s: Time limit for the whole probe.

    Returns:
        workers; bytes_each, the size of each worker's tensors; seconds of the fastest round.

    Raises:
        TrainingError: if the sum is wrong, does not come in time, or the workers fail.
    """
    run = ray.remote(num_cpus=0, max_retries=0)(_run_on_workers)
    with tempfile.TemporaryDirectory() as own:
        files, folder = open_files(storage or own), f".probe-{uuid.uuid4().hex[:8]}"
        task = run.remote(num_workers, use_gpu, files, folder)
        try:
            return result_within(timeout_s, task)
        except GetTimeoutError:
            raise TrainingError(
                f"An all-reduce between {num_workers} workers did not end within {timeout_s:g} s: their "
                f"{'GPUs' if use_gpu else 'CPUs'} are taken by other work, or the nodes do not reach each other"
            ) from None
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            raise TrainingError(f"An all-reduce between {num_workers} workers failed: {_last_line(cause)}") from error
        finally:
            with suppress(StoreError):
                files.remove(folder)


def result_within(timeout_s: float, task: Any) -> Any:
    """Returns a task's result. Kills a task that exceeds the time limit, and only such a task: cancelling one that has
    just ended aborts the whole process (Ray 2.60).

    Raises:
        GetTimeoutError: if the task exceeds the time limit.
    """
    try:
        return ray.get(task, timeout=timeout_s)
    except GetTimeoutError:
        with suppress(Exception):
            ray.cancel(task, force=True)
        raise


def _run_on_workers(num_workers: int, use_gpu: bool, files: StoreFiles, folder: str) -> dict[str, float]:
    """Runs in a process of its own, so that a hung probe can be killed."""
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from depthflow.training.backend import TensorflowConfig

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "3600"  # The caller's limit is the one that counts.
    filesystem, root = files.arrow()
    trainer = DataParallelTrainer(
        _measure,
        backend_config=TensorflowConfig(),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, placement_strategy="SPREAD"),
        run_config=RunConfig(
            name="probe",
            storage_path=f"{root}/{folder}",
            storage_filesystem=filesystem,
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    measured: Any = trainer.fit().return_value
    return measured


def _measure() -> dict[str, float]:
    """Runs in every worker; the results differ only in the time."""
    import logging

    import ray.train
    import tensorflow as tf

    from depthflow.training.collective import WorkerGroup

    tf.get_logger().setLevel("ERROR")
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.train.get_context()
    group = WorkerGroup(rank=context.get_world_rank(), size=context.get_world_size())
    count = TENSOR_BYTES // 4

    @tf.function
    def reduce() -> tf.Tensor:
        def each() -> tf.Tensor:
            mine = [tf.fill([count], tf.cast(group.rank + 1, tf.float32)) for _ in range(TENSORS)]
            return tf.stack([tf.reduce_max(summed) for summed in group.all_reduce(mine)])

        return group.strategy.experimental_local_results(group.strategy.run(each))[0]

    expected = group.size * (group.size + 1) / 2
    fastest_s = float("inf")
    for _ in range(1 + ROUNDS):  # The first one compiles.
        group.sum([0.0])
        started = time.monotonic()
        found = reduce().numpy()
        fastest_s = min(fastest_s, time.monotonic() - started)
        if (found != expected).any():
            raise TrainingError(f"The all-reduce summed to {found.tolist()} instead of {expected}.")
    return {"workers": group.size, "bytes_each": TENSORS * TENSOR_BYTES, "seconds": fastest_s}


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
