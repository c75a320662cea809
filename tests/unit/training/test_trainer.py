"""The driver's decisions: resources, which store a recipe may have, and names. Nothing is started."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthflow.errors import StoreError, TrainingError
from depthflow.recipes import smoke
from depthflow.samples.schema import INDEX_SCHEMA
from depthflow.samples.store import FORMAT, open_store
from depthflow.training.trainer import TrainingPlan, check_store, plan_training, unique_name

TWO_WORKERS = TrainingPlan(num_workers=2, use_gpu=False, cpus_per_worker=1)


# --- resources ---


@pytest.mark.parametrize(
    ("asked", "gpus", "cpus", "workers", "use_gpu", "cpus_per_worker"),
    [
        (None, 0, 1, 1, False, 1),
        (None, 0, 2, 2, False, 1),
        (None, 0, 7, 2, False, 3),
        (None, 0, 64, 2, False, 32),
        (1, 0, 8, 1, False, 8),
        (3, 0, 8, 3, False, 2),
        (8, 0, 8, 8, False, 1),
        (None, 1, 16, 1, True, 8),
        (None, 4, 16, 4, True, 4),
        (2, 4, 16, 2, True, 8),
        (4, 4, 4, 4, True, 1),
        (None, 8, 256, 8, True, 8),
    ],
)
def test_plan(asked, gpus, cpus, workers, use_gpu, cpus_per_worker):
    plan = plan_training(num_workers=asked, gpus=gpus, cpus=cpus)
    assert plan == TrainingPlan(num_workers=workers, use_gpu=use_gpu, cpus_per_worker=cpus_per_worker)
    assert plan.num_workers * plan.cpus_per_worker <= cpus
    assert not use_gpu or plan.num_workers <= gpus


@pytest.mark.parametrize(
    ("asked", "gpus", "cpus", "message"),
    [
        (3, 2, 16, "3 workers need 3 GPUs, one each; Ray has 2. Lower --num-workers."),
        (3, 0, 2, "3 workers need 3 CPUs, one each; Ray has 2. Lower --num-workers."),
    ],
)
def test_more_workers_than_can_be_placed_are_refused(asked, gpus, cpus, message):
    with pytest.raises(TrainingError, match=message):
        plan_training(num_workers=asked, gpus=gpus, cpus=cpus)


def test_no_cpu_is_refused():
    with pytest.raises(TrainingError):
        plan_training(num_workers=None, gpus=0, cpus=0)


def test_more_gpu_workers_than_cpus_are_refused():
    with pytest.raises(TrainingError):
        plan_training(num_workers=None, gpus=4, cpus=2)


# --- the store ---


def write_store(root, counts: dict[str, int], *, size: int = 64):
    """A store without planes: its index and manifest."""
    rows = [
        {"sample_id": f"{split}{k}", "split": split, "shard": f"split={split}/part-00000.parquet", "row": k}
        for split, count in counts.items()
        for k in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), root / "index.parquet")
    manifest = {"format": FORMAT, "config": {"height": size, "width": size}, "fingerprint": "f", "shards": []}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return open_store(str(root))


def test_a_fitting_store_passes(tmp_path):
    check_store(write_store(tmp_path, {"train": 20, "val": 1}), smoke(), TWO_WORKERS)


@pytest.mark.parametrize(("counts", "missing"), [({"train": 20}, "val"), ({"val": 20}, "train")])
def test_both_splits_are_needed(tmp_path, counts, missing):
    with pytest.raises(StoreError, match=f"has no {missing} split"):
        check_store(write_store(tmp_path, counts), smoke(), TWO_WORKERS)


def test_another_size_is_refused_with_both_ways_out(tmp_path):
    store = write_store(tmp_path, {"train": 20, "val": 4}, size=128)
    with pytest.raises(
        StoreError,
        match=r"128 x 128.*smoke trains at 64 x 64.*--height 64 --width 64.*--height 128 --width 128",
    ):
        check_store(store, smoke(), TWO_WORKERS)


@pytest.mark.parametrize(
    ("samples", "batch", "workers", "smallest"),
    [(20, 1, 2, 1), (3, 16, 4, 3), (17, 16, 9, 8), (32, 16, 16, None), (17, 16, 8, None)],
)
def test_a_worker_without_an_image_is_refused(tmp_path, samples, batch, workers, smallest):
    """17 samples in batches of 16 are shared 9 and 8."""
    store = write_store(tmp_path, {"train": samples, "val": 1})
    recipe, plan = replace(smoke(), global_batch_size=batch), replace(TWO_WORKERS, num_workers=workers)
    if smallest is None:
        check_store(store, recipe, plan)
        return
    message = rf"{samples} training samples in batches of {batch} leave a batch of {smallest} for {workers} workers"
    with pytest.raises(TrainingError, match=message):
        check_store(store, recipe, plan)


# --- names ---


def test_names_are_unique_and_say_the_recipe():
    names = {unique_name("diode") for _ in range(200)}
    assert len(names) == 200
    assert all(name.startswith("diode-") for name in names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
