"""The MLflow run of a job: begun or continued by the driver, and the origin of the version that the job registers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from depthflow.models.canonical_camera import ModelCamera
from depthflow.observability.logs import configure_logging
from depthflow.recipe import Recipe
from depthflow.registry.runs import RunLog, git_commit, mlflow_run
from depthflow.registry.versions import BASELINE_TAG, ModelVersion, register_network
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import SampleStore
from depthflow.training.config import TrainJob
from depthflow.training.job import JobFolder
from depthflow.training.trainer import TrainingOutcome


@contextmanager
def job_run(recipe: Recipe, job: TrainJob, folder: JobFolder, *, store: SampleStore) -> Iterator[RunLog]:
    """Yields the run that the job's folder names, or a new one with the job's parameters, noted in the folder."""
    tags = {"depthflow.kind": "train", "depthflow.fingerprint": store.fingerprint}
    run_id = folder.read()["run_id"]
    with mlflow_run(experiment=job.experiment, name=folder.name, tags=tags, run_id=run_id) as run_log:
        configure_logging(run_log.run_id)
        if run_id is None:
            run_log.params({**asdict(recipe), **asdict(job)})
            run_log.samples(store)
            folder.note(run_id=run_log.run_id)
        yield run_log


def register(
    outcome: TrainingOutcome, recipe: Recipe, job: TrainJob, *, store: SampleStore, run_log: RunLog, serving_code: Path
) -> ModelVersion:
    """Registers the best network, which `serving_code` serves, as a new version that is tagged with its origin."""
    return register_network(
        outcome.network,
        run_log=run_log,
        model_name=job.model_name,
        serving_code=serving_code,
        input_example=SplitReader(store, "val").read([0]).rgb,
        description={
            "recipe": asdict(recipe),
            "metrics": outcome.metrics,
            "protocol": "stored",
            "fingerprint": store.fingerprint,
            "git_commit": git_commit(),
            BASELINE_TAG: repr(float(np.exp(store.mean_log_depth("train")))),
        },
        camera=model_camera(recipe, store),
    )


def model_camera(recipe: Recipe, store: SampleStore) -> ModelCamera:
    """Returns what a model knows about cameras after training on a store."""
    focals = store.relative_focals(store.split_index("train"), assume_fov_deg=recipe.assume_fov_deg)
    known = focals[np.isfinite(focals)]
    return ModelCamera(camera=recipe.camera, median_focal=float(np.median(known)) if len(known) else None)
