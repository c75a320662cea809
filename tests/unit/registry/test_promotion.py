"""Who is champion after a history of moves: a stack, from which a rollback takes one. And the record of each move."""

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import mlflow
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from depthflow.errors import RegistryError
from depthflow.registry.history import MOVES, Move, champion_of, champions, effective, history, previous_champion
from depthflow.registry.promotion import POLL_S, Record, record_decision
from depthflow.registry.runs import mlflow_run
from depthflow.registry.versions import CHAMPION


def moves_of(*moves: str) -> list[Move]:
    """From words such as promoted:1 forced:2 rolled_back:1."""
    parted = (move.split(":") for move in moves)
    return [Move(decision=decision, champion=champion) for decision, champion in parted]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ((), []),
        (("promoted:1",), ["1"]),
        (("promoted:1", "promoted:2"), ["1", "2"]),
        (("promoted:1", "promoted:2", "rolled_back:1"), ["1"]),
        (("promoted:1", "promoted:2", "promoted:3", "rolled_back:2", "rolled_back:1"), ["1"]),
        (("promoted:1", "promoted:2", "rolled_back:1", "promoted:3"), ["1", "3"]),
        (("promoted:1", "promoted:2", "rolled_back:1", "promoted:3", "rolled_back:1"), ["1"]),
        (("promoted:1", "forced:2"), ["1", "2"]),
        (("promoted:1", "forced:2", "rolled_back:1"), ["1"]),
        (("promoted:1", "forced:1"), ["1"]),
        (("promoted:1", "promoted:2", "forced:2", "rolled_back:1"), ["1"]),
        (("promoted:1", "promoted:2", "promoted:1"), ["1", "2", "1"]),
        (("promoted:1", "promoted:2", "promoted:1", "rolled_back:2"), ["1", "2"]),
    ],
)
def test_by_hand(moves, expected):
    assert champions(moves_of(*moves)) == expected


def test_takes_any_iterable_and_refused_is_no_move():
    assert champions(iter(moves_of("promoted:1", "promoted:2"))) == ["1", "2"]
    assert "refused" not in MOVES


@given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from(["promoted", "forced"]), st.sampled_from("1234")))))
def test_a_stack(actions):
    """None rolls back where it can; every rollback goes to the champion before, as the command has it."""
    moves: list[Move] = []
    alias: list[str] = []  # What the alias named after each move that has not been taken back.
    for action in actions:
        if action is not None:
            decision, version = action
            moves.append(Move(decision=decision, champion=version))
            if alias[-1:] != [version]:
                alias.append(version)
        elif len(alias) > 1:
            alias.pop()
            moves.append(Move(decision="rolled_back", champion=alias[-1]))
    assert champions(moves) == alias
    if moves:
        assert champions(moves)[-1] == moves[-1].champion, "the last one is what the alias names now"


@given(
    st.lists(st.sampled_from("12345"), min_size=1, max_size=12).filter(lambda v: all(a != b for a, b in pairwise(v)))
)
def test_rolling_all_back_ends_at_the_first(versions):
    moves = [Move(decision="promoted", champion=version) for version in versions]
    for target in reversed(versions[:-1]):
        assert champions(moves)[-2] == target
        moves.append(Move(decision="rolled_back", champion=target))
    assert champions(moves) == versions[:1]


def killed(move: str) -> Move:
    """From words such as promoted:1>2."""
    decision, versions = move.split(":")
    previous, champion = versions.split(">")
    return Move(decision=decision, champion=champion, previous=previous or None, is_finished=False)


def finished(move: str) -> Move:
    return replace(killed(move), is_finished=True)


@pytest.mark.parametrize(
    ("moves", "present", "reached"),
    [
        ([killed("promoted:>1")], None, [False]),
        ([killed("promoted:>1")], "1", [True]),
        ([finished("promoted:>1"), killed("promoted:1>2")], "1", [True, False]),
        ([finished("promoted:>1"), killed("promoted:1>2")], "2", [True, True]),
        # What came after it has seen where the alias was.
        ([finished("promoted:>1"), killed("promoted:1>2"), finished("promoted:2>3")], "3", [True, True, True]),
        ([finished("promoted:>1"), killed("promoted:1>2"), finished("promoted:1>3")], "3", [True, False, True]),
        ([killed("promoted:>1"), killed("promoted:1>2"), killed("promoted:2>3")], "3", [True, True, True]),
        ([killed("promoted:>1"), killed("promoted:1>2"), killed("promoted:2>3")], "2", [True, True, False]),
        # Two rolled back at once: the one that was killed was not the one that did it.
        (
            [finished("promoted:>1"), finished("promoted:1>2"), finished("rolled_back:2>1"), killed("rolled_back:2>1")],
            "1",
            [True, True, True, False],
        ),
    ],
)
def test_a_killed_move_counts_if_the_alias_had_moved(moves, present, reached):
    assert effective(moves, present=present) == reached


