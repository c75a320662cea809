"""Promote the challenger if it is better, or roll back, or show the history."""

import sys
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.evaluation.config import PromoteConfig

if TYPE_CHECKING:
    from depthflow.registry.promotion import Record


def main(config: PromoteConfig) -> dict[str, Any]:
    """Decides, moves the alias champion, and returns the decision with its reasons."""
    from depthflow.registry.history import champion_of, describe, history
    from depthflow.registry.promotion import record_decision, rollback

    champion = champion_of(config.model_name)
    if config.history:
        decisions = history(config.model_name, experiment=config.experiment)
        for decision in decisions:
            print(describe(decision))
        return {"model_name": config.model_name, "champion": champion, "decisions": decisions}
    if config.rollback:
        record = rollback(config.model_name, champion, experiment=config.experiment, reason=config.reason)
    else:
        record = challenge(config, champion)
    if not config.dry_run:
        record_decision(record, experiment=config.experiment)
    decided = {name: getattr(record, name) for name in ("decision", "champion", "previous", "reasons")}
    return {**decided, "dry_run": config.dry_run, **record.evidence}


def challenge(config: PromoteConfig, champion: str | None) -> "Record":
    """Evaluates the challenger and its rival in one pass, and decides between them."""
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.evaluate import evaluate_models
    from depthflow.evaluation.protocols import check_output, find_protocol, rows_of
    from depthflow.inference.named_model import find_rivals
    from depthflow.registry.gate import Policy, candidate
    from depthflow.registry.promotion import judge
    from depthflow.store.store import open_store

    protocol, store = find_protocol(config.protocol), open_store(config.samples or "")
    models = find_rivals(config.model_name, champion, is_aligned=protocol.alignment != "none")
    for model in models:
        check_output(protocol, model.output, model=model.uri)
    rows_of(protocol, store, config.split)  # Fails here, rather than after Ray has started.
    with ray_session(config.num_cpus):
        evaluations, _ = evaluate_models(
            {model.uri: model.load for model in models},
            store=store,
            split=config.split,
            protocol=protocol,
            num_workers=config.num_workers,
        )
    return judge(
        *(candidate(model.uri, evaluations[model.uri], is_timed=model.version is not None) for model in models),
        policy=Policy.of(config),
        model_name=config.model_name,
        versions=(models[0].version, champion),
        force=config.force,
        reason=config.reason,
    )


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
