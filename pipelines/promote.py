"""Promote the challenger if it is better, or roll back, or show the history."""

import sys
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.errors import RegistryError
from depthflow.evaluation.config import PromoteConfig

if TYPE_CHECKING:
    from depthflow.evaluation.evaluate import Evaluation
    from depthflow.registry.gate import Candidate
    from depthflow.registry.promotion import Record

BASELINE = "the mean-depth baseline"


def main(config: PromoteConfig) -> dict[str, Any]:
    """Decides, moves the alias champion, and returns the decision with its reasons."""
    from depthflow.registry.promotion import Record, history, previous_champion, record_decision, version_with_alias
    from depthflow.registry.versions import CHAMPION

    champion = version_with_alias(config.model_name, CHAMPION)
    version = champion.version if champion else None
    if config.history:
        decisions = history(config.model_name, experiment=config.experiment)
        for decision in decisions:
            print(history_line(decision))
        return {"model_name": config.model_name, "champion": version, "decisions": decisions}
    if config.rollback:
        record = Record(
            decision="rolled_back",
            model_name=config.model_name,
            champion=previous_champion(config.model_name, experiment=config.experiment),
            previous=version,
            reasons=(config.reason or "rolled back by hand",),
            evidence={},
        )
    else:
        record = challenge(config, version)
    if not config.dry_run:
        record_decision(record, experiment=config.experiment)
    decided = {name: getattr(record, name) for name in ("decision", "champion", "previous", "reasons")}
    return {**decided, "dry_run": config.dry_run, **record.evidence}


def history_line(decision: dict[str, Any]) -> str:
    """Describes one recorded decision."""
    alias = "after it had moved the alias" if decision["moved"] else "the alias not moved"
    status = "" if decision["status"] == "finished" else f" ({decision['status']}, {alias})"
    moved = f"{decision['previous'] or 'none'} -> {decision['champion'] or 'none'}"
    return (
        f"{decision['when']} {decision['who']} {decision['decision']}{status} {moved}: {'; '.join(decision['reasons'])}"
    )


def challenge(config: PromoteConfig, version: str | None) -> "Record":
    """Compares the challenger with the champion, or with the mean-depth baseline if there is no champion.

    Args:
        version: Version that is the champion now.
    """
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.evaluate import evaluate_models
    from depthflow.evaluation.protocols import find_protocol
    from depthflow.inference.named_model import find_model
    from depthflow.registry.versions import CHALLENGER
    from depthflow.store.store import open_store

    challenger = find_model(f"models:/{config.model_name}@{CHALLENGER}")
    rival = find_model(f"models:/{config.model_name}/{version}") if version else challenger.baseline
    if rival is None:
        raise RegistryError(
            f"{challenger.uri} has no baseline_depth_m tag, and there is no champion to compare with. Register one "
            "with train.py, which sets the tag."
        )
    if rival.uri == challenger.uri:
        raise RegistryError(f"The challenger, {rival.uri}, is the champion already. Train a new version first.")
    with ray_session(config.num_cpus):
        evaluations, _ = evaluate_models(
            {challenger.uri: challenger, rival.uri if version else BASELINE: rival},
            store=open_store(config.samples or ""),
            split=config.split,
            protocol=find_protocol(config.protocol),
            num_workers=config.num_workers,
        )
    return judge(config, [candidate(*each) for each in evaluations.items()], challenger.version, version)


def candidate(label: str, evaluation: "Evaluation") -> "Candidate":
    """Returns what the gate compares. The baseline has no speed: it computes nothing."""
    from depthflow.registry.gate import PRIMARY_METRIC, Candidate

    return Candidate(
        label=label,
        protocol=evaluation.protocol,
        fingerprint=evaluation.fingerprint,
        samples=evaluation.samples,
        metrics=evaluation.metrics,
        errors={image["sample_id"]: image[PRIMARY_METRIC] for image in evaluation.images},
        image_ms=None if label == BASELINE else evaluation.image_ms,
        problems=evaluation.problems,
    )


def judge(
    config: PromoteConfig, candidates: "list[Candidate]", challenger: str | None, champion: str | None
) -> "Record":
    """Decides between two candidates, the challenger first; the versions are those of the registry."""
    from depthflow.registry.gate import Policy, decide
    from depthflow.registry.promotion import Record

    policy = Policy(
        margin=config.margin,
        tolerance=config.tolerance,
        confidence=config.confidence,
        max_latency_ratio=config.max_latency_ratio,
    )
    decision = decide(challenger=candidates[0], champion=candidates[1], policy=policy)
    return Record(
        decision="promoted" if decision.promote else "forced" if config.force else "refused",
        model_name=config.model_name,
        champion=challenger if decision.promote or config.force else champion,
        previous=champion,
        reasons=decision.reasons + ((config.reason,) if config.reason else ()),
        evidence={
            "policy": vars(policy),
            "improvement": decision.improvement._asdict(),
            "evaluations": {found.label: found.evidence for found in candidates},
        },
    )


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
