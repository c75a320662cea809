"""Checkpoints: everything that a run needs to resume as if it had not stopped. Plain arrays and JSON, no pickle.

A checkpoint is written under a temporary name, its manifest last, and counts once it is renamed. One folder keeps the
best checkpoints and the latest, from which the run resumes after any failure.
"""

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np

from depthflow.errors import StoreError, TrainingError
from depthflow.storage.durable import TEMPORARY_PREFIX, commit_file, write_durably
from depthflow.store.read.share import Position
from depthflow.training.config import BEST_METRICS

MODEL_FILE = "model.npz"
OPTIMIZER_FILE = "optimizer.npz"
AVERAGED_FILE = "averaged.npz"
MANIFEST_FILE = "checkpoint.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """A run's position and the sums of its current epoch.

    Attributes:
        position: Position of the next batch.
        steps_done: Number of optimizer steps done.
        loss_sum: Sum of the losses of this epoch's steps so far.
        norm_sum: Sum of the finite gradient norms of these steps.
        norm_count: Number of finite gradient norms.
        metrics: Metrics of the epoch that has just ended; empty within an epoch and before its validation.
    """

    position: Position
    steps_done: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    norm_count: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the checkpoint; names sort by time."""
        return f"step-{self.steps_done:08d}"

    @property
    def awaits_validation(self) -> bool:
        """Whether an epoch has ended and its metrics are still to come."""
        return self.position.step == 0 and self.steps_done > 0 and not self.metrics

    @property
    def score(self) -> float:
        """The metric that the best checkpoint minimizes; infinite within an epoch, or if it is not finite."""
        value = next((self.metrics[name] for name in BEST_METRICS if name in self.metrics), np.inf)
        return value if np.isfinite(value) else np.inf

    def to_json(self) -> str:
        """Returns the progress as JSON."""
        return json.dumps({**asdict(self), "position": self.position.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "TrainingProgress":
        """Parses what `to_json` returned.

        Raises:
            ValueError, TypeError or KeyError: if the text is anything else.
        """
        saved = json.loads(text)
        return cls(**{**saved, "position": Position.from_json(saved["position"])})


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The values of all variables at one moment, in memory.

    Attributes:
        model: Values of `model.weights`.
        optimizer: Values of `optimizer.variables`.
        averaged: Moving averages of `model.weights`; None if the recipe keeps none.
    """

    model: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    averaged: Sequence[np.ndarray] | None = None


def values_of(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Returns copies that later steps do not change."""
    return [np.array(variable) for variable in variables]


def write_checkpoint(root: Path, snapshot: Snapshot, progress: TrainingProgress) -> Path:
    """Writes a checkpoint into `root`, replacing an earlier one of the same name, and returns its path.

    Raises:
        TrainingError: if it cannot be written. Partial files are removed.
    """
    temporary, final = root / f"{TEMPORARY_PREFIX}{progress.name}", root / progress.name
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, values in (
            (MODEL_FILE, snapshot.model),
            (OPTIMIZER_FILE, snapshot.optimizer),
            (AVERAGED_FILE, snapshot.averaged),
        ):
            if values is not None:
                _save_arrays(temporary / name, values)
        write_durably(temporary / MANIFEST_FILE, progress.to_json().encode())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"The checkpoint {final} cannot be written: {error}. Free space there and run the same command with "
            "--resume: it goes on from the checkpoint before."
        ) from error
    return final


def annotate_checkpoint(root: Path, progress: TrainingProgress) -> None:
    """Adds the metrics of the epoch that a checkpoint ends to its manifest.

    Raises:
        TrainingError: if it cannot be written.
    """
    manifest = root / progress.name / MANIFEST_FILE
    try:
        write_durably(manifest, progress.to_json().encode())
    except OSError as error:
        raise TrainingError(
            f"The checkpoint {manifest.parent} cannot be written: {error}. Free space there, or check its permissions."
        ) from error


def read_progress(checkpoint: Path) -> TrainingProgress:
    """Reads a checkpoint's manifest.

    Raises:
        TrainingError: if the checkpoint is unfinished or damaged.
    """
    manifest = checkpoint / MANIFEST_FILE
    if not manifest.is_file():
        raise TrainingError(f"{checkpoint} is not a finished checkpoint: it has no {MANIFEST_FILE}. Remove it.")
    try:
        return TrainingProgress.from_json(manifest.read_text())
    except (OSError, ValueError, TypeError, KeyError, StoreError) as error:
        raise _damaged(checkpoint, error) from None


def load_checkpoint(
    checkpoint: Path, *, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None
) -> TrainingProgress:
    """Restores model and optimizer or, without an optimizer, the weights that the run's metrics were measured with.

    Raises:
        TrainingError: if the checkpoint is unfinished, damaged, or belongs to another network or optimizer.
    """
    progress = read_progress(checkpoint)
    averaged = checkpoint / AVERAGED_FILE
    network = averaged if optimizer is None and averaged.is_file() else checkpoint / MODEL_FILE
    try:
        _load_arrays(network, model.weights)
        if optimizer is not None:
            _load_arrays(checkpoint / OPTIMIZER_FILE, optimizer.variables)
    except TrainingError:
        raise
    except Exception as error:  # A flipped bit in a zip header can raise almost anything.
        raise _damaged(checkpoint, error) from None
    return progress


def checkpoints(root: Path) -> list[Path]:
    """Returns the finished checkpoints of a folder, oldest first."""
    return sorted(manifest.parent for manifest in root.glob(f"step-*/{MANIFEST_FILE}"))


def latest_whole(root: Path, *, fetch: Callable[[str], object] = lambda name: None) -> Path | None:
    """Returns the latest undamaged checkpoint, or None. A damaged one is renamed and no longer counts.

    Args:
        fetch: Called with a checkpoint's name before its arrays are read.
    """
    for checkpoint in reversed(checkpoints(root)):
        fetch(checkpoint.name)
        try:
            read_progress(checkpoint)
            for archive in checkpoint.glob("*.npz"):
                with zipfile.ZipFile(archive) as members:
                    broken = members.testzip()
                if broken:
                    raise ValueError(f"{broken} in {archive.name} has another checksum")
            return checkpoint
        except Exception as error:  # A flipped bit in a zip header can raise almost anything.
            _log.warning("Passing over the checkpoint %s: %s", checkpoint, error)
            with suppress(OSError):
                checkpoint.rename(checkpoint.with_name(f"damaged-{checkpoint.name}"))
    return None


def best(root: Path) -> tuple[Path, TrainingProgress] | None:
    """Returns the checkpoint with the lowest finite score, the later one of equals, or None."""
    scored = [(checkpoint, read_progress(checkpoint)) for checkpoint in checkpoints(root)]
    finite = [(checkpoint, progress) for checkpoint, progress in scored if np.isfinite(progress.score)]
    return min(finite[::-1], key=lambda pair: pair[1].score) if finite else None


def prune(root: Path, *, keep: int) -> None:
    """Removes partial checkpoints, and all checkpoints but the `keep` best and the latest.

    A checkpoint without metrics ranks below any with metrics; of equals, the later one is kept.
    """
    there = checkpoints(root)
    newest_first = there[::-1]
    scores = {checkpoint: read_progress(checkpoint).score for checkpoint in there}
    kept = {*sorted(newest_first, key=lambda checkpoint: scores[checkpoint])[:keep], *newest_first[:1]}
    for leftover in (*(c for c in there if c not in kept), *root.glob(f"{TEMPORARY_PREFIX}*")):
        (leftover / MANIFEST_FILE).unlink(missing_ok=True)  # First: from here on the checkpoint does not count.
        shutil.rmtree(leftover, ignore_errors=True)


def _damaged(checkpoint: Path, error: Exception) -> TrainingError:
    return TrainingError(f"The checkpoint {checkpoint} is damaged: {error}. Remove it to go on from the one before.")


def _save_arrays(path: Path, values: Sequence[np.ndarray]) -> None:
    with commit_file(path) as handle:
        np.savez(handle, **{f"{k:05d}": value for k, value in enumerate(values)})  # pyright: ignore[reportArgumentType]


def _load_arrays(path: Path, variables: Sequence[keras.Variable]) -> None:
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
