"""Train a recipe with Ray Train, log it to MLflow and register its best epoch."""

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import tyro

from depthflow.command import run_command
from depthflow.observability.logs import configure_logging, tell
from depthflow.recipe import Recipe
from depthflow.recipes import RECIPES
from depthflow.training.config import TrainJob

if TYPE_CHECKING:
    from depthflow.registry.runs import RunLog
    from depthflow.registry.versions import ModelVersion
    from depthflow.store.store import SampleStore
    from depthflow.training.trainer import TrainingOutcome

    RecipeChoice = Recipe
else:
    RecipeChoice = tyro.extras.subcommand_type_from_defaults(
        {name: recipe() for name, recipe in RECIPES.items()},
        descriptions={name: (recipe.__doc__ or "").partition("\n")[0] for name, recipe in RECIPES.items()},
    )


def main(recipe: RecipeChoice, job: TrainJob) -> dict[str, Any]:
    """Trains and registers; returns the MLflow run and the new version, which has the alias challenger."""
    from depthflow.cluster.session import ray_session
    from depthflow.registry.runs import mlflow_run
    from depthflow.registry.spool import replay
    from depthflow.store.store import open_store
    from depthflow.training.job import open_job
    from depthflow.training.trainer import absolute_weights, check_store, train

    store = open_store(job.samples)
    check_store(store, recipe)
    recipe = replace(recipe, encoder_weights=absolute_weights(recipe.encoder_weights))
    tags = {"depthflow.kind": "train", "depthflow.fingerprint": store.fingerprint}
    with open_job(recipe, job, store) as folder:
        tell(f"job {folder.root}; if it is cut off, the same command with --resume goes on")
        run_id = folder.read()["run_id"]
        with mlflow_run(experiment=job.experiment, name=folder.name, tags=tags, run_id=run_id) as run_log:
            configure_logging(run_log.run_id)
            if run_id is None:
                run_log.params({**asdict(recipe), **asdict(job)})
                run_log.samples(store)
                folder.note(run_id=run_log.run_id)
            with ray_session(job.num_cpus):
                outcome = train(recipe, job, folder, store=store, run_log=run_log)
            result = {
                "run_id": run_log.run_id,
                "metrics": outcome.metrics,
                "checkpoint": outcome.checkpoint,
                "unlogged": replay(folder.spool, run_log, timeout_s=job.mlflow_wait_s),
            }
            if result["unlogged"]:
                tell(
                    f"MLflow at {run_log.tracking_uri} does not take the metrics: {result['unlogged']} records wait in "
                    f"{folder.spool}. Training is done; the same command with --resume logs and registers it."
                )
                return {**result, "model_uri": None, "version": None}
            version = register(outcome, recipe, job, store=store, run_log=run_log)
        folder.note(finished=True)
    return {**result, "model_uri": version.uri, "version": version.version}


def register(
    outcome: "TrainingOutcome", recipe: Recipe, job: TrainJob, *, store: "SampleStore", run_log: "RunLog"
) -> "ModelVersion":
    """Registers the best network as a new version, tagged with its origin."""
    import numpy as np

    from depthflow.inference import SERVING_CODE
    from depthflow.registry.runs import git_commit
    from depthflow.registry.versions import BASELINE_TAG, register_network
    from depthflow.store.read.reader import SplitReader

    return register_network(
        outcome.network,
        run_log=run_log,
        model_name=job.model_name,
        serving_code=SERVING_CODE,
        input_example=SplitReader(store, "val").read([0]).rgb,
        description={
            "recipe": asdict(recipe),
            "metrics": outcome.metrics,
            "protocol": "stored",
            "fingerprint": store.fingerprint,
            "git_commit": git_commit(),
            BASELINE_TAG: repr(float(np.exp(store.mean_log_depth("train")))),
        },
    )


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
