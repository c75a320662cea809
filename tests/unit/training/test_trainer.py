"""The driver's decisions: which stores fit a recipe, and the task of the workers. Nothing is started."""

from dataclasses import replace
from typing import cast

import pytest
import tyro

from depthflow.errors import StoreError, TrainingError
from depthflow.models.canonical_camera import ModelCamera
from depthflow.parts import stride_px
from depthflow.placement import TrainingPlan
from depthflow.recipes import RECIPES, recipe_choice, smoke
from depthflow.registry.runs import RunLog
from depthflow.training.config import TrainJob
from depthflow.training.job import JobFolder
from depthflow.training.job_run import model_camera
from depthflow.training.trainer import (
    absolute_weights,
    best_outcome,
    check_batches,
    sized,
    worker_task,
)
from tests.stores import write_index

# --- the store ---

ROWS = [{"sample_id": split, "split": split, "scene_type": "indoors"} for split in ("train", "val")]


def write_store(root, counts: dict[str, int]):
    """Writes a store without planes: only its index and manifest."""
    rows = [
        {"sample_id": f"{split}{k}", "split": split, "scene_type": "indoors"}
        for split, count in counts.items()
        for k in range(count)
    ]
    return write_index(root, rows, height=64, width=64)


def test_a_fitting_store_passes(tmp_path):
    assert sized(smoke(), write_store(tmp_path, {"train": 20, "val": 1})) == smoke()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_a_size_takes_the_stores(tmp_path, name):
    recipe = replace(RECIPES[name](), height=None, width=None, camera="none")
    height, width = (n * stride_px(recipe.encoder) for n in (3, 5))
    found = sized(recipe, write_index(tmp_path, ROWS, height=height, width=width))
    assert found == replace(recipe, height=height, width=width)
    assert found.size == (height, width)


def test_every_recipe_of_the_command_line_takes_the_stores_size():
    for name in RECIPES:
        recipe = tyro.cli(recipe_choice(), args=[name])
        assert (recipe.height, recipe.width) == (None, None)


def test_the_canonical_camera_needs_every_samples_camera(tmp_path):
    """Unless the recipe states the field of view of those that have none."""
    size, lens = {"source_height": 64, "source_width": 64}, {"fx_px": 32.0, "fy_px": 64.0}
    rows = [{**ROWS[0], "sample_id": f"train{k}", **size, **(lens if k else {})} for k in range(3)]
    rows.append({**ROWS[1], **size, **lens})
    store = write_index(tmp_path, rows, height=64, width=64)
    recipe = replace(smoke(), camera="canonical")
    with pytest.raises(StoreError, match=r"and 1 of 3 in train of .* have none\. .*--assume-fov-deg"):
        sized(recipe, store)
    assert sized(replace(recipe, assume_fov_deg=60.0), store).camera == "canonical"
    assert sized(smoke(), store) == smoke()


def test_a_model_keeps_its_training_images_median_lens(tmp_path):
    lens = {"fy_px": 64.0, "source_height": 64, "source_width": 64}
    train = [{**ROWS[0], "sample_id": f"{fx}", **lens, "fx_px": fx} for fx in (16.0, 64.0, 256.0, None)]
    store = write_index(tmp_path / "store", [*train, ROWS[1]], height=64, width=64)
    assert model_camera(smoke(), store) == ModelCamera(camera="none", median_focal=1.0, least_focal=0.5)
    unknown = write_index(tmp_path / "unknown", ROWS, height=64, width=64)
    assert model_camera(smoke(), unknown) == ModelCamera(camera="none", median_focal=None)
    assumed = replace(smoke(), camera="canonical", assume_fov_deg=90.0)
    rows = [{**row, "source_height": 64, "source_width": 64} for row in ROWS]
    found = model_camera(assumed, write_index(tmp_path / "assumed", rows, height=64, width=64))
    assert found.camera == "canonical" and found.median_focal == pytest.approx(0.5)


@pytest.mark.parametrize(("counts", "missing"), [({"train": 20}, "val"), ({"val": 20}, "train")])
def test_both_splits_are_needed(tmp_path, counts, missing):
    with pytest.raises(StoreError, match=f"has no {missing} split"):
        sized(smoke(), write_store(tmp_path, counts))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            (("kitti", 2.0),),
            r"kitti, of which the training split has no sample\. It holds 2 of diode, 1 of tum\.",
        ),
        ((("val", 2.0),), "names val"),
        ((("diode", 0.0), ("tum", 0.0)), "leaves nothing to train on"),
    ],
)
def test_weights_are_of_data_sets_in_the_training_split(tmp_path, weights, message):
    rows = [{**ROWS[0], "sample_id": f"{k}", "dataset": name} for k, name in enumerate(("diode", "tum", "diode"))]
    store = write_index(tmp_path, [*rows, {**ROWS[1], "dataset": "val"}], height=64, width=64)
    with pytest.raises(StoreError, match=message):
        sized(replace(smoke(), dataset_weights=weights), store)
    assert sized(replace(smoke(), dataset_weights=(("tum", 3.0),)), store).dataset_weights == (("tum", 3.0),)


