"""Evaluate a model under a named protocol, beside others, with a report."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from depthflow.command import run_command
from depthflow.evaluation.config import EvaluateConfig


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Computes the metrics over every sample of the split, and logs them with a report to MLflow."""
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.evaluate import evaluate_models
    from depthflow.evaluation.protocols import check_output, find_protocol, rows_of
    from depthflow.inference.named_model import find_models
    from depthflow.registry.evaluations import log_evaluation
    from depthflow.reports.evaluation_images import shown_rows
    from depthflow.reports.evaluation_report import write_evaluation
    from depthflow.storage.files import open_output
    from depthflow.store.store import open_store

    protocol, store = find_protocol(config.protocol), open_store(config.samples)
    rows_of(protocol, store, config.split)  # Fails here rather than after Ray has started.
    out = open_output(config.out) if config.out else None
    model, *others = find_models([config.model, *config.compare])
    models = {model.uri: model, **dict(zip(config.compare, others, strict=True))}
    for named in models.values():
        check_output(protocol, named.output, model=named.uri)
    baseline = model.baseline(is_aligned=protocol.alignment != "none")
    if baseline:
        models[baseline.uri] = baseline
    with ray_session(config.num_cpus):
        evaluations, shown = evaluate_models(
            {name: model.load for name, model in models.items()},
            store=store,
            split=config.split,
            protocol=protocol,
            num_workers=config.num_workers,
            shown=shown_rows,
        )
    if baseline:
        del shown.depth_m[baseline.uri]  # The report shows no flat maps.
    evaluation = evaluations[model.uri]
    result = {"model": model.uri, **evaluation.summary}
    with TemporaryDirectory() as scratch:
        files = write_evaluation(
            Path(scratch),
            evaluations,
            protocol=protocol,
            store=store,
            depth_m=shown.depth_m,
            reprojected=shown.reprojected,
            baseline=baseline.uri if baseline else None,
        )
        run_id = log_evaluation(result, files, store=store, experiment=config.experiment, model=model.resolved)
        if out:
            for file in files:
                out.write(file.name, file.read_bytes())
    return {
        **result,
        "protocol_means": protocol.meaning,
        "baseline": evaluations[baseline.uri].metrics if baseline else None,
        "compared": {name: evaluations[name].metrics for name in config.compare},
        "compared_outputs": {name: evaluations[name].output for name in config.compare},
        "problems": evaluation.problems,
        "run_id": run_id,
        "files": [f"{out.root}/{file.name}" for file in files] if out else [],
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
