"""N workers with batch B / N each are one worker with batch B: through Ray, with masks of very unequal size.

One start of Ray Train a number of workers trains all cells of the grid, one after the other, each for ten steps of the
library's own parts: WorkerGroup, TrainState, training_batches. What it saw is compared here.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from depthflow.command import preserve_signal_handlers
from depthflow.parts import LOSS_TERMS
from depthflow.recipe import Recipe
from depthflow.recipes import smoke, tutorial
from depthflow.store.read.reader import DEPTH_PLANES, SplitReader
from depthflow.store.read.share import Position
from depthflow.store.store import open_store
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import preprocess
from depthflow.training.backend import TensorflowConfig
from depthflow.training.trainer import tensorflow_environment
from tests.view_trees import write_pairs, write_table, write_video

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Workers cannot import a test.

STEPS = 10
EVEN, REMAINDER = "val", "train"
"""A split of 80 samples, ten batches of 8; and one of 115, eight batches of 12 that end in one of 10 and one of 9."""
SIZES = {EVEN: 80, REMAINDER: 115}
VIEWS = ("stereo", "video")
"""Stores of 64 px with further views."""
SIDES_PX = (64, 56)
"""Of the two stores: 56 is four of a transformer's patches."""
FINE_TUNING_LOSS = (("l1", 1.0), ("silog", 1.0), ("gradient", 0.5))
VALID_FRACTIONS = (0.9, 0.5, 0.1, 0.02, 0.002)
SCALE_THAT_OVERFLOWS = 2.0**40
"""Float16 ends at 65504."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is trained alike with different numbers of workers.

    Attributes:
        recipe: for ten steps.
        split: EVEN or REMAINDER.
        losses: how far apart they may be, relatively.
        weights: the same, absolutely where a weight is under 1; None where only losses are compared.
        most_workers: the cell is left out with more.
        overflow: the gradients of worker 0, and of no other, overflow in the fifth step.
    """

    recipe: Recipe
    split: str = EVEN
    losses: float = 1e-5
    weights: float | None = 1e-5
    most_workers: int = 4
    overflow: bool = False