# --- with a registry ---

EXPERIMENT = "promotions"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """Absolute URI of an empty registry."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def client(tracking, monkeypatch):
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    yield MlflowClient(tracking, tracking)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture
def model(client, request):
    """A registered model of this test's own, with versions 1 to 3."""
    name = f"model of {request.node.name}"
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, source="/absent")
    return name


def decide_upon(model: str, decision: str, champion: str | None, previous: str | None = None) -> None:
    record = Record(
        decision=decision,
        model_name=model,
        champion=champion,
        previous=previous,
        reasons=("because",),
        evidence={"evaluations": {"version 2": {"samples": 3}}},
    )
    record_decision(record, experiment=EXPERIMENT)


def test_nothing_is_champion_at_first(model):
    assert champion_of(model) is None
    assert champion_of("no such model") is None
    with pytest.raises(RegistryError, match="no champion before the present one"):
        previous_champion(model, experiment=EXPERIMENT)
    with pytest.raises(RegistryError, match="no champion before the present one"):
        previous_champion(model, experiment="no such experiment")


def test_moves_the_alias_and_rolls_back_to_the_one_before(model):
    decide_upon(model, "promoted", "1")
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        previous_champion(model, experiment=EXPERIMENT)
    decide_upon(model, "promoted", "2", "1")
    decide_upon(model, "refused", "2", "2")
    decide_upon(model, "forced", "3", "2")
    assert champion_of(model) == "3"
    for target in ("2", "1"):
        assert previous_champion(model, experiment=EXPERIMENT) == target
        decide_upon(model, "rolled_back", target, champion_of(model))
        assert champion_of(model) == target
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        previous_champion(model, experiment=EXPERIMENT)


def test_refusal_moves_nothing_but_is_recorded_with_its_evidence(client, model):
    decide_upon(model, "promoted", "1")
    decide_upon(model, "refused", "1", "1")
    assert champion_of(model) == "1"
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], filter_string=f"tags.`depthflow.model` = '{model}'")
    assert sorted(run.data.tags["depthflow.decision"] for run in runs) == ["promoted", "refused"]
    for run in runs:
        record = json.loads(Path(client.download_artifacts(run.info.run_id, "decision.json")).read_text())
        assert record["decision"] == run.data.tags["depthflow.decision"]
        assert (record["model_name"], record["champion"], record["reasons"]) == (model, "1", ["because"])
        assert record["evaluations"] == {"version 2": {"samples": 3}}
        assert record["who"] and record["when"]


def test_another_models_moves_do_not_count(client, model):
    client.create_registered_model(f"{model}, other")
    client.create_model_version(f"{model}, other", source="/absent")
    decide_upon(model, "promoted", "1")
    decide_upon(f"{model}, other", "promoted", "1")
    decide_upon(model, "promoted", "2", "1")
    assert previous_champion(model, experiment=EXPERIMENT) == "1"


def test_a_move_that_fails_does_not_count(model):
    decide_upon(model, "promoted", "1")
    with pytest.raises(mlflow.exceptions.MlflowException):
        decide_upon(model, "promoted", "99", "1")
    assert [row["status"] for row in history(model, experiment=EXPERIMENT)] == ["finished", "failed"]
    decide_upon(model, "promoted", "2", "1")
    assert previous_champion(model, experiment=EXPERIMENT) == "1"


