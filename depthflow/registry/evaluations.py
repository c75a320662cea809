"""What the registry keeps of an evaluation: an MLflow run, and a tag of the model's version."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthflow.registry.runs import mlflow_run
from depthflow.registry.versions import ResolvedModel, tag_version
from depthflow.store.store import SampleStore


def log_evaluation(
    result: Mapping[str, Any],
    files: Sequence[Path],
    *,
    store: SampleStore,
    experiment: str,
    model: ResolvedModel | None,
) -> str:
    """Logs an evaluation to a new MLflow run and returns its id; tags the version, if the model is a registered one.

    Args:
        result: protocol, fingerprint, split, model, samples and metrics.
        files: The report and its data, logged as artifacts.
        store: Evaluated store.
        experiment: MLflow experiment of the run.
        model: The evaluated model, as the registry knows it.
    """
    split, protocol = result["split"], result["protocol"]
    facts = {f"depthflow.{name}": result[name] for name in ("protocol", "fingerprint", "split", "model")}
    tags = {"depthflow.kind": "evaluate", **facts}
    with mlflow_run(experiment=experiment, name=f"evaluate-{protocol}", tags=tags) as run_log:
        run_log.samples(store)
        for group, metrics in result["metrics"].items():
            prefix = split if group == "all" else f"{split}/{group}"
            run_log.metrics({f"{prefix}/{name}": value for name, value in metrics.items() if value == value})
        run_log.metrics({f"{split}/samples": result["samples"]})
        for file in files:
            run_log.artifact(file, "evaluation")
    if model is not None and model.version is not None:
        tag_version(model.version, {f"figures.{protocol}": dict(result)}, model.tracking_uri)
    return run_log.run_id