def grid(weights: str = "mobilenet.weights.h5") -> dict[str, Cell]:
    """All cells by name.

    Args:
        weights: a file of MobileNetV3Large's weights, for training only.
    """
    sgd = replace(
        smoke(),
        decoder_filters=(16, 16, 8),
        loss=(("tutorial", 1.0),),  # Smooth: l1's gradient is a sign, which rounding flips where the error is near 0.
        horizontal_flip=False,
        max_zoom=1.0,
        colour_jitter=0.0,
        optimizer="sgd",
        schedule="constant",
        learning_rate=2e-3,
        clip_norm=1.0,
        weight_decay=1e-3,
        epochs=1,
        global_batch_size=8,
    )
    augmented = {"horizontal_flip": True, "max_zoom": 1.5, "colour_jitter": 0.2, "blur": 0.5}
    # Five stages: with fewer the output is enlarged bilinearly, which TensorFlow does in float32 whatever the dtype.
    float64 = {"dtype": "float64", "decoder_filters": (16, 16, 16, 8, 8)}
    batch_norm = {"decoder_norm": "batch", **float64}
    adamw = replace(sgd, optimizer="adamw", schedule="cosine", ema_momentum=0.9)
    even, remainder = sgd, replace(sgd, global_batch_size=12)
    frozen = replace(even, encoder="mobilenetv3_large", weights=weights, batch_norm="frozen")
    dpt = {"encoder": "dinov2_tiny", "decoder": "dpt", "decoder_filters": (16,), "decoder_norm": "none"}
    transformer = replace(even, **dpt, height=56, width=56)
    fine_tuned = {"optimizer": "adamw", "schedule": "cosine", "learning_rate": 1e-3, "ema_momentum": 0.9}
    return {
        # Half of batch x norm x accumulation x augmentation: every two of them meet in every combination but one, since
        # accumulation changes whose statistics batch normalisation takes together.
        "group-even": Cell(recipe=even, most_workers=2),
        "group-even-accumulated": Cell(recipe=replace(even, accumulation_steps=2)),
        "group-remainder-augmented": Cell(recipe=replace(remainder, **augmented), split=REMAINDER),
        "group-remainder-augmented-accumulated": Cell(
            recipe=replace(remainder, accumulation_steps=2, **augmented), split=REMAINDER, most_workers=2
        ),
        "batch-even-augmented": Cell(
            recipe=replace(even, **batch_norm, **augmented), losses=1e-9, weights=1e-9, most_workers=2
        ),
        "batch-remainder": Cell(recipe=replace(remainder, **batch_norm), split=REMAINDER, losses=1e-9, weights=1e-9),
        "batch-float32": Cell(recipe=replace(even, decoder_norm="batch"), losses=1e-4, weights=None, most_workers=2),
        "frozen": Cell(recipe=frozen, most_workers=2),
        "frozen-accumulated": Cell(recipe=replace(frozen, accumulation_steps=2), most_workers=2),
        "none-frozen-encoder": Cell(
            recipe=replace(even, decoder_norm="none", epochs=2, frozen_encoder_epochs=1, encoder_rate=0.3),
            most_workers=2,
        ),
        "adamw-average": Cell(
            recipe=replace(adamw, global_batch_size=12, **augmented),
            split=REMAINDER,
            losses=1e-4,
            weights=None,
            most_workers=2,
        ),
        "adamw-average-float64": Cell(
            recipe=replace(adamw, global_batch_size=12, **float64, **augmented),
            split=REMAINDER,
            losses=1e-9,
            weights=1e-6,
        ),
        "every-loss": Cell(
            recipe=replace(
                adamw,
                loss=tuple(
                    (name, weight) for name, weight in zip(LOSS_TERMS, (1.0, 0.5, 0.5, 1.0, 0.5, 0.1), strict=True)
                ),
                supervised_scales=2,
            ),
            losses=1e-4,
            weights=None,
            most_workers=2,
        ),
        "float16-overflow": Cell(recipe=replace(even, dtype="mixed_float16"), overflow=True),
        "bfloat16-reduced": Cell(
            recipe=replace(even, all_reduce_dtype="bfloat16"), losses=3e-3, weights=3e-3, most_workers=2
        ),
        "transformer": Cell(recipe=transformer, most_workers=2),
        "transformer-adamw": Cell(
            recipe=replace(
                transformer, **fine_tuned, loss=FINE_TUNING_LOSS, encoder_rate=0.5, layer_decay=0.9, remat=True
            ),
            losses=1e-4,
            weights=None,
            most_workers=2,
        ),
        "transformer-low-rank": Cell(recipe=replace(transformer, lora_rank=2, accumulation_steps=2), most_workers=2),
        "transformer-frozen": Cell(
            recipe=replace(transformer, frozen_encoder_epochs=1, global_batch_size=12), split=REMAINDER, most_workers=2
        ),
        "resnet50": Cell(recipe=resnet50(), losses=1e-9, weights=1e-9, most_workers=2),
        # Photometric gradients have signs, minima and masks, which rounding flips. So colours and zooms, which are
        # computed in float32 and rounded to bytes, are left out.
        "stereo": Cell(recipe=replace(even, **by_views("stereo"), horizontal_flip=True), losses=1e-9, weights=1e-9),
        "video": Cell(recipe=replace(even, **by_views("video"), horizontal_flip=True), losses=1e-9, weights=1e-9),
        "video-given-remainder": Cell(
            recipe=replace(remainder, **{**by_views("video"), "learning_rate": 0.1}, poses="given", camera="canonical"),
            split=REMAINDER,
            losses=1e-9,
            weights=1e-9,
            most_workers=2,
        ),
        "mixed-accumulated": Cell(
            recipe=replace(
                even,
                **{**by_views("video"), "objective": (("supervised", 1.0), ("video", 0.5))},
                accumulation_steps=2,
            ),
            losses=1e-9,
            weights=1e-9,
            most_workers=2,
        ),
        "stereo-float32": Cell(
            recipe=replace(even, **{**by_views("stereo"), "dtype": "float32", "learning_rate": 1e-3}),
            losses=1e-3,
            weights=None,
        ),
    }