def test_rollback_after_a_promotion_that_was_killed(client, model):
    """The alias names 3, its record never finished: back means 2, not 1."""
    decide_upon(model, "promoted", "1")
    decide_upon(model, "promoted", "2", "1")
    killed = client.create_run(
        client.get_experiment_by_name(EXPERIMENT).experiment_id,
        tags={
            "depthflow.kind": "promotion",
            "depthflow.model": model,
            "depthflow.decision": "promoted",
            "depthflow.champion": "3",
            "depthflow.previous": "2",
        },
    )
    client.set_registered_model_alias(model, CHAMPION, "3")
    assert client.get_run(killed.info.run_id).info.status == "RUNNING"
    assert previous_champion(model, experiment=EXPERIMENT) == "2"
    assert [row["moved"] for row in history(model, experiment=EXPERIMENT)] == [True, True, True]
    decide_upon(model, "refused", "3", "3")
    with pytest.raises(RegistryError, match="became version 3"):
        decide_upon(model, "promoted", "1", "2")
    assert previous_champion(model, experiment=EXPERIMENT) == "2", "what moved nothing changes nothing"


def test_rollback_after_a_rollback_that_was_killed(client, model):
    """1, 2, 3, back to 2, and that record never finished: back again means 1, never 3."""
    for version, previous in (("1", None), ("2", "1"), ("3", "2")):
        decide_upon(model, "promoted", version, previous)
    killed = client.create_run(
        client.get_experiment_by_name(EXPERIMENT).experiment_id,
        tags={
            "depthflow.model": model,
            "depthflow.decision": "rolled_back",
            "depthflow.champion": "2",
            "depthflow.previous": "3",
        },
    )
    client.set_registered_model_alias(model, CHAMPION, "2")
    assert client.get_run(killed.info.run_id).info.status == "RUNNING"
    assert previous_champion(model, experiment=EXPERIMENT) == "1"


def test_who_was_slower_is_refused_and_the_record_says_so(model):
    decide_upon(model, "promoted", "1")
    decide_upon(model, "promoted", "2", "1")
    with pytest.raises(
        RegistryError, match=r"became version 2 while version 3 was compared with 1\. Run the command again"
    ):
        decide_upon(model, "promoted", "3", "1")
    with pytest.raises(RegistryError, match="became version 2 while version 3 was compared with the baseline"):
        decide_upon(model, "forced", "3", None)
    assert champion_of(model) == "2"
    rows = history(model, experiment=EXPERIMENT)
    assert [row["status"] for row in rows] == [*["finished"] * 2, *["failed"] * 2]
    assert "became version 2 while version 3" in rows[2]["reasons"][-1]
    assert previous_champion(model, experiment=EXPERIMENT) == "1"


def test_of_many_at_once_one_wins_and_the_others_see_it(client, model):
    """Ten processes decide for different versions, all having seen version 1 as champion."""
    decide_upon(model, "promoted", "1")
    for _ in range(2):
        client.create_model_version(model, source="/absent")
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        candidates = [str(2 + k % 4) for k in range(8)]
        outcomes = list(pool.map(_promoted, [model] * len(candidates), candidates))
    won = [version for version, error in zip(candidates, outcomes, strict=True) if not error]
    assert len(won) == 1 and champion_of(model) == won[0]
    assert all(error.startswith("The champion of") for error in outcomes if error)
    moves = [row for row in history(model, experiment=EXPERIMENT) if row["status"] == "finished"]
    assert [(row["previous"], row["champion"]) for row in moves] == [(None, "1"), ("1", won[0])]


def _promoted(model: str, version: str) -> str:
    """In a process of its own: the error, or nothing."""
    try:
        decide_upon(model, "promoted", version, "1")
    except RegistryError as error:
        return str(error)
    return ""


def shorten(patch: pytest.MonkeyPatch) -> None:
    for module in ("history", "promotion"):
        patch.setattr(f"depthflow.registry.{module}.STALE_S", 1.5)


@pytest.fixture
def short_wait(monkeypatch):
    shorten(monkeypatch)


