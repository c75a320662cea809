"""The training loop beside keras.Model.fit, and two workers beside two trainings that know nothing of each other.

    python benchmarks/training.py --samples STORE [--recipe nyu-cpu] [--parts fit scaling]

STORE is a sample store, whose size the network takes. Each side is a process of its own with the library's loop, store
and feed; checkpoints go to a scratch folder. Sides take turns, and every side drops its first epoch, which compiles.

- fit: one worker with all CPUs against keras.Model.fit on the same network, loss and optimizer, with the split's
  arrays in memory, shuffled by fit;
- scaling: two workers, pinned to a CPU each, against two one-worker trainings at the same time on the same two CPUs:
  what the machine gives at most.

Prints images a second, the share of the time that was spent waiting for data and for checkpoints, and the median of the
repeats' ratios: each compares runs that followed each other, since a machine's speed drifts. The last line on stdout is
one JSON object.
"""

import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from depthflow.cluster.session import WORKER_ENVIRONMENT
from depthflow.observability.noise import TENSORFLOW_ENVIRONMENT
from depthflow.recipe import Recipe
from depthflow.recipes import RECIPES
from depthflow.store.store import open_store
from depthflow.training.trainer import tensorflow_environment

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The training loop beside keras.Model.fit, and beside itself without an all-reduce."""

    samples: str
    """Sample store; the network takes its size."""
    recipe: str = "smoke"
    """Which recipe; smoke has the tiny encoder."""
    parts: tuple[Literal["fit", "scaling"], ...] = ("fit", "scaling")
    """What to compare."""
    worker_batch_size: int = 8
    """Images a step and worker."""
    epochs: int = 4
    """Of each run; the first is not counted."""
    repeats: int = 3
    """Runs of each side, in turn."""
    weights: str = "none"
    """As train.py's; they cost nothing while training."""
    batch_norm: Literal["synchronized", "frozen"] = "synchronized"
    """As train.py's; frozen needs --weights."""
    decoder_filters: tuple[int, ...] | None = None
    """As train.py's. Default: the recipe's."""
    all_reduce_dtype: Literal["full", "bfloat16"] = "full"
    """As train.py's."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One process of a comparison.

    Attributes:
        recipe: its global batch is that of its own group.
        samples: the store.
        cpus: those it is pinned to, a thread each.
        cluster: addresses of all workers of its group.
        rank: its number in the group.
        with_fit: keras.Model.fit instead of the loop.
    """

    recipe: Recipe
    samples: str
    cpus: tuple[int, ...]
    cluster: tuple[str, ...] = ()
    rank: int = 0
    with_fit: bool = False


def main(benchmark: Benchmark) -> int:
    """Prints the figures of every part."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    result: dict[str, Any] = {}
    for part in benchmark.parts:
        sides = {"fit": _fit_sides, "scaling": _scaling_sides}[part](benchmark, cpus)
        runs: dict[str, list[Figures]] = {name: [] for name in sides}
        for _ in range(benchmark.repeats):
            for name, processes in sides.items():
                runs[name].append(_together(processes))
                print(f"{part}: {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        result[part] = {name: _medians(figures) for name, figures in runs.items()}
        ratios = [ours["images_per_s"] / theirs["images_per_s"] for ours, theirs in zip(*runs.values(), strict=True)]
        result[part]["ratio"] = statistics.median(ratios)
        print(f"{part}: {' / '.join(sides)}: {result[part]['ratio']:.2f}, the median of", *(f"{r:.2f}" for r in ratios))
    print(json.dumps(result))
    return 0


def _recipe(benchmark: Benchmark, *, workers: int) -> Recipe:
    recipe = RECIPES[benchmark.recipe]()
    store = open_store(benchmark.samples)
    return replace(
        recipe,
        height=store.height,
        width=store.width,
        decoder_filters=benchmark.decoder_filters or recipe.decoder_filters,
        all_reduce_dtype=benchmark.all_reduce_dtype,
        weights=benchmark.weights,
        batch_norm=benchmark.batch_norm,
        epochs=benchmark.epochs,
        frozen_encoder_epochs=0,
        global_batch_size=benchmark.worker_batch_size * workers,
    )


def _fit_sides(benchmark: Benchmark, cpus: tuple[int, ...]) -> dict[str, list[Side]]:
    """Without augmentation, which fit has none of."""
    recipe = replace(_recipe(benchmark, workers=1), horizontal_flip=False, max_zoom=1.0, colour_jitter=0.0, blur=0.0)
    side = Side(recipe=recipe, samples=benchmark.samples, cpus=cpus)
    return {"loop": [side], "fit": [replace(side, with_fit=True)]}


def _scaling_sides(benchmark: Benchmark, cpus: tuple[int, ...]) -> dict[str, list[Side]]:
    def side(workers: int, cpu: int) -> Side:
        return Side(recipe=_recipe(benchmark, workers=workers), samples=benchmark.samples, cpus=(cpu,))

    cluster = tuple(f"localhost:{port}" for port in _free_ports(2))
    group = [replace(side(2, cpu), cluster=cluster, rank=rank) for rank, cpu in enumerate(cpus[:2])]
    return {"two workers": group, "two trainings": [side(1, cpu) for cpu in cpus[:2]]}


def _together(sides: Sequence[Side]) -> Figures:
    """Runs the processes at the same time; images a second of all, the worst of the other figures."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(sides)) as pool, context.Manager() as manager:
        ready = manager.Barrier(len(sides))
        figures = pool.starmap(_run, [(side, ready) for side in sides], chunksize=1)
    rates = [each.pop("images_per_s") for each in figures]
    total = rates[0] if sides[0].cluster else sum(rates)
    return {"images_per_s": total, **{name: max(each[name] for each in figures) for name in figures[0]}}


