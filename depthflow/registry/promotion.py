"""Moving the champion alias, with a record of every decision: who, when, why, and the figures of both.

A decision is one MLflow run in an experiment of its own. It is written before the alias moves and finished after, so
that a promotion killed half-way leaves a record that says what was under way.
"""

import getpass
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from depthflow.errors import RegistryError
from depthflow.registry.runs import RunLog, mlflow_run
from depthflow.registry.tracking import tracking_uri, use_tracking_uri
from depthflow.registry.versions import CHAMPION, ModelVersion

MOVES = ("promoted", "forced", "rolled_back")
"""Decisions that move the alias; the other is refused."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One recorded move of the alias.

    Attributes:
        decision: one of `MOVES`.
        champion: the version that the alias went to.
    """

    decision: str
    champion: str


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


def previous_champion(model_name: str, *, experiment: str) -> str:
    """The version to roll back to.

    Raises:
        RegistryError: if no champion came before the present one.
    """
    present = version_with_alias(model_name, CHAMPION)
    before = champions(_recorded_moves(model_name, experiment, present=present.version if present else None))
    if len(before) < 2:
        raise RegistryError(
            f"{model_name} has no champion before the present one, so there is nothing to roll back to."
        )
    return before[-2]


def record_decision(
    decision: str,
    *,
    model_name: str,
    champion: str | None,
    previous: str | None,
    reasons: tuple[str, ...],
    evidence: Mapping[str, Any],
    experiment: str,
) -> None:
    """Writes the record and, for one of `MOVES`, moves the champion alias.

    Args:
        decision: refused, promoted, forced or rolled_back.
        champion: the version that is champion afterwards.
        previous: the one before.
        reasons: why.
        evidence: protocol, fingerprint, samples, figures.
    """
    tags = {
        "depthflow.kind": "promotion",
        "depthflow.model": model_name,
        "depthflow.decision": decision,
        "depthflow.champion": champion or "",
        "depthflow.previous": previous or "",
    }
    with mlflow_run(experiment=experiment, name=f"{decision}-{model_name}-{champion}", tags=tags) as run_log:
        _write_record(run_log, decision, model_name, champion, previous, reasons, evidence)
        if decision in MOVES and champion is not None:
            MlflowClient(run_log.tracking_uri, run_log.tracking_uri).set_registered_model_alias(
                model_name, CHAMPION, champion
            )


def _write_record(
    run_log: RunLog,
    decision: str,
    model_name: str,
    champion: str | None,
    previous: str | None,
    reasons: tuple[str, ...],
    evidence: Mapping[str, Any],
) -> None:
    record = {
        "decision": decision,
        "model_name": model_name,
        "champion": champion,
        "previous": previous,
        "reasons": list(reasons),
        "who": _user(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **evidence,
    }
    run_log.document(record, "decision.json")


def _user() -> str:
    """Who runs this; in a container a user id may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _recorded_moves(model_name: str, experiment: str, *, present: str | None) -> list[Move]:
    """The moves of a model's alias, in the order they were made.

    Args:
        present: the version that the alias names. A move that was killed before its record was finished counts if it
            is the last one and the alias is where it was to go.
    """
    client = use_tracking_uri(tracking_uri())
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    runs = client.search_runs(
        [found.experiment_id],
        filter_string=f"tags.`depthflow.model` = '{model_name}'",
        order_by=["attributes.start_time ASC"],
        max_results=50_000,
    )
    moves = []
    for run in runs:
        move = Move(decision=run.data.tags["depthflow.decision"], champion=run.data.tags["depthflow.champion"])
        finished = run.info.status == "FINISHED"
        half_way = run is runs[-1] and run.info.status == "RUNNING" and move.champion == present
        if move.decision in MOVES and (finished or half_way):
            moves.append(move)
    return moves
