"""One worker with batch 8 and two workers with batch 4 each do the same, through Ray, with masks of unequal size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from depthflow.config import PreprocessConfig, Recipe, TrainJob
from depthflow.recipes import smoke, tutorial
from depthflow.registry.runs import mlflow_run
from depthflow.samples.preprocess import preprocess
from depthflow.training.checkpoint import MODEL_FILE
from depthflow.training.trainer import train

STEPS = 10
VALID_FRACTIONS = (0.9, 0.5, 0.1, 0.02, 0.002)


@pytest.fixture(scope="module")
def store(shared_ray, tmp_path_factory, write_triplet):
    """80 training samples, ten steps of 8, whose valid fractions differ by a factor of 450; 3 for validation."""
    folder = tmp_path_factory.mktemp("equality")
    for k in range(8 * STEPS):
        fraction = VALID_FRACTIONS[k % len(VALID_FRACTIONS)]
        write_triplet(folder / "tree", scene=k // 10, scan=k // 5, view=k % 5, valid_fraction=fraction)
    for k in range(3):
        write_triplet(folder / "tree", split="val", scene=90, scan=900, view=k)
    config = PreprocessConfig(source=(str(folder / "tree"),), out=str(folder / "store"), height=64, width=64)
    return preprocess(config, lambda _label: lambda _done, _total: None)


@pytest.fixture
def losses_and_weights(store, tmp_path, monkeypatch):
    """Trains a recipe for ten steps with some workers."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def trained(recipe: Recipe, num_workers: int) -> tuple[np.ndarray, list[np.ndarray]]:
        job = TrainJob(
            samples=store.files.root, storage=str(tmp_path / "runs"), num_workers=num_workers, max_failures=0
        )
        with mlflow_run(experiment="equality", name=recipe.name, tags={}) as run_log:
            outcome = train(recipe, job, store=store, run_log=run_log)
        client = MlflowClient(run_log.tracking_uri, run_log.tracking_uri)
        history = client.get_metric_history(run_log.run_id, "train/step_loss")
        losses = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
        with np.load(Path(outcome.checkpoint) / MODEL_FILE) as saved:
            return np.array(losses), [saved[name] for name in sorted(saved.files)]

    return trained


def assert_weights_agree(one: list[np.ndarray], other: list[np.ndarray], tolerance: float) -> None:
    """Every weight, relative to itself where it is over 1, else absolutely."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("decoder_norm", "dtype", "tolerance"), [("group", "float32", 1e-5), ("batch", "float64", 1e-12)]
)
def test_tiny_encoder(losses_and_weights, decoder_norm, dtype, tolerance):
    """SGD with momentum, decay and clipping; batch is synchronized batch normalisation.

    Ten steps amplify rounding, the more the larger the learning rate, and most of all in Keras's synchronized variance,
    E[x^2] - E[x]^2: 1e-4 in the losses in float32, with masks as unequal as these. In float64 nothing else is left.
    """
    recipe = replace(
        smoke(),
        decoder_norm=decoder_norm,
        dtype=dtype,
        loss="tutorial",  # Smooth: l1's gradient is a sign, which rounding flips where the error is near zero.
        optimizer="sgd",
        learning_rate=2e-3,
        clip_norm=1.0,
        weight_decay=1e-3,
        epochs=1,
        global_batch_size=8,
    )
    one_losses, one_weights = losses_and_weights(recipe, 1)
    two_losses, two_weights = losses_and_weights(recipe, 2)
    assert len(one_losses) == STEPS
    assert np.ptp(one_losses) > 0.01  # It does learn, so equality says something.
    np.testing.assert_allclose(two_losses, one_losses, rtol=tolerance)
    assert_weights_agree(one_weights, two_weights, tolerance)


def test_resnet50_float64(losses_and_weights):
    """All 53 batch normalisation layers synchronized; float64, since float32 rounding is amplified by that depth."""
    recipe = replace(
        tutorial(),
        encoder_weights="none",
        decoder_filters=(64, 48, 32, 24, 16),
        height=64,
        width=64,
        dtype="float64",
        clip_depth="none",
        optimizer="sgd",
        learning_rate=1e-4,
        epochs=1,
        global_batch_size=8,
    )
    one_losses, one_weights = losses_and_weights(recipe, 1)
    two_losses, two_weights = losses_and_weights(recipe, 2)
    assert len(one_losses) == STEPS
    assert np.ptp(one_losses) > 0.01
    np.testing.assert_allclose(two_losses, one_losses, rtol=1e-9)
    assert_weights_agree(one_weights, two_weights, 1e-9)
