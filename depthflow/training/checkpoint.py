"""A checkpoint: everything that a run needs to go on as if it had not stopped. Plain arrays and JSON, no pickle.

It is written under a temporary name, its manifest last, and counts once it has its own name. Several are kept in one
folder, the best and the latest: after a failure the latest is taken up, whatever ended the run.
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
from depthflow.training.config import BEST_METRIC

MODEL_FILE = "model.npz"
OPTIMIZER_FILE = "optimizer.npz"
AVERAGED_FILE = "averaged.npz"
MANIFEST_FILE = "checkpoint.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Where a run stands.

    Attributes:
        position: the batch that comes next.
        steps_done: optimizer steps.
        loss_sum: of the losses of this epoch's steps so far.
        norm_sum: of the gradient norms of these steps, where they are finite.
        norm_count: how many are.
        metrics: the figures of the epoch that has just ended; empty in the middle of one, and until it is validated.
    """

    position: Position
    steps_done: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    norm_count: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the checkpoint; names sort in time."""
        return f"step-{self.steps_done:08d}"

    @property
    def awaits_validation(self) -> bool:
        """Whether it is the end of an epoch whose figures are not there yet."""
        return self.position.step == 0 and self.steps_done > 0 and not self.metrics

    @property
    def score(self) -> float:
        """What the best checkpoint has least of; infinite in the middle of an epoch or where it is not finite."""
        value = self.metrics.get(BEST_METRIC, np.inf)
        return value if np.isfinite(value) else np.inf

    def to_json(self) -> str:
        """As text."""
        return json.dumps({**asdict(self), "position": self.position.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "TrainingProgress":
        """What `to_json` made.

        Raises:
            ValueError, TypeError or KeyError: if it is none.
        """
        saved = json.loads(text)
        return cls(**{**saved, "position": Position.from_json(saved["position"])})


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The values of all variables at one moment, in memory.

    Attributes:
        model: of `model.weights`.
        optimizer: of `optimizer.variables`.
        averaged: of `model.weights` with the moving average in place; None where the recipe keeps none.
    """

    model: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    averaged: Sequence[np.ndarray] | None = None


def values_of(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copies that later steps do not touch."""
    return [np.array(variable) for variable in variables]


def write_checkpoint(root: Path, snapshot: Snapshot, progress: TrainingProgress) -> Path:
    """Writes a checkpoint into `root` under its progress's name; an earlier one of that name is replaced.

    Raises:
        TrainingError: if it cannot be written; what was written is removed.
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
    """Gives a written checkpoint the figures of the epoch that it ends.

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
    """A checkpoint's place in its run.

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
    """Restores a run: model and optimizer; or, without an optimizer, the network that the run's figures are of.

    Raises:
        TrainingError: if the checkpoint is unfinished, damaged, or of another network or optimizer.
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
    except Exception as error:  # A flipped bit in a zip's header has it raise nearly anything.
        raise _damaged(checkpoint, error) from None
    return progress


def checkpoints(root: Path) -> list[Path]:
    """The finished checkpoints of a folder, oldest first."""
    return sorted(manifest.parent for manifest in root.glob(f"step-*/{MANIFEST_FILE}"))


def latest_whole(root: Path, *, fetch: Callable[[str], object] = lambda name: None) -> Path | None:
    """The latest checkpoint whose files are all whole, or None. A damaged one is renamed, and counts no more.

    Args:
        fetch: called with a checkpoint's name before its arrays are looked at.
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
        except Exception as error:  # A flipped bit in a zip's header has it raise nearly anything.
            _log.warning("Passing over the checkpoint %s: %s", checkpoint, error)
            with suppress(OSError):
                checkpoint.rename(checkpoint.with_name(f"damaged-{checkpoint.name}"))
    return None


def best(root: Path) -> tuple[Path, TrainingProgress] | None:
    """The checkpoint with the lowest val/abs_rel, of equals the later; None if no epoch has ended with a finite one."""
    scored = [(checkpoint, read_progress(checkpoint)) for checkpoint in checkpoints(root)]
    finite = [(checkpoint, progress) for checkpoint, progress in scored if np.isfinite(progress.score)]
    return min(finite[::-1], key=lambda pair: pair[1].score) if finite else None


def prune(root: Path, *, keep: int) -> None:
    """Removes all but the `keep` best and the latest, and what is half-written.

    One without figures is worse than any with; of equals, the later is better.
    """
    there = checkpoints(root)
    newest_first = there[::-1]
    scores = {checkpoint: read_progress(checkpoint).score for checkpoint in there}
    kept = {*sorted(newest_first, key=lambda checkpoint: scores[checkpoint])[:keep], *newest_first[:1]}
    for leftover in (*(c for c in there if c not in kept), *root.glob(f"{TEMPORARY_PREFIX}*")):
        (leftover / MANIFEST_FILE).unlink(missing_ok=True)  # First: from here on it does not count.
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
