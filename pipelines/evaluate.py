"""Evaluate a model under a named protocol, beside others, with a report."""

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    import numpy as np

    from depthflow.evaluation.evaluate import Evaluation
    from depthflow.evaluation.protocols import Protocol
    from depthflow.inference.named_model import NamedModel
    from depthflow.store.store import SampleStore


MODEL, BASELINE = "model", "mean_depth"


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Computes the metrics over every sample of the split, and logs them with a report to MLflow."""
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.protocols import check_output, find_protocol, rows_of
    from depthflow.inference.named_model import find_models
    from depthflow.registry.versions import tag_version
    from depthflow.reports.evaluation_report import write_evaluation
    from depthflow.storage.files import open_output
    from depthflow.storage.location import absolute
    from depthflow.store.store import open_store

    protocol, store = find_protocol(config.protocol), open_store(config.samples)
    rows_of(protocol, store, config.split)
    out = open_output(config.out) if config.out else None
    models = dict(zip((MODEL, *config.compare), find_models([config.model, *config.compare]), strict=True))
    for named in models.values():
        check_output(protocol, named.output, model=named.uri)
    model = models[MODEL]
    with ray_session(config.num_cpus):
        evaluations, depth_m = _evaluate(models, config, protocol=protocol, store=store)
    result = evaluations[MODEL]
    facts = {"protocol": protocol.name, "fingerprint": store.fingerprint, "split": config.split, "model": model.uri}
    with TemporaryDirectory() as scratch:
        titles = {MODEL: model.uri, BASELINE: "mean depth"}
        files = write_evaluation(
            Path(scratch),
            {titles.get(name, name): found for name, found in evaluations.items()},
            protocol=protocol,
            store=store,
            depth_m={titles.get(name, name): maps for name, maps in depth_m.items()},
        )
        run_id = _logged(result, files, facts, store=store, experiment=config.experiment)
        if model.resolved is not None and model.resolved.version is not None:
            figures = {**facts, "samples": result.samples, "metrics": result.metrics}
            tag_version(model.resolved.version, {f"figures.{protocol.name}": figures}, model.resolved.tracking_uri)
        if out is not None:
            for file in files:
                out.write(file.name, file.read_bytes())
    return {
        **facts,
        "protocol_means": protocol.description,
        "samples": result.samples,
        "metrics": result.metrics,
        "baseline": evaluations[BASELINE].metrics if BASELINE in evaluations else None,
        "compared": {name: evaluations[name].metrics for name in config.compare},
        "problems": result.problems,
        "run_id": run_id,
        "files": [f"{absolute(config.out)}/{file.name}" for file in files] if config.out else [],
    }


def _logged(
    result: "Evaluation", files: Sequence[Path], facts: Mapping[str, str], *, store: "SampleStore", experiment: str
) -> str:
    """The id of a new MLflow run with the metrics and the files."""
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


def _evaluate(
    models: Mapping[str, "NamedModel"], config: EvaluateConfig, *, protocol: "Protocol", store: "SampleStore"
) -> tuple[dict[str, "Evaluation"], dict[str, dict[int, "np.ndarray"]]]:
    """Metrics of all, the model's first, and the predictions that the report shows; one pass an interpreter."""
    from depthflow.evaluation.evaluate import Evaluation, Evaluator
    from depthflow.inference.predictor import ConstantPredictor
    from depthflow.models.interface import LoadPredictor
    from depthflow.placement import cluster_capacity, plan_pool
    from depthflow.reports.evaluation_report import shown_rows

    evaluations: dict[str, Evaluation] = {}
    depth_m: dict[str, dict[int, np.ndarray]] = {}
    resolved = models[MODEL].resolved
    baseline_depth_m = resolved.baseline_depth_m if resolved else None
    for python, group in groupby(models.items(), key=lambda item: item[1].python):
        loads: dict[str, LoadPredictor] = {name: named.load for name, named in group}
        if MODEL in loads and baseline_depth_m is not None:
            loads[BASELINE] = lambda: ConstantPredictor(baseline_depth_m)
        evaluator = Evaluator(
            loads,
            store=store,
            split=config.split,
            protocol=protocol,
            python=python,
            **vars(plan_pool(config.num_workers, **cluster_capacity())),
        )
        evaluations |= evaluator.evaluate()
        depth_m |= evaluator.depth_m(shown_rows(evaluations[MODEL]))
        del evaluator  # Its processes give their CPUs to the next.
    depth_m.pop(BASELINE, None)
    return evaluations, depth_m


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
