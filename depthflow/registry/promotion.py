"""Moving the champion alias, with a record of every decision: who, when, why, and the metrics of both.

A decision is one MLflow run in an experiment of its own. It is written before the alias moves and finished after, so
that a promotion killed half-way leaves a record that says what was under way.
"""

import getpass
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run, RunInfo
from mlflow.exceptions import MlflowException

from depthflow.errors import RegistryError
from depthflow.registry.runs import mlflow_run
from depthflow.registry.tracking import tracking_uri, use_tracking_uri
from depthflow.registry.versions import CHAMPION, ModelVersion

MOVES = ("promoted", "forced", "rolled_back")
"""Decisions that move the alias; the other is refused."""
STALE_S = 20.0
"""A decision that takes longer to move the alias than this was killed."""
SETTLE_S = 2.0
"""For how long the first of several waits for the others, whose clocks may differ."""
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Move:
    """One recorded move of the alias.

    Attributes:
        decision: one of `MOVES`.
        champion: the version that the alias went to.
        previous: the one that it came from; None where there was none.
        is_finished: whether the record says that the alias moved. One that was killed half-way does not.
    """

    decision: str
    champion: str
    previous: str | None = None
    is_finished: bool = True


def version_with_alias(model_name: str, alias: str) -> ModelVersion | None:
    """The version that an alias names, or None."""
    client = use_tracking_uri(tracking_uri())
    try:
        found = client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return ModelVersion(name=model_name, version=str(found.version))


def champions(moves: Iterable[Move]) -> list[str]:
    """The champions before now and the present one last, a rollback having taken back the move before it."""
    stack: list[str] = []
    for move in moves:
        if move.decision == "rolled_back":
            del stack[-1:]
        elif not stack or stack[-1] != move.champion:
            stack.append(move.champion)
    return stack


def effective(moves: Sequence[Move], *, present: str | None) -> list[bool]:
    """Which moves reached the alias: those that say so, and those that were killed after it had moved.

    Every finished move has seen what the alias named before it. So a killed one had moved it if that is where the
    next one, or who looks now, has found it, and if it was before where this one came from.

    Args:
        moves: the oldest first.
        present: the version that the alias names now.
    """
    found_after: list[str | None] = []
    found = present
    for move in reversed(moves):
        found_after.append(found)
        if move.is_finished or move.champion == found:
            found = move.previous
    alias: str | None = None
    reached = []
    for move, after in zip(moves, reversed(found_after), strict=True):
        reached.append(move.is_finished or (move.champion == after and move.previous == alias))
        alias = move.champion if reached[-1] else alias
    return reached


def previous_champion(model_name: str, *, experiment: str) -> str:
    """The version to roll back to.

    Raises:
        RegistryError: if no champion came before the present one.
    """
    present = version_with_alias(model_name, CHAMPION)
    runs = _decisions(model_name, experiment)
    moved = _moved(runs, present=present.version if present else None)
    before = champions(_move(run) for run in runs if run.info.run_id in moved)
    if len(before) < 2:
        raise RegistryError(
            f"{model_name} has no champion before the present one, so there is nothing to roll back to. See --history."
        )
    return before[-2]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is written of a decision.

    Attributes:
        decision: refused, promoted, forced or rolled_back.
        model_name: of the registry.
        champion: the version that is champion afterwards.
        previous: the one before.
        reasons: why.
        evidence: what it was decided upon: protocol, fingerprint, samples, metrics.
    """

    decision: str
    model_name: str
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any]


def record_decision(record: Record, *, experiment: str) -> None:
    """Writes the record and, for one of `MOVES`, moves the champion alias.

    Raises:
        RegistryError: if the champion is no longer `record.previous`, as somebody else was faster. The record then
            says that it failed.
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
            _move_alias(record, record.champion, run_log.run_id, experiment)


def _move_alias(record: Record, champion: str, run_id: str, experiment: str) -> None:
    """Moves the alias unless somebody else has.

    MLflow moves an alias whatever it names. So whoever wants to move it has written so first, and of two that see
    each other the later one waits for the other's end; one that was killed is waited for no longer than `STALE_S`.
    """
    client = use_tracking_uri(tracking_uri())
    began = time.monotonic()
    mine = client.get_run(run_id).info
    while waited_for := _under_way(record.model_name, experiment, but=run_id):
        later = any((other.start_time, other.run_id) < (mine.start_time, run_id) for other in waited_for)
        if time.monotonic() - began > (STALE_S if later else SETTLE_S):
            break
        time.sleep(POLL_S)
    present = version_with_alias(record.model_name, CHAMPION)
    if (present.version if present else None) != record.previous:
        raise RegistryError(
            f"The champion of {record.model_name} became version {present.version if present else 'none'} while "
            f"version {record.champion} was compared with {record.previous or 'the baseline'}. Run the command again."
        )
    client.set_registered_model_alias(record.model_name, CHAMPION, champion)


def _under_way(model_name: str, experiment: str, *, but: str) -> list[RunInfo]:
    """Other decisions that are about to move the alias, and young enough to be alive."""
    since = int((time.time() - STALE_S) * 1000)
    return [
        run.info
        for run in _decisions(model_name, experiment)
        if run.info.status == "RUNNING"
        and run.info.run_id != but
        and run.info.start_time > since
        and run.data.tags["depthflow.decision"] in MOVES
    ]


def history(model_name: str, *, experiment: str) -> list[dict[str, Any]]:
    """Every decision so far, the oldest first.

    Returns:
        A row each: when, who, decision, champion and previous (versions or None), reasons, run_id; whether it moved
        the alias; and status: finished, failed, killed, or running where it is too young to tell.
    """
    rows = []
    present = version_with_alias(model_name, CHAMPION)
    runs = _decisions(model_name, experiment)
    moved = _moved(runs, present=present.version if present else None)
    for run in runs:
        tags = run.data.tags
        is_stale = run.info.status == "RUNNING" and run.info.start_time <= (time.time() - STALE_S) * 1000
        rows.append(
            {
                "when": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
                "who": tags.get("depthflow.who"),
                "decision": tags["depthflow.decision"],
                "champion": tags["depthflow.champion"] or None,
                "previous": tags.get("depthflow.previous") or None,
                "reasons": json.loads(tags.get("depthflow.reasons", "[]")),
                "status": "killed" if is_stale else run.info.status.lower(),
                "moved": run.info.run_id in moved,
                "run_id": run.info.run_id,
            }
        )
    return rows


def _user() -> str:
    """Who runs this; in a container a user id may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _moved(runs: Iterable[Run], *, present: str | None) -> set[str]:
    """Ids of the decisions that moved the alias; a failed one says itself that it did not."""
    tried = [run for run in runs if run.data.tags["depthflow.decision"] in MOVES and run.info.status != "FAILED"]
    reached = effective([_move(run) for run in tried], present=present)
    return {run.info.run_id for run, has_moved in zip(tried, reached, strict=True) if has_moved}


def _move(run: Run) -> Move:
    tags = run.data.tags
    return Move(
        decision=tags["depthflow.decision"],
        champion=tags["depthflow.champion"],
        previous=tags.get("depthflow.previous") or None,
        is_finished=run.info.status == "FINISHED",
    )


def _decisions(model_name: str, experiment: str) -> list[Run]:
    """The runs that record a model's decisions, the oldest first."""
    client = use_tracking_uri(tracking_uri())
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    filter_string = f"tags.`depthflow.model` = '{model_name}'"
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [found.experiment_id],
            filter_string=filter_string,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs
