"""Moving the champion alias, with a record of every decision: who, when, why, and the metrics of both models.

The record is written before the alias moves and finished afterwards, so a promotion that is killed leaves a record of
what it was doing.
"""

import getpass
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run, RunInfo

from depthflow.errors import RegistryError
from depthflow.registry.gate import Candidate, Policy, decide
from depthflow.registry.history import MOVES, STALE_S, champion_of, decisions, is_stale, previous_champion
from depthflow.registry.runs import mlflow_run
from depthflow.registry.tracking import mlflow_at, tracking_uri
from depthflow.registry.versions import CHAMPION

SETTLE_S = 2.0
"""How long the first of several decisions waits for the others, whose clocks may differ."""
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Record:
    """A decision and its reasons.

    Attributes:
        decision: refused, promoted, forced or rolled_back.
        model_name: Registered model.
        champion: Version that is champion afterwards.
        previous: Version that was champion before.
        reasons: Why.
        evidence: What the decision is based on: policy, protocol, fingerprint, samples, metrics.
    """

    decision: str
    model_name: str
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any]


def judge(
    challenger: Candidate,
    champion: Candidate,
    *,
    policy: Policy,
    model_name: str,
    versions: tuple[str | None, str | None],
    force: bool,
    reason: str,
) -> Record:
    """Decides between two candidates, given their versions; the baseline has none. `force` overrules the gate."""
    decision = decide(challenger=challenger, champion=champion, policy=policy)
    return Record(
        decision="promoted" if decision.promote else "forced" if force else "refused",
        model_name=model_name,
        champion=versions[0] if decision.promote or force else versions[1],
        previous=versions[1],
        reasons=decision.reasons + ((reason,) if reason else ()),
        evidence={
            "policy": vars(policy),
            "improvement": decision.improvement._asdict(),
            "evaluations": {found.label: found.evidence for found in (challenger, champion)},
        },
    )


def rollback(model_name: str, champion: str | None, *, experiment: str, reason: str) -> Record:
    """Decides to roll back.

    Raises:
        RegistryError: if no champion came before the present one.
    """
    return Record(
        decision="rolled_back",
        model_name=model_name,
        champion=previous_champion(model_name, experiment=experiment),
        previous=champion,
        reasons=(reason or "rolled back by hand",),
        evidence={},
    )


def record_decision(record: Record, *, experiment: str) -> None:
    """Writes the record and, for one of `MOVES`, moves the champion alias.

    Raises:
        RegistryError: if the champion is no longer `record.previous`, because another decision was faster. The record
            then says that it failed.
    """
    who = _user()
    tags = {
        "depthflow.kind": "promotion",
        "depthflow.model": record.model_name,
        "depthflow.decision": record.decision,
        "depthflow.champion": record.champion or "",
        "depthflow.previous": record.previous or "",
        "depthflow.reasons": json.dumps(record.reasons),
        "depthflow.who": who,
    }
    name = f"{record.decision}-{record.model_name}-{record.champion}"
    with mlflow_run(experiment=experiment, name=name, tags=tags) as run_log:
        facts = {name: value for name, value in vars(record).items() if name != "evidence"}
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        run_log.document({**facts, "who": who, "when": when, **record.evidence}, "decision.json")
        if record.decision in MOVES and record.champion is not None:
            try:
                _move_alias(record, record.champion, run_log.run_id, experiment)
            except RegistryError as error:
                run_log.tag({"depthflow.reasons": json.dumps([*record.reasons, str(error)])})
                raise


def _move_alias(record: Record, champion: str, run_id: str, experiment: str) -> None:
    """Moves the alias unless another decision has.

    MLflow sets an alias whatever its present value. So every decision is recorded first, and the later of two waits
    until the other ends; after `STALE_S` it takes the other for killed. A decision that took longer than that may
    have overwritten a later one. So it checks again after setting the alias, and restores the later one.
    """
    with mlflow_at(tracking_uri()) as client:
        mine = client.get_run(run_id).info
    _wait_for_others(record.model_name, experiment, mine)
    moved_before = {run.info.run_id for run in _moves(record.model_name, experiment, "FINISHED")}
    present = champion_of(record.model_name)
    if present != record.previous:
        raise RegistryError(
            f"The champion of {record.model_name} became version {present or 'none'} while version {champion} was "
            f"compared with {record.previous or 'the baseline'}. Run the command again."
        )
    _set_champion(record.model_name, champion)
    if is_stale(mine):
        _wait_for_others(record.model_name, experiment, mine)
        moved = _moves(record.model_name, experiment, "FINISHED")
        later = [run.data.tags["depthflow.champion"] for run in moved if run.info.run_id not in moved_before]
        if later:
            _set_champion(record.model_name, later[-1])
            raise RegistryError(
                f"Moving the champion of {record.model_name} to version {champion} took longer than {STALE_S:g} s, and "
                f"version {later[-1]} became champion meanwhile. It was restored. Run the command again."
            )


def _set_champion(model_name: str, champion: str) -> None:
    with mlflow_at(tracking_uri()) as client:
        client.set_registered_model_alias(model_name, CHAMPION, champion)


def _wait_for_others(model_name: str, experiment: str, mine: RunInfo) -> None:
    """Waits until no other decision is about to move the alias, at most `STALE_S`; the first one only `SETTLE_S`."""
    began = time.monotonic()
    while True:
        moves = [run.info for run in _moves(model_name, experiment, "RUNNING") if run.info.run_id != mine.run_id]
        others = [other for other in moves if not is_stale(other)]
        is_first = all((mine.start_time, mine.run_id) < (other.start_time, other.run_id) for other in others)
        limit_s = SETTLE_S if is_first and not is_stale(mine) else STALE_S
        if not others or time.monotonic() - began > limit_s:
            return
        time.sleep(POLL_S)


def _moves(model_name: str, experiment: str, status: str) -> list[Run]:
    """Returns the decisions with this status that move the alias, oldest first."""
    runs = decisions(model_name, experiment)
    return [run for run in runs if run.info.status == status and run.data.tags["depthflow.decision"] in MOVES]


def _user() -> str:
    """Returns the user's name, or the user ID if it has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