@pytest.mark.parametrize(
    ("asked", "stored", "message"),
    [
        (
            (64, 64),
            (128, 128),
            r"of 128 x 128.*trains at 64 x 64\. .*--height 64 --width 64\. Without.*of 32",
        ),
        ((64, None), (128, 96), r"of 128 x 96.*trains at 64 x 96\. .*--height 64 --width 96\. "),
        ((None, None), (240, 300), r"of 240 x 300.*trains at multiples of 32\. .*--height 256 --width 288\. "),
        ((None, None), (8, 64), r"of 8 x 64.*trains at multiples of 32\. .*--height 32 --width 64\. "),
    ],
)
def test_a_size_that_does_not_fit_is_rejected_with_both_fixes(tmp_path, asked, stored, message):
    store = write_index(tmp_path, ROWS, height=stored[0], width=stored[1])
    with pytest.raises(StoreError, match=message):
        sized(replace(smoke(), height=asked[0], width=asked[1]), store)


@pytest.mark.parametrize(
    ("samples", "batch", "workers", "smallest"),
    [(20, 1, 2, 1), (3, 16, 4, 3), (17, 16, 9, 8), (32, 16, 16, None), (17, 16, 8, None)],
)
def test_a_worker_without_an_image_is_rejected(samples, batch, workers, smallest):
    """17 samples in batches of 16 become batches of 9 and 8."""
    recipe = replace(smoke(), global_batch_size=batch)
    if smallest is None:
        check_batches(samples, recipe, num_workers=workers)
        return
    message = rf"{samples} training samples in batches of {batch} leave a batch of {smallest} for {workers} workers"
    with pytest.raises(TrainingError, match=message):
        check_batches(samples, recipe, num_workers=workers)


@pytest.mark.parametrize(("workers", "parts", "fits"), [(2, 4, True), (4, 2, True), (3, 3, False), (1, 9, False)])
def test_every_accumulation_part_needs_an_image(workers, parts, fits):
    """17 samples in batches of 16 become batches of 9 and 8."""
    recipe = replace(smoke(), accumulation_steps=parts)
    if fits:
        check_batches(17, recipe, num_workers=workers)
        return
    with pytest.raises(TrainingError, match=rf"for {workers} workers in {parts} parts each.*or --accumulation-steps"):
        check_batches(17, recipe, num_workers=workers)


# --- paths ---


def test_weights_path_is_made_absolute(tmp_path, monkeypatch):
    """Ray Train changes its workers' directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.weights.h5").touch()
    assert absolute_weights("w.weights.h5", encoder="resnet50") == str(tmp_path / "w.weights.h5")
    assert [absolute_weights(name, encoder="resnet50") for name in ("imagenet", "none")] == ["imagenet", "none"]
    for absent in ("absent.h5", "owner/name", "."):
        with pytest.raises(TrainingError, match=r"no weights at .*--weights imagenet, none or a .weights.h5 file"):
            absolute_weights(absent, encoder="resnet50")


def test_a_transformers_weights_are_a_folder_or_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "file").touch()
    assert absolute_weights("model", encoder="dinov2_small") == str(tmp_path / "model")
    assert absolute_weights("facebook/dinov2-small", encoder="dinov2_small") == "facebook/dinov2-small"
    for absent in ("file", "absent", "./absent", "a/b/c"):
        with pytest.raises(TrainingError, match=r"no weights at .*--weights none, a transformers folder or OWNER/NAME"):
            absolute_weights(absent, encoder="dinov2_small")


# --- the task of the workers ---


PLAN = TrainingPlan(num_workers=2, use_gpu=False, cpus_per_worker=3)


def task_of(root, **changes):
    """The task of a job in root/job, on a store in root."""
    root.mkdir(exist_ok=True)
    store = write_store(root, {"train": 20, "val": 1})
    job = TrainJob(**{"samples": "s", "storage": "t", **changes})
    folder = JobFolder(root=f"{root}/job")
    return worker_task(smoke(), job, folder, store=store, run_log=cast(RunLog, None), plan=PLAN)


@pytest.mark.parametrize(("cache_gib", "cache_bytes"), [(2.0, 2**31), (0.25, 2**28), (0.0, 0)])
def test_task_has_the_cache(tmp_path, monkeypatch, cache_gib, cache_bytes):
    """The folder is absolute, since Ray Train changes its workers' directory."""
    monkeypatch.chdir(tmp_path)
    task = task_of(tmp_path, cache_gib=cache_gib, cache_dir="cache")
    assert (task.job.cache_bytes, task.job.cache_dir) == (cache_bytes, str(tmp_path / "cache"))
    assert (task.recipe, task.store.files.root, task.cpus) == (smoke(), str(tmp_path), 3)


def test_task_has_no_cache_folder_by_default(tmp_path):
    assert task_of(tmp_path).job.cache_dir is None


def test_task_has_the_jobs_folder_and_options(tmp_path):
    options = {"keep_checkpoints": 5, "checkpoint_every_steps": 7, "step_timeout_s": 11.0, "drain_poll_s": 2.5}
    task = task_of(tmp_path, **options)
    assert {name: getattr(task.job, name) for name in options} == options
    assert (task.folder.checkpoints, task.folder.spool) == (f"{tmp_path}/job/checkpoints", f"{tmp_path}/job/spool")


# --- the outcome ---


def test_without_a_finite_metric_there_is_no_model(tmp_path):
    with pytest.raises(TrainingError, match=r"No epoch ended with a finite val/abs_rel.*Lower --learning-rate"):
        best_outcome(smoke(), str(tmp_path))
