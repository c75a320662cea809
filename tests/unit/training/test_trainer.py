"""The driver's decisions: batches, paths, and the task of the workers. Nothing is started."""

from dataclasses import replace
from typing import cast

import pytest

from depthflow.errors import TrainingError
from depthflow.models.canonical_camera import ModelCamera
from depthflow.placement import TrainingPlan
from depthflow.recipes import smoke
from depthflow.registry.runs import RunLog
from depthflow.training.config import TrainJob
from depthflow.training.job import JobFolder
from depthflow.training.job_run import model_camera
from depthflow.training.trainer import (
    absolute_weights,
    best_outcome,
    check_batches,
    worker_task,
)
from tests.stores import write_index

# --- the store ---

ROWS = [{"sample_id": split, "split": split, "scene_type": "indoors"} for split in ("train", "val")]


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
    store = write_index(root, ROWS, height=64, width=64)
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