def by_views(objective: str) -> dict[str, Any]:
    """Learning from views at two scales; float64."""
    return {
        "objective": ((objective, 1.0),),
        "dtype": "float64",
        "decoder_filters": (16, 16, 16, 8, 8),
        "supervised_scales": 2,
        "learning_rate": 3e-2,
    }


def resnet50() -> Recipe:
    """All 53 batch normalisation layers synchronized; float64, since float32 rounding is amplified by that depth."""
    return replace(
        tutorial(),
        weights="none",
        decoder_filters=(16, 16, 8, 8, 8),
        height=64,
        width=64,
        dtype="float64",
        clip_depth="none",
        optimizer="sgd",
        learning_rate=1e-4,
        epochs=1,
        global_batch_size=8,
    )


# --- what each worker does ---


def train_cells(config: dict[str, Any]) -> None:
    """All cells, one after the other."""
    import ray.train

    from depthflow.training.collective import WorkerGroup
    from depthflow.training.worker import configure_process

    context = ray.train.get_context()
    configure_process(1, seed=0)
    group = WorkerGroup(rank=context.get_world_rank(), size=context.get_world_size())
    stores = {name: open_store(f"{config['samples']}/{name}") for name in (*map(str, SIDES_PX), *VIEWS)}
    planes = {name: (*DEPTH_PLANES, *store.views) for name, store in stores.items()}
    readers = {
        (name, split): SplitReader(stores[name], split, planes=planes[name]) for name in stores for split in SIZES
    }
    for name, cell in config["cells"].items():
        seen = train_cell(cell, readers[cell.recipe.views_from or str(cell.recipe.height), cell.split], group)
        if group.rank == 0:
            np.savez(Path(config["out"]) / f"{name}.npz", **seen)


def train_cell(cell: Cell, reader: SplitReader, group: Any) -> dict[str, np.ndarray]:
    """One cell: losses, weights, averaged weights, loss scales; and whether all workers held the same at each step."""
    import keras

    from depthflow.training.feed import training_batches
    from depthflow.training.train_state import TrainState

    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.recipe.seed + 7 * group.rank)  # So that nothing is equal by chance.
    train_state = TrainState(cell.recipe, steps_per_epoch=STEPS, group=group, checkpoint=None)
    group.broadcast(train_state.model.weights)
    encoder_before = [np.array(variable) for variable in train_state.encoder]
    batches = training_batches(
        reader, cell.recipe, position=Position(seed=1, epoch=0), rank=group.rank, num_workers=group.size
    )
    losses, checksums, scales = [], [], []
    for step, batch in enumerate(batches):
        if cell.overflow and step == STEPS // 2:
            train_state.optimizer.dynamic_scale.assign(SCALE_THAT_OVERFLOWS)
            if group.rank > 0:  # No valid pixel, no gradient: zeros do not overflow, however they are scaled.
                batch = replace(batch, valid_mask=np.zeros_like(batch.valid_mask))
        result = train_state.step(batch, np.zeros(2, np.float32))
        losses.append(float(result.loss))
        checksums.append(group.gather_texts(weights_checksum(train_state.model)))
        scales.append(group.gather([float(getattr(train_state.optimizer, "dynamic_scale", 0.0))]).ravel())
    seen = {
        "losses": np.array(losses),
        "checksums": np.array(checksums),
        "scales": np.array(scales),
        "everything": np.array(group.gather_texts(train_state.checksum())),
        "encoder_stood": np.array(
            all(np.array_equal(a, b) for a, b in zip(encoder_before, train_state.encoder, strict=True))
        ),
        **{f"weight{k:03d}": np.array(variable) for k, variable in enumerate(train_state.model.weights)},
    }
    with train_state.averaged():
        return {**seen, **{f"average{k:03d}": np.array(v) for k, v in enumerate(train_state.model.weights)}}


