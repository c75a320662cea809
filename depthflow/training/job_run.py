"""The MLflow run of a job: begun or continued by the driver, and the origin of the version that the job registers."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from depthflow.models.canonical_camera import ModelCamera
from depthflow.models.interface import Output
from depthflow.observability.logs import configure_logging
from depthflow.observability.safe_text import without_credentials
from depthflow.recipe import Recipe
from depthflow.registry.runs import HEADLINE, RunLog, dataset_of, git_commit, mlflow_run
from depthflow.registry.versions import BASELINE_TAG, ModelVersion, VersionFacts, register_network
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import SampleStore
from depthflow.training.config import TrainJob
from depthflow.training.job import JobFolder
from depthflow.training.pretrained import licence_tags, weights_tags
from depthflow.training.trainer import TrainingOutcome

RECIPE_ARTIFACT = "recipe.json"
VAL = "val/"
PHOTOMETRIC = "photometric"
"""Metric of what was learned without depth labels."""


@contextmanager
def job_run(recipe: Recipe, job: TrainJob, folder: JobFolder, *, store: SampleStore) -> Iterator[RunLog]:
    """Yields the run that the job's folder names, or a new one with the job's parameters, noted in the folder."""
    tags = {"depthflow.kind": "train", "depthflow.fingerprint": store.fingerprint}
    run_id = folder.read()["run_id"]
    with mlflow_run(experiment=job.experiment, name=folder.name, tags=tags, run_id=run_id) as run_log:
        configure_logging(run_log.run_id)
        if run_id is None:
            run_log.params({**asdict(recipe), **asdict(job)})
            run_log.tag(weights_tags(recipe))
            run_log.document(asdict(recipe), RECIPE_ARTIFACT)
            run_log.samples(store, context="training")
            folder.note(run_id=run_log.run_id)
        yield run_log


def register(
    outcome: TrainingOutcome, recipe: Recipe, job: TrainJob, *, store: SampleStore, run_log: RunLog, serving_code: Path
) -> ModelVersion:
    """Registers the best network, which `serving_code` serves, as a new version that says where it comes from.

    The run's `val/` metrics are those of its last epoch, so those of the best one are logged as `best/`.
    """
    validated = {name: value for name, value in outcome.metrics.items() if name.startswith(VAL)}
    best = {name: validated[f"{VAL}{name}"] for name in headline_of(validated)}
    run_log.metrics(
        {**{f"best/{name}": value for name, value in best.items()}, "best/epoch": outcome.epoch},
        step=outcome.epoch,
        timed_as=f"{VAL}{next(iter(best))}",
    )
    return register_network(
        outcome.network,
        run_log=run_log,
        model_name=job.model_name,
        serving_code=serving_code,
        example_rgb=SplitReader(store, "val").read([0]).rgb[0],
        facts=VersionFacts(
            description=describe(outcome, recipe, store=store),
            tags={
                "recipe": recipe.name,
                **{name: f"{value:.4g}" for name, value in best.items()},
                "protocol": "stored",
                "fingerprint": store.fingerprint,
                "git_commit": git_commit(),
                **licence_tags(recipe),
                **baseline_tags(store, recipe.output),
            },
            metrics=validated,
            epoch=outcome.epoch,
            dataset=dataset_of(store),
        ),
        camera=model_camera(recipe, store),
        output=recipe.output,
    )


def headline_of(metrics: Mapping[str, float]) -> list[str]:
    """Returns the validation metrics that people see first: without depth to compare with, the photometric error."""
    return [name for name in (*HEADLINE, PHOTOMETRIC) if f"{VAL}{name}" in metrics]


def baseline_tags(store: SampleStore, output: Output) -> dict[str, str]:
    """Returns the tag of the mean-depth baseline; none without metres to predict or depth to take the mean of."""
    if output != "metres" or not (store.split_index("train")["valid_fraction"].to_numpy() > 0).any():
        return {}
    return {BASELINE_TAG: repr(float(np.exp(store.mean_log_depth("train"))))}


def describe(outcome: TrainingOutcome, recipe: Recipe, *, store: SampleStore) -> str:
    """Returns a version's description: its validation metrics as a table, and where it comes from, in Markdown."""
    names = headline_of(outcome.metrics)
    matches = [re.fullmatch(f"{VAL}(.+)/{names[0]}", name) for name in outcome.metrics]
    groups = {"all": VAL, **{match[1]: f"{VAL}{match[1]}/" for match in matches if match}}
    rows = [
        [group, *(f"{outcome.metrics[prefix + name]:.4g}" for name in names if prefix + name in outcome.metrics)]
        for group, prefix in groups.items()
    ]
    table = [["val", *names], ["---"] * (1 + len(names)), *rows]
    unknown_scale = (
        f"It predicts {recipe.output}: metres up to one unknown factor. Evaluate it under the protocol median."
    )
    return "\n".join(
        [
            *("| " + " | ".join(row) + " |" for row in table),
            "",
            *[unknown_scale, ""] * (recipe.output == "relative depth"),
            f"Recipe {recipe.name}, epoch {outcome.epoch} of {recipe.epochs}, protocol stored, trained on "
            f"{without_credentials(store.files.root)} (fingerprint {store.fingerprint}). The whole recipe is "
            f"{RECIPE_ARTIFACT} of the source run.",
        ]
    )


def model_camera(recipe: Recipe, store: SampleStore) -> ModelCamera:
    """Returns what a model knows about cameras after training on a store."""
    focals = store.relative_focals(store.split_index("train"), assume_fov_deg=recipe.assume_fov_deg)
    known = focals[np.isfinite(focals)]
    if not len(known):
        return ModelCamera(camera=recipe.camera)
    return ModelCamera(camera=recipe.camera, median_focal=float(np.median(known)), least_focal=float(known.min()))