def _run(side: Side, ready: Any) -> Figures:
    os.sched_setaffinity(0, side.cpus)
    os.environ.update(
        WORKER_ENVIRONMENT | TENSORFLOW_ENVIRONMENT | tensorflow_environment(side.recipe), CUDA_VISIBLE_DEVICES=""
    )
    if side.cluster:
        task = {"type": "worker", "index": side.rank}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": side.cluster}, "task": task})
    return _fit(side, ready) if side.with_fit else _loop(side, ready)


class _Recorder:
    """Takes what the loop would send to MLflow."""

    def __init__(self) -> None:
        self.epochs: list[Figures] = []

    def metrics(self, values: Figures, *, step: int) -> None:
        self.epochs.append(values)

    def series(self, name: str, values: Sequence[float], *, first_step: int) -> None:
        pass


def _loop(side: Side, ready: Any) -> Figures:
    from depthflow.store.read.epoch import batch_sizes
    from depthflow.store.read.reader import SplitReader
    from depthflow.training.collective import WorkerGroup
    from depthflow.training.config import TrainJob
    from depthflow.training.kept_checkpoints import KeptCheckpoints
    from depthflow.training.loop import TrainingLoop
    from depthflow.training.observers import RunRecorder
    from depthflow.training.saver import CheckpointSaver
    from depthflow.training.train_state import TrainState
    from depthflow.training.validation import Validator
    from depthflow.training.worker import configure_process

    configure_process(len(side.cpus), seed=0, xla=side.recipe.xla)
    group = WorkerGroup(rank=side.rank, size=max(1, len(side.cluster)))
    store = open_store(side.samples)
    reader = SplitReader(store, "train")
    steps_per_epoch = len(batch_sizes(len(reader), global_batch_size=side.recipe.global_batch_size))
    train_state = TrainState(side.recipe, steps_per_epoch=steps_per_epoch, group=group, checkpoint=None)
    group.broadcast(train_state.model.weights)
    recorder: Any = _Recorder()
    ready.wait()
    with tempfile.TemporaryDirectory() as folder:
        saver = CheckpointSaver(KeptCheckpoints(Path(folder)), keep=1)
        TrainingLoop(
            train_state,
            TrainJob(samples=side.samples, storage=folder),
            reader=reader,
            validator=Validator(train_state.model, SplitReader(store, "val"), group, max_batch_size=8),
            observers=[RunRecorder(saver, recorder)] if side.rank == 0 else [],
            draining=lambda: False,
        ).run()
    if side.rank:
        return {"images_per_s": 0.0, "data_wait_fraction": 0.0, "checkpoint_pause_fraction": 0.0}
    names = ("images_per_s", "data_wait_fraction", "checkpoint_pause_fraction")
    return _medians([{name: epoch[f"perf/{name}"] for name in names} for epoch in recorder.epochs[1:]])


def _fit(side: Side, ready: Any) -> Figures:
    import time

    import keras
    import numpy as np
    import tensorflow as tf

    from depthflow.models.losses import Loss
    from depthflow.models.network import build_network, encoder_variables, set_batch_norm
    from depthflow.store.read.reader import SplitReader
    from depthflow.training.optimizer import build_optimizer

    tf.config.threading.set_intra_op_parallelism_threads(len(side.cpus))
    tf.config.threading.set_inter_op_parallelism_threads(1)
    recipe = side.recipe
    reader = SplitReader(open_store(side.samples), "train")
    samples = reader.read(np.arange(len(reader)))
    truth = np.stack([samples.log_depth, samples.valid_mask.astype(np.float32)], axis=-1)
    steps = -(-len(reader) // recipe.global_batch_size)
    model = build_network(recipe)
    set_batch_norm(model, recipe.batch_norm)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = False
    loss = Loss(recipe.loss)

    def masked(y_true: Any, y_pred: Any) -> Any:
        valid = y_true[..., 1] > 0
        grey: Any = tf.zeros((tf.shape(y_true)[0], 1, 1, 3), tf.uint8)
        sums = loss.sums([y_pred[..., 0]], log_depth=y_true[..., 0], valid_mask=valid, rgb=grey)
        return loss.value(sums, loss.counts(valid))

    class Clock(keras.callbacks.Callback):
        """Seconds of each epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds.append(time.monotonic() - self.began)

    optimizer = build_optimizer(
        recipe, total_steps=recipe.epochs * steps, steps_per_epoch=steps, encoder=encoder_variables(model)
    )
    model.compile(optimizer=optimizer, loss=masked, jit_compile=False)  # pyright: ignore[reportArgumentType]
    clock = Clock()
    ready.wait()
    passes: Any = {"batch_size": recipe.global_batch_size, "epochs": recipe.epochs, "verbose": 0}
    model.fit(samples.rgb, truth, callbacks=[clock], **passes)
    return {
        "images_per_s": len(reader) / statistics.median(clock.seconds[1:]),
        "data_wait_fraction": 0.0,
        "checkpoint_pause_fraction": 0.0,
    }


def _medians(figures: Sequence[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in figures) for name in figures[0]}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark, description=__doc__)))
