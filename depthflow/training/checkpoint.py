"""A checkpoint: everything that a run needs to go on as if it had not stopped. Plain arrays and JSON, no pickle."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from depthflow.errors import TrainingError

MODEL_FILE = "model.npz"
OPTIMIZER_FILE = "optimizer.npz"
MANIFEST_FILE = "checkpoint.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        epochs_done: whole epochs.
        steps_done: optimizer steps.
        seed: the recipe's, which together with `epochs_done` says what comes next.
    """

    epochs_done: int
    steps_done: int
    seed: int


def save_checkpoint(
    folder: Path, *, model: keras.Model, optimizer: keras.optimizers.Optimizer, progress: Progress
) -> None:
    """Writes a checkpoint; its manifest comes last, and without it the folder does not count."""
    _save_arrays(folder / MODEL_FILE, model.weights)
    _save_arrays(folder / OPTIMIZER_FILE, optimizer.variables)
    (folder / MANIFEST_FILE).write_text(json.dumps(vars(progress)))


def load_checkpoint(
    folder: Path, *, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None
) -> Progress:
    """Restores model and, if given, optimizer.

    Raises:
        TrainingError: if the checkpoint is unfinished or belongs to another network or optimizer.
    """
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        raise TrainingError(f"{folder} is not a finished checkpoint: it has no {MANIFEST_FILE}.")
    try:
        progress = Progress(**json.loads(manifest.read_text()))
        _load_arrays(folder / MODEL_FILE, model.weights)
        if optimizer is not None:
            _load_arrays(folder / OPTIMIZER_FILE, optimizer.variables)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"The checkpoint {folder} is damaged: {error}. Remove it to go on from the one before."
        ) from None
    return progress


def _save_arrays(path: Path, variables: list[keras.Variable]) -> None:
    arrays = {f"{k:05d}": np.asarray(variable) for k, variable in enumerate(variables)}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


def _load_arrays(path: Path, variables: list[keras.Variable]) -> None:
    with np.load(path, allow_pickle=False) as saved:
        if len(saved.files) != len(variables):
            raise TrainingError(f"{path} holds {len(saved.files)} arrays where the recipe has {len(variables)}.")
        for name, variable in zip(sorted(saved.files), variables, strict=True):
            if saved[name].shape != tuple(variable.shape):
                raise TrainingError(
                    f"{path} is of another network: {variable.path} has shape {tuple(variable.shape)}, "
                    f"the checkpoint {saved[name].shape}."
                )
            variable.assign(saved[name])
