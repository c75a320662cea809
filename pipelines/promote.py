"""Promote the challenger if it is better, or roll back, or show the history."""

import sys
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.errors import RegistryError
from depthflow.evaluation.config import PromoteConfig

if TYPE_CHECKING:
    from depthflow.evaluation.evaluate import Evaluation
    from depthflow.models.interface import LoadPredictor
    from depthflow.registry.gate import Candidate
    from depthflow.registry.versions import ResolvedModel


BASELINE = "the mean-depth baseline"
_ALIAS = {True: "after it had moved the alias", False: "the alias not moved"}


def main(config: PromoteConfig) -> dict[str, Any]:
    """Decides, moves the alias champion, and says what was decided and why."""
    if config.history:
        return _history(config)
    return _roll_back(config) if config.rollback else _challenge(config)


def _history(config: PromoteConfig) -> dict[str, Any]:
    from depthflow.registry.promotion import history, version_with_alias
    from depthflow.registry.versions import CHAMPION

    rows = history(config.model_name, experiment=config.experiment)
    for row in rows:
        moved = f"{row['previous'] or 'none'} -> {row['champion'] or 'none'}"
        status = "" if row["status"] == "finished" else f" ({row['status']}, {_ALIAS[row['moved']]})"
        print(f"{row['when']} {row['who']} {row['decision']}{status} {moved}: {'; '.join(row['reasons'])}")
    champion = version_with_alias(config.model_name, CHAMPION)
    return {"model_name": config.model_name, "champion": champion.version if champion else None, "decisions": rows}


def _roll_back(config: PromoteConfig) -> dict[str, Any]:
    from depthflow.registry.promotion import previous_champion, version_with_alias
    from depthflow.registry.versions import CHAMPION

    champion = version_with_alias(config.model_name, CHAMPION)
    target = previous_champion(config.model_name, experiment=config.experiment)
    reasons = (config.reason or "rolled back by hand",)
    return _conclude(config, "rolled_back", target, champion.version if champion else None, reasons, {})


def _challenge(config: PromoteConfig) -> dict[str, Any]:
    from depthflow.registry.gate import Policy, decide
    from depthflow.registry.promotion import version_with_alias
    from depthflow.registry.versions import CHALLENGER, CHAMPION, resolve_model

    challenger = resolve_model(f"models:/{config.model_name}@{CHALLENGER}")
    alias = version_with_alias(config.model_name, CHAMPION)
    champion = resolve_model(alias.uri) if alias else None
    if champion is not None and champion.uri == challenger.uri:
        raise RegistryError(f"The challenger, {champion.uri}, is the champion already. Train a new version first.")
    evaluations = _evaluate(config, challenger, champion)
    candidates = {name: _candidate(name, evaluation) for name, evaluation in evaluations.items()}
    rival = champion.uri if champion else BASELINE
    policy = Policy(
        margin=config.margin,
        tolerance=config.tolerance,
        confidence=config.confidence,
        max_latency_ratio=config.max_latency_ratio,
    )
    decision = decide(challenger=candidates[challenger.uri], champion=candidates[rival], policy=policy)
    before = alias.version if alias else None
    assert challenger.version is not None
    moves = decision.promote or config.force
    return _conclude(
        config,
        "promoted" if decision.promote else "forced" if config.force else "refused",
        challenger.version.version if moves else before,
        before,
        decision.reasons + ((config.reason,) if config.reason else ()),
        {
            "policy": vars(policy),
            "improvement": decision.improvement._asdict(),
            "evaluations": {name: _figures(candidate) for name, candidate in candidates.items()},
        },
    )


def _figures(candidate: "Candidate") -> dict[str, Any]:
    """What the record keeps of a candidate: all but the single images."""
    kept = {name: value for name, value in vars(candidate).items() if name != "errors"}
    return {"figures" if name == "metrics" else name: value for name, value in kept.items()}


def _evaluate(
    config: PromoteConfig, challenger: "ResolvedModel", champion: "ResolvedModel | None"
) -> dict[str, "Evaluation"]:
    """Both models, or the challenger and the mean-depth baseline, in one pass."""
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.evaluate import Evaluator
    from depthflow.evaluation.protocols import find_protocol
    from depthflow.inference.predictor import ConstantPredictor, load_predictor
    from depthflow.placement import cluster_capacity, plan_pool
    from depthflow.store.store import open_store

    protocol, store = find_protocol(config.protocol), open_store(config.samples or "")
    baseline_depth_m = challenger.baseline_depth_m
    models: dict[str, LoadPredictor] = {challenger.uri: lambda: load_predictor(challenger.download())}
    if champion is not None:
        models[champion.uri] = lambda: load_predictor(champion.download())
    elif baseline_depth_m is not None:
        models[BASELINE] = lambda: ConstantPredictor(baseline_depth_m)
    else:
        raise RegistryError(
            f"{challenger.uri} has no baseline_depth_m tag, and there is no champion to compare with. Register one "
            "with train.py, which sets the tag."
        )
    with ray_session(config.num_cpus):
        return Evaluator(
            models,
            store=store,
            split=config.split,
            protocol=protocol,
            **vars(plan_pool(config.num_workers, **cluster_capacity())),
        ).evaluate()


def _candidate(label: str, evaluation: "Evaluation") -> "Candidate":
    from depthflow.registry.gate import PRIMARY_METRIC, Candidate

    return Candidate(
        label=label,
        protocol=evaluation.protocol,
        fingerprint=evaluation.fingerprint,
        samples=evaluation.samples,
        metrics=evaluation.metrics,
        errors={image["sample_id"]: image[PRIMARY_METRIC] for image in evaluation.images},
        image_ms=None if label == BASELINE else evaluation.image_ms,  # Who predicts one depth is no measure of speed.
        problems=evaluation.problems,
    )


def _conclude(
    config: PromoteConfig,
    decision: str,
    champion: str | None,
    previous: str | None,
    reasons: tuple[str, ...],
    evidence: dict[str, Any],
) -> dict[str, Any]:
    from depthflow.registry.promotion import Record, record_decision

    if not config.dry_run:
        record = Record(
            decision=decision,
            model_name=config.model_name,
            champion=champion,
            previous=previous,
            reasons=reasons,
            evidence=evidence,
        )
        record_decision(record, experiment=config.experiment)
    return {
        "decision": decision,
        "champion": champion,
        "previous": previous,
        "reasons": list(reasons),
        "dry_run": config.dry_run,
        **evidence,
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
