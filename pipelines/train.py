"""Train a recipe with Ray Train, log it to MLflow and register its best epoch."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.observability.logs import tell
from depthflow.recipe import Recipe
from depthflow.recipes import recipe_choice
from depthflow.training.config import TrainJob

if TYPE_CHECKING:
    RecipeChoice = Recipe
else:
    RecipeChoice = recipe_choice()


def main(recipe: RecipeChoice, job: TrainJob) -> dict[str, Any]:
    """Trains and registers; returns the MLflow run and the new version, which has the alias challenger."""
    from depthflow.cluster.session import ray_session
    from depthflow.inference import SERVING_CODE
    from depthflow.registry.spool import replay
    from depthflow.store.store import open_store
    from depthflow.training.job import open_job
    from depthflow.training.job_run import job_run, register
    from depthflow.training.pretrained import open_pretrained
    from depthflow.training.suitability import sized
    from depthflow.training.trainer import absolute_weights, train

    version, store = None, open_store(job.samples)
    recipe = sized(recipe, store)
    recipe = replace(recipe, weights=absolute_weights(recipe.weights, encoder=recipe.encoder))
    pretrained = open_pretrained(recipe)  # Fails here rather than after Ray has started.
    if pretrained:
        tell(pretrained.origin)
    with open_job(recipe, job, store) as folder:
        tell(f"job {folder.root}; if it is cut off, the same command with --resume goes on")
        with job_run(recipe, job, folder, store=store) as run_log:
            with ray_session(job.num_cpus):
                outcome = train(recipe, job, folder, store=store, run_log=run_log)
            unlogged = replay(folder.spool, run_log, timeout_s=job.mlflow_wait_s)
            if not unlogged:
                folder.check_lock()
                version = register(outcome, recipe, job, store=store, run_log=run_log, serving_code=SERVING_CODE)
        if version:
            folder.note(finished=True)
        else:
            tell(
                f"MLflow at {run_log.tracking_uri} does not take the metrics: {unlogged} records wait in "
                f"{folder.spool}. Training is done; the same command with --resume logs and registers it."
            )
    return {
        "run_id": run_log.run_id,
        "metrics": outcome.metrics,
        "checkpoint": outcome.checkpoint,
        "output": recipe.output,
        "unlogged": unlogged,
        "model_uri": version.uri if version else None,
        "version": version.version if version else None,
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