def weights_checksum(model: Any) -> str:
    import xxhash

    digest = xxhash.xxh3_64()
    for variable in model.weights:
        digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()


# --- what is compared ---


@pytest.fixture(scope="module")
def samples(shared_ray, tmp_path_factory, write_triplet) -> str:
    """The folder of a store for each side, whose samples' valid fractions differ by a factor of 450."""
    folder = tmp_path_factory.mktemp("equality")
    for n, (split, size) in enumerate(SIZES.items()):
        for k in range(size):
            place = {"scene": 100 * n + k // 10, "scan": 100 * n + k // 5, "view": k % 5}
            fraction = VALID_FRACTIONS[k % len(VALID_FRACTIONS)]
            write_triplet(folder / "tree", split=split, **place, valid_fraction=fraction)
    for side in SIDES_PX:
        config = PreprocessConfig(source=(str(folder / "tree"),), out=str(folder / str(side)), height=side, width=side)
        preprocess(config, lambda _label: lambda _done, _total: None)
    for kind in VIEWS:
        write_views(folder / f"{kind}-frames", kind)
        source, out = str(folder / f"{kind}-frames"), str(folder / kind)
        config = PreprocessConfig(source=(source,), out=out, kind=kind, height=64, width=64)
        preprocess(config, lambda _label: lambda _done, _total: None)
    return str(folder)


def write_views(root: Path, kind: str) -> None:
    """As many samples of each split as `SIZES`, of a wall seen by cameras that move past it; a third have depth."""
    rows = []
    for split, size in SIZES.items():
        if kind == "stereo":
            made = write_pairs(root, size, split=split)
        else:  # The first and the last frame of a scan have one neighbour.
            made = write_video(root, size + 2, scans=(f"{split}-walk",), split=split)
        rows += [row if k % 3 == 0 else {**row, "depth": ""} for k, row in enumerate(made)]
    write_table(root, rows)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory) -> str:
    """A file of random weights of MobileNetV3Large, whose batch normalisation has statistics of its own."""
    import keras

    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV3Large(include_top=False, weights=None)
    random = np.random.default_rng(0)
    for variable in network.weights:
        if variable.path.endswith(("moving_mean", "moving_variance")):
            variable.assign(random.uniform(0.2, 0.4, variable.shape))
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    network.save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def trained(samples, mobilenet, tmp_path_factory) -> Callable[[int, str], dict[str, np.ndarray]]:
    """What a number of workers saw in a cell. The first question for a number trains all its cells."""
    folders: dict[int, Path] = {}

    def start(num_workers: int) -> None:
        folder = folders[num_workers] = tmp_path_factory.mktemp(f"workers{num_workers}-")
        cells = {name: cell for name, cell in grid(mobilenet).items() if num_workers <= cell.most_workers}
        trainer = DataParallelTrainer(
            train_cells,
            backend_config=TensorflowConfig(),
            train_loop_config={"cells": cells, "samples": samples, "out": str(folder)},
            scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(
                storage_path=str(folder / "ray"),
                logging_config=LoggingConfig(log_level="ERROR"),
                worker_runtime_env={"env_vars": tensorflow_environment(smoke())},
            ),
        )
        with preserve_signal_handlers():
            trainer.fit()

    def seen(num_workers: int, name: str) -> dict[str, np.ndarray]:
        if num_workers not in folders:
            start(num_workers)
        with np.load(folders[num_workers] / f"{name}.npz") as saved:
            return dict(saved)

    return seen


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], *, prefix: str, tolerance: float) -> None:
    """Every weight, relative to itself where it is over 1, else absolutely."""
    names = [name for name in one if name.startswith(prefix)]
    assert names
    for name in names:
        np.testing.assert_allclose(other[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name)


def many_against_one():
    """Sorted by workers, so that a start of Ray Train is asked for all of its cells at once."""
    return [
        pytest.param(num_workers, name, id=f"{num_workers}-{name}")
        for num_workers in (2, 4)
        for name, cell in grid().items()
        if num_workers <= cell.most_workers and not cell.overflow
    ]


@pytest.mark.parametrize(("num_workers", "name"), many_against_one())
def test_many_workers_do_what_one_does(trained, num_workers, name):
    """SGD has momentum, decay and clipping.

    Ten steps amplify rounding, the more the larger the learning rate, and most of all in Keras's synchronized variance,
    E[x^2] - E[x]^2: 1e-4 in the losses in float32, with masks as unequal as these. In float64 nothing else is left:
    ResNet50's losses agree to 2e-16 and its weights to 4e-14.
    AdamW turns rounding noise on gradients of zero into full steps: in float32 nothing close is asked of its weights,
    and how far losses go apart depends on the processor: 1.3e-3 with AVX-512 and four workers. In float64 they agree.
    """
    cell, one, many = grid()[name], trained(1, name), trained(num_workers, name)
    assert len(one["losses"]) == STEPS
    assert np.ptp(one["losses"]) > 0.02 * np.mean(one["losses"])  # It does learn, so equality says something.
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=cell.losses)
    if cell.weights is not None:
        assert_same(one, many, prefix="weight", tolerance=cell.weights)
        assert_same(one, many, prefix="average", tolerance=cell.weights)
    assert len(set(many["everything"])) == 1, "the workers hold the same, optimizer included, to the last bit"
    assert all(len(set(row)) == 1 for row in many["checksums"])


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("name", ["group-even", "group-remainder-augmented", "frozen"])
def test_accumulated_in_two_parts_it_does_the_same(trained, num_workers, name):
    whole, parts = trained(num_workers, name), trained(num_workers, f"{name}-accumulated")
    np.testing.assert_allclose(parts["losses"], whole["losses"], rtol=1e-5)
    assert_same(whole, parts, prefix="weight", tolerance=1e-5)


