"""What the registry keeps of an evaluation: an MLflow run, and a tag of the model's version."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthflow.registry.runs import HEADLINE, mlflow_run
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
        result: protocol, fingerprint, split, model, output, samples and metrics.
        files: The report and its data, logged as artifacts.
        store: Evaluated store.
        experiment: MLflow experiment of the run.
        model: The evaluated model, as the registry knows it.
    """
    split, protocol = result["split"], result["protocol"]
    facts = {f"depthflow.{name}": result[name] for name in ("protocol", "fingerprint", "split", "model", "output")}
    tags = {"depthflow.kind": "evaluate", **facts}
    model_id = model.model_id if model else None
    with mlflow_run(experiment=experiment, name=f"evaluate-{protocol}", tags=tags) as run_log:
        dataset = run_log.samples(store, context=split)
        if model_id:
            run_log.model(model_id)
        for group, metrics in result["metrics"].items():
            prefix = split if group == "all" else f"{split}/{group}"
            known = {f"{prefix}/{name}": value for name, value in metrics.items() if value == value}
            run_log.metrics(known, model_id=model_id, dataset=dataset)
        run_log.metrics({f"{split}/samples": result["samples"]})
        for file in files:
            run_log.artifact(file, "evaluation")
    if model is not None and model.version is not None:
        found = headline({name: result["metrics"]["all"][name] for name in HEADLINE})
        text = f"{found}; {result['samples']} samples of {dataset.name} {dataset.digest}, run {run_log.run_id}"
        tag_version(model.version, {f"evaluation.{protocol}": text}, model.tracking_uri)
    return run_log.run_id


def headline(metrics: Mapping[str, float]) -> str:
    """Formats metrics in one line, such as abs_rel 0.1234, rmse 1.234."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