def test_one_that_was_killed_is_waited_for_a_while_only(client, model, monkeypatch):
    """It said that it would move the alias, and never did. It gets old enough while it is waited for."""
    waits = []

    def wait(seconds):
        waits.append(seconds)
        monkeypatch.setattr("depthflow.registry.history.STALE_S", 300)

    decide_upon(model, "promoted", "1")
    client.create_run(
        client.get_experiment_by_name(EXPERIMENT).experiment_id,
        start_time=int((time.time() - 600) * 1000),
        tags={"depthflow.model": model, "depthflow.decision": "promoted", "depthflow.champion": "3"},
    )
    for module in ("history", "promotion"):
        monkeypatch.setattr(f"depthflow.registry.{module}.STALE_S", 900)
    clock = SimpleNamespace(sleep=wait, monotonic=time.monotonic, strftime=time.strftime)
    monkeypatch.setattr("depthflow.registry.promotion.time", clock)
    decide_upon(model, "promoted", "2", "1")
    assert waits == [POLL_S]
    assert champion_of(model) == "2"
    rows = history(model, experiment=EXPERIMENT)
    assert sorted((row["status"], row["moved"], row["champion"]) for row in rows) == [
        ("finished", True, "1"),
        ("finished", True, "2"),
        ("killed", False, "3"),
    ]


def test_one_that_hangs_while_it_moves_the_alias_gives_way_to_a_later_one(request, model, short_wait):
    """Its process is stopped just before the request, taken for killed, and goes on after the later one has moved."""
    decide_upon(model, "promoted", "1")
    hung = multiprocessing.get_context("spawn").Process(target=_promoted_with_a_stop, args=(model, "2"))
    hung.start()
    request.addfinalizer(hung.kill)
    while psutil.Process(hung.pid).status() != psutil.STATUS_STOPPED:
        assert hung.is_alive()
        time.sleep(0.05)
    decide_upon(model, "promoted", "3", "1")
    os.kill(hung.pid, signal.SIGCONT)
    hung.join(60)
    assert champion_of(model) == "3"
    assert hung.exitcode == 1
    _, failed, finished = history(model, experiment=EXPERIMENT)
    assert (finished["status"], finished["moved"], failed["status"], failed["moved"]) == (
        *("finished", True),
        *("failed", False),
    )
    assert failed["reasons"][0] == "because" and "version 3" in failed["reasons"][-1]
    assert previous_champion(model, experiment=EXPERIMENT) == "1"


def _promoted_with_a_stop(model: str, version: str) -> None:
    """In a process of its own."""
    set_alias = MlflowClient.set_registered_model_alias

    def stop_and_set(*arguments):
        patch.undo()
        os.kill(os.getpid(), signal.SIGSTOP)
        return set_alias(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as limits:
        shorten(limits)
        patch.setattr(MlflowClient, "set_registered_model_alias", stop_and_set)
        decide_upon(model, "promoted", version, "1")


def test_a_name_with_quotes_is_a_name(client):
    """MLflow allows it. It must not end up inside a filter, where it could select other decisions."""
    names = ["it's", 'say "two"', """both ' and " here""", "x' OR tags.`depthflow.model` != 'x"]
    for name in names:
        client.create_registered_model(name)
        client.create_model_version(name, source="/absent")
        decide_upon(name, "promoted", "1")
    for name in names:
        assert champion_of(name) == "1"
        assert [row["champion"] for row in history(name, experiment=EXPERIMENT)] == ["1"]


def test_history_says_who_when_what_and_why(model):
    decide_upon(model, "promoted", "1")
    decide_upon(model, "refused", "1", "1")
    first, second = history(model, experiment=EXPERIMENT)
    assert (first["decision"], first["champion"], first["previous"]) == ("promoted", "1", None)
    assert (second["decision"], second["champion"], second["previous"]) == ("refused", "1", "1")
    for row in (first, second):
        assert row["who"] and row["reasons"] == ["because"] and row["status"] == "finished"
        assert abs(datetime.fromisoformat(row["when"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert history(model, experiment="no such experiment") == []


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_run_that_an_error_leaves_says_so(client, error, status):
    run_ids = []

    def block():
        with mlflow_run(experiment=EXPERIMENT, name="block", tags={"kind": "test"}) as run_log:
            run_ids.append(run_log.run_id)
            assert client.get_run(run_log.run_id).info.status == "RUNNING"
            raise error("broken")

    with pytest.raises(error, match="broken"):
        block()
    run = client.get_run(run_ids[0])
    assert (run.info.status, run.data.tags["kind"]) == (status, "test")


def test_run_that_ends_well_is_finished(client):
    with mlflow_run(experiment=EXPERIMENT, name="block", tags={}) as run_log:
        pass
    assert client.get_run(run_log.run_id).info.status == "FINISHED"
