"""Train a recipe with Ray Train, log it to MLflow, register its best epoch."""

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from depthflow.cluster.session import ray_session
from depthflow.command import run_command
from depthflow.config import Recipe, TrainJob
from depthflow.inference import SERVING_CODE
from depthflow.recipes import RECIPES
from depthflow.registry.runs import git_commit, mlflow_run
from depthflow.registry.versions import BASELINE_TAG, register_network
from depthflow.samples.reader import SplitReader
from depthflow.samples.store import open_store
from depthflow.training.trainer import absolute_weights, check_store, train

if TYPE_CHECKING:
    RecipeChoice = Recipe
else:
    RecipeChoice = tyro.extras.subcommand_type_from_defaults(
        {name: recipe() for name, recipe in RECIPES.items()},
        descriptions={name: (recipe.__doc__ or "").partition("\n")[0] for name, recipe in RECIPES.items()},
    )


def main(recipe: RecipeChoice, job: TrainJob) -> dict[str, Any]:
    """Trains; the result names the run and the version that it became, alias challenger."""
    store = open_store(job.samples)
    check_store(store, recipe)
    recipe = replace(recipe, encoder_weights=absolute_weights(recipe.encoder_weights))
    tags = {"depthflow.kind": "train", "depthflow.fingerprint": store.fingerprint}
    with mlflow_run(experiment=job.experiment, name=recipe.name, tags=tags) as run_log:
        run_log.params({**asdict(recipe), **asdict(job)})
        run_log.samples(store)
        with ray_session(job.num_cpus):
            outcome = train(recipe, job, store=store, run_log=run_log)
        version = register_network(
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
    return {
        "run_id": run_log.run_id,
        "model_uri": version.uri,
        "version": version.version,
        "metrics": outcome.metrics,
        "checkpoint": outcome.checkpoint,
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
