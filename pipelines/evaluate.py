"""Evaluate a model under a named protocol, beside the mean-depth baseline."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from depthflow.cluster.session import plan_pool, ray_session
from depthflow.command import run_command
from depthflow.config import EvaluateConfig
from depthflow.evaluation.evaluate import LoadPredict, evaluate
from depthflow.evaluation.protocols import check_store, find_protocol
from depthflow.evaluation.report import draw_panels
from depthflow.inference.predictor import ConstantPredictor, find_network, load_predictor
from depthflow.registry.runs import mlflow_run
from depthflow.registry.versions import resolve_model, tag_version
from depthflow.samples.store import open_store


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Computes the figures over every sample of the split, and logs them with the panels to MLflow."""
    protocol, store, model = find_protocol(config.protocol), open_store(config.samples), resolve_model(config.model)
    check_store(protocol, store, config.split)
    folder = model.download()
    find_network(folder)
    models: dict[str, LoadPredict] = {"model": lambda: load_predictor(model.download())}
    baseline_depth_m = model.baseline_depth_m
    if baseline_depth_m is not None:
        models["mean_depth"] = lambda: ConstantPredictor(baseline_depth_m)
    with ray_session(config.num_cpus):
        evaluations = evaluate(
            models,
            store=store,
            split=config.split,
            protocol=protocol,
            **vars(plan_pool(config.num_workers)),
        )
    result = evaluations["model"]
    facts = {"protocol": protocol.name, "fingerprint": store.fingerprint, "split": config.split, "model": model.uri}
    tags = {"depthflow.kind": "evaluate", **{f"depthflow.{name}": value for name, value in facts.items()}}
    with mlflow_run(experiment=config.experiment, name=f"evaluate-{protocol.name}", tags=tags) as run_log:
        run_log.samples(store)
        for group, metrics in result.figures.items():
            prefix = config.split if group == "all" else f"{config.split}/{group}"
            run_log.metrics({f"{prefix}/{name}": value for name, value in metrics.items() if value == value})
        run_log.metrics({f"{config.split}/samples": result.samples})
        with TemporaryDirectory() as scratch:
            out = Path(config.out or scratch).absolute()
            panels = draw_panels(result, predict=load_predictor(folder), store=store, folder=out)
            for panel in panels:
                run_log.artifact(panel, "panels")
    if model.version is not None:
        figures = {**facts, "samples": result.samples, "metrics": result.figures}
        tag_version(model.version, {f"figures.{protocol.name}": figures}, model.tracking_uri)
    return {
        **facts,
        "protocol_means": protocol.description,
        "samples": result.samples,
        "metrics": result.figures,
        "baseline": evaluations["mean_depth"].figures if "mean_depth" in evaluations else None,
        "problems": result.problems,
        "run_id": run_log.run_id,
        "panels": [str(panel) for panel in panels] if config.out else [],
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
