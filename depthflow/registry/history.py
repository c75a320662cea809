"""The decisions recorded so far, and the champions before the present one.

A decision is one MLflow run in an experiment of its own. `promotion.py` writes them.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run, RunInfo
from mlflow.exceptions import MlflowException

from depthflow.errors import RegistryError
from depthflow.registry.tracking import mlflow_at, tracking_uri
from depthflow.registry.versions import CHAMPION

MOVES = ("promoted", "forced", "rolled_back")
"""Decisions that move the alias; `refused` does not."""
STALE_S = 20.0
"""A decision still running after this time is taken for killed."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A recorded move of the alias.

    Attributes:
        decision: One of `MOVES`.
        champion: Version that the alias moved to.
        previous: Version that it moved from; None if there was no champion.
        is_finished: Whether the record says that the alias moved; False for a move that was killed.
    """

    decision: str
    champion: str
    previous: str | None = None
    is_finished: bool = True


def champion_of(model_name: str) -> str | None:
    """Returns the version with the alias champion, or None."""
    try:
        with mlflow_at(tracking_uri()) as client:
            return str(client.get_model_version_by_alias(model_name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def champions(moves: Iterable[Move]) -> list[str]:
    """Returns the champions in order, the present one last. A rollback takes back the move before it."""
    stack: list[str] = []
    for move in moves:
        if move.decision == "rolled_back":
            del stack[-1:]
        elif not stack or stack[-1] != move.champion:
            stack.append(move.champion)
    return stack


def effective(moves: Sequence[Move], *, present: str | None) -> list[bool]:
    """Returns which moves reached the alias: those that finished, and those killed after it had moved.

    A finished move recorded the champion it found. So a killed move reached the alias if its champion is what the next
    finished move, or the alias now, shows, and if the alias was before where this move came from.

    Args:
        moves: All moves, oldest first.
        present: Version that is champion now.
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
    """Returns the version to roll back to.

    Raises:
        RegistryError: if no champion came before the present one.
    """
    runs = decisions(model_name, experiment)
    moved = _moved(runs, present=champion_of(model_name))
    before = champions(_move(run) for run in runs if run.info.run_id in moved)
    if len(before) < 2:
        raise RegistryError(
            f"{model_name} has no champion before the present one, so there is nothing to roll back to. See --history."
        )
    return before[-2]


def history(model_name: str, *, experiment: str) -> list[dict[str, Any]]:
    """Returns one row per decision, oldest first.

    Returns:
        Rows of when, who, decision, champion and previous (versions or None), reasons, run_id, moved (whether the
        decision moved the alias), and status: finished, failed, killed, or running if it may be alive.
    """
    rows = []
    runs = decisions(model_name, experiment)
    moved = _moved(runs, present=champion_of(model_name))
    for run in runs:
        tags = run.data.tags
        is_killed = run.info.status == "RUNNING" and is_stale(run.info)
        rows.append(
            {
                "when": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
                "who": tags.get("depthflow.who"),
                "decision": tags["depthflow.decision"],
                "champion": tags["depthflow.champion"] or None,
                "previous": tags.get("depthflow.previous") or None,
                "reasons": json.loads(tags.get("depthflow.reasons", "[]")),
                "status": "killed" if is_killed else run.info.status.lower(),
                "moved": run.info.run_id in moved,
                "run_id": run.info.run_id,
            }
        )
    return rows


def is_stale(info: RunInfo) -> bool:
    """Returns whether a decision that still runs is taken for killed."""
    return info.start_time <= (time.time() - STALE_S) * 1000


def describe(row: dict[str, Any]) -> str:
    """Formats a row of `history`."""
    alias = "after it had moved the alias" if row["moved"] else "the alias not moved"
    status = "" if row["status"] == "finished" else f" ({row['status']}, {alias})"
    moved = f"{row['previous'] or 'none'} -> {row['champion'] or 'none'}"
    return f"{row['when']} {row['who']} {row['decision']}{status} {moved}: {'; '.join(row['reasons'])}"


def decisions(model_name: str, experiment: str) -> list[Run]:
    """Returns the runs that record a model's decisions, oldest first."""
    with mlflow_at(tracking_uri()) as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        runs: list[Run] = []
        token: str | None = None
        while token != "":
            page = client.search_runs(
                [found.experiment_id],
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            # Selected here: a filter of MLflow cannot quote every name.
            runs += [run for run in page if run.data.tags.get("depthflow.model") == model_name]
            token = page.token or ""
        return runs


def _moved(runs: Iterable[Run], *, present: str | None) -> set[str]:
    """Returns the run IDs of the decisions that moved the alias. A failed one did not."""
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