@pytest.mark.parametrize("num_workers", [2, 4])
def test_averaged_weights_are_the_same(trained, num_workers):
    """As a whole: the mean distance, against how far the weights have gone from their average."""
    one, many = (trained(workers, "adamw-average-float64") for workers in (1, num_workers))
    averages = [key for key in one if key.startswith("average")]

    def distance(a, b):
        return float(np.mean([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)]))

    average, current = ([one[key.replace("average", kind)] for key in averages] for kind in ("average", "weight"))
    assert distance(average, [many[key] for key in averages]) < 1e-6 * distance(average, current)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_encoder_that_is_frozen_stands_still(trained, num_workers):
    assert trained(num_workers, "none-frozen-encoder")["encoder_stood"]
    assert trained(num_workers, "transformer-frozen")["encoder_stood"]
    assert not trained(num_workers, "group-even")["encoder_stood"]


@pytest.mark.parametrize("num_workers", [2, 4])
def test_overflow_on_one_worker_makes_all_skip_the_step(trained, num_workers):
    """The others' gradients are zeros, which are finite: were each to decide for itself, momentum would move them."""
    seen = trained(num_workers, "float16-overflow")
    checksums, scales, at = seen["checksums"], seen["scales"], STEPS // 2
    assert np.isfinite(seen["losses"]).all()
    assert all(len(set(row)) == 1 for row in checksums)
    assert (checksums[at] == checksums[at - 1]).all(), "nobody moved"
    assert (scales[at] == SCALE_THAT_OVERFLOWS / 2).all(), "all halved the scale"
    others = [k for k in range(1, STEPS) if k < at]
    assert all((checksums[k] != checksums[k - 1]).all() for k in others), "steps without overflow do move"
    assert len(set(seen["everything"])) == 1
