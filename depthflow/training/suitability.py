"""Whether a recipe can be trained on a store: checked before anything starts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa

from depthflow.errors import StoreError
from depthflow.parts import stride_px
from depthflow.recipe import Recipe
from depthflow.store.read.epoch import draws_by_weight
from depthflow.store.store import SampleStore


def sized(recipe: Recipe, store: SampleStore) -> Recipe:
    """Returns the recipe with a size, having checked, before anything starts, that it can be trained on the store.

    Raises:
        StoreError: if a split is missing, no network takes this size, it is larger than the store's or, with views,
            smaller, the recipe needs the cameras of all samples and some are unknown, it weighs data sets that are not
            there, or has an objective that the store has no views, poses or depth for.
    """
    for split in ("train", "val"):
        _check_cameras(recipe, store, split)
    _check_objective(recipe, store)
    if recipe.dataset_weights:
        sizes = Counter(store.split_index("train")["dataset"].to_pylist())
        draws_by_weight(sizes, dict(recipe.dataset_weights))
    size = store.height, store.width
    wanted = recipe.height or store.height, recipe.width or store.width
    stride = stride_px(recipe.encoder)
    is_larger = any(side > stored for side, stored in zip(wanted, size, strict=True))
    differs = is_larger or (recipe.views_from is not None and wanted != size)
    if differs or any(side % stride for side in wanted):
        height, width = (max(1, round(side / stride)) * stride for side in wanted)
        raise StoreError(
            f"The store {store.files.root} holds samples of {size[0]} x {size[1]}, and the recipe {recipe.name} trains "
            + (f"at {wanted[0]} x {wanted[1]}. " if differs else f"at multiples of {stride}. ")
            + f"Write a store for it with preprocess.py --height {height} --width {width}, or pass a --height and "
            f"--width in multiples of {stride} that are "
            + (
                "the store's, since views do not shrink."
                if recipe.views_from
                else "no larger than the store's, to which images are then shrunk."
            )
        )
    return replace(recipe, height=wanted[0], width=wanted[1])


def _check_cameras(recipe: Recipe, store: SampleStore, split: str) -> None:
    rows = store.split_index(split)
    unknown = int(np.isnan(store.relative_focals(rows, assume_fov_deg=recipe.assume_fov_deg)).sum())
    if recipe.camera == "canonical" and unknown:
        raise StoreError(
            f"--camera canonical needs the camera of every sample, and {unknown} of {rows.num_rows} in {split} of "
            f"{store.files.root} have none. Write the store with a camera.json beside its source, pass "
            "--assume-fov-deg, or take --camera none."
        )


def _check_objective(recipe: Recipe, store: SampleStore) -> None:
    root, kind = store.files.root, recipe.views_from
    if kind is not None and store.kind != kind:
        raise StoreError(
            f"--objective {kind} needs a store of kind {kind}, and {root} is of kind {store.kind}. Write one with "
            f"preprocess.py --kind {kind}" + (f", or take --objective {store.kind}." if store.views else ".")
        )
    for flag, needs_depth in (
        ("--objective supervised", "supervised" in recipe.objectives),
        ("--scale-from median", recipe.scale_from == "median"),
    ):
        if needs_depth and store.views and not store.has_depth("train"):
            raise StoreError(
                f"{flag} needs depth, and no training sample of {root} has any. Write the store from frames of which "
                "some have depth, "
                + ("or take --scale-from velocity." if "median" in flag else "or take --objective stereo or video.")
            )
    if kind == "stereo" or recipe.poses == "given":
        for split in ("train", "val"):
            _check_poses(recipe, store, split)
    if recipe.scale_from == "velocity" and not len(measurable(store, "velocity")):
        raise StoreError(
            f"--scale-from velocity needs the distances between cameras, and no training sample of {root} has poses. "
            "Write the store from frames with poses, take --scale-from median if some have depth, or leave it out: the "
            "model then predicts depth up to a factor."
        )


def _check_poses(recipe: Recipe, store: SampleStore, split: str) -> None:
    rows = store.split_index(split)
    unknown = int((~np.all([_posed(rows, view) for view in store.views], axis=0)).sum())
    if not unknown:
        return
    needs, advice = "--poses given needs the pose of every view", "from frames with poses, or take --poses learned"
    if recipe.views_from == "stereo":
        needs, advice = "--objective stereo needs the baseline of every pair", "with baseline_m in its frame table"
    raise StoreError(
        f"{needs}, and {unknown} of {rows.num_rows} samples in {split} of {store.files.root} have none. Write the "
        f"store {advice}."
    )


def measurable(store: SampleStore, scale_from: str) -> np.ndarray:
    """Returns the row numbers of the training samples that tell the unit of depth: with depth, or with known poses."""
    rows = store.split_index("train")
    known = _labelled(rows) if scale_from == "median" else np.all([_posed(rows, view) for view in store.views], axis=0)
    return np.flatnonzero(known)


def _labelled(rows: pa.Table) -> np.ndarray:
    """Returns which rows of an index have depth: (n,) bool."""
    return rows["valid_fraction"].to_numpy() > 0


def _posed(rows: pa.Table, view: str) -> np.ndarray:
    """Returns which rows of an index know the pose of a view: (n,) bool."""
    return rows[f"{view}_pose"].is_valid().to_numpy()
