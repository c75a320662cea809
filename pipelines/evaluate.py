"""Evaluate a model under a named protocol, beside others, with a report."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from depthflow.evaluation.evaluate import Evaluation
    from depthflow.store.store import SampleStore


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Computes the metrics over every sample of the split, and logs them with a report to MLflow."""
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.evaluate import evaluate_models
    from depthflow.evaluation.protocols import check_output, find_protocol, rows_of
    from depthflow.inference.named_model import find_models
    from depthflow.registry.versions import tag_version
    from depthflow.reports.evaluation_report import shown_rows, write_evaluation
    from depthflow.storage.files import open_output
    from depthflow.storage.location import absolute
    from depthflow.store.store import open_store

    protocol, store = find_protocol(config.protocol), open_store(config.samples)
    rows_of(protocol, store, config.split)  # Fails here rather than after Ray has started.
    out = open_output(config.out) if config.out else None
    model, *others = find_models([config.model, *config.compare])
    models = {model.uri: model, **dict(zip(config.compare, others, strict=True))}
    for named in models.values():
        check_output(protocol, named.output, model=named.uri)
    baseline = model.baseline
    if baseline is not None:
        models[baseline.uri] = baseline
    with ray_session(config.num_cpus):
        evaluations, depth_m = evaluate_models(
            models, store=store, split=config.split, protocol=protocol, num_workers=config.num_workers, shown=shown_rows
        )
    result = evaluations[model.uri]
    facts = {"protocol": protocol.name, "fingerprint": store.fingerprint, "split": config.split, "model": model.uri}
    with TemporaryDirectory() as scratch:
        shown = {name: maps for name, maps in depth_m.items() if models[name] is not baseline}
        files = write_evaluation(Path(scratch), evaluations, protocol=protocol, store=store, depth_m=shown)
        run_id = log_run(result, files, facts, store=store, experiment=config.experiment)
        if model.resolved is not None and model.resolved.version is not None:
            metrics = {**facts, "samples": result.samples, "metrics": result.metrics}
            tag_version(model.resolved.version, {f"figures.{protocol.name}": metrics}, model.resolved.tracking_uri)
        if out is not None:
            for file in files:
                out.write(file.name, file.read_bytes())
    return {
        **facts,
        "protocol_means": protocol.description,
        "samples": result.samples,
        "metrics": result.metrics,
        "baseline": evaluations[baseline.uri].metrics if baseline else None,
        "compared": {name: evaluations[name].metrics for name in config.compare},
        "problems": result.problems,
        "run_id": run_id,
        "files": [f"{absolute(config.out)}/{file.name}" for file in files] if config.out else [],
    }


def log_run(
    result: "Evaluation", files: Sequence[Path], facts: Mapping[str, str], *, store: "SampleStore", experiment: str
) -> str:
    """Logs the metrics and the files to a new MLflow run, and returns its id."""
    from depthflow.registry.runs import mlflow_run

    tags = {"depthflow.kind": "evaluate", **{f"depthflow.{name}": value for name, value in facts.items()}}
    with mlflow_run(experiment=experiment, name=f"evaluate-{result.protocol}", tags=tags) as run_log:
        run_log.samples(store)
        for group, metrics in result.metrics.items():
            prefix = result.split if group == "all" else f"{result.split}/{group}"
            run_log.metrics({f"{prefix}/{name}": value for name, value in metrics.items() if value == value})
        run_log.metrics({f"{result.split}/samples": result.samples})
        for file in files:
            run_log.artifact(file, "evaluation")
    return run_log.run_id


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
