"""Two kills at random moments, one of them while a checkpoint is being written, workers that lose their places, and an
outage of MLflow's server."""

import os
import random
import signal
import time

import psutil
import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from tests.mlflow_server import MlflowServer
from tests.trainings import PATIENCE_S, STEPS, Training, assert_logged_once, assert_same_end

SEED = 20


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path)
    server.start()
    server.wait()
    yield server
    server.kill()


def kill_any_worker(training: Training, chance: random.Random) -> None:
    """One of the two, whichever."""

    def both() -> list[int]:
        there = psutil.Process().children(recursive=True)  # Of the Ray that this process started.
        pids = sorted(process.pid for process in there if process.name().startswith("ray::RayTrainWo"))
        return pids if len(pids) == 2 else []

    there = training.wait_until(both)
    os.kill(chance.choice(there), signal.SIGKILL)


def take_places_away() -> None:
    """As Ray's cleaner does when it takes the controller of a training for dead, which happens on a busy machine."""
    there = [group for group, about in placement_group_table().items() if about["state"] == "CREATED"]
    assert there
    for group in there:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def kill_while_a_checkpoint_is_written(training: Training) -> None:
    """Worker 0 is stopped as soon as the unfinished checkpoint is seen, and killed if it is still unfinished then."""
    writer = training.first_workers()[-1]
    while True:
        unfinished = training.wait_until(lambda: [*training.checkpoints.glob(".tmp-step-*")])
        os.kill(writer, signal.SIGSTOP)
        time.sleep(0.01)  # All of its threads stand now.
        if unfinished[0].is_dir():
            os.kill(writer, signal.SIGKILL)
            return
        os.kill(writer, signal.SIGCONT)


def test_chaos_changes_nothing(samples, undisturbed, start, server, tmp_path):
    chance = random.Random(SEED)
    first, outage, second, back = chance.randint(2, 8), chance.randint(9, 13), chance.randint(15, 19), STEPS - 6
    print("a kill at step", first, "the server away from", outage, "to", back, "a kill while writing from", second)
    flags = ("--checkpoint-every-steps", 1, "--max-failures", 3, "--mlflow-wait-s", PATIENCE_S)
    training = start(samples, tmp_path / "runs", *flags, mlflow=server.uri)

    def reach(step: int) -> None:
        training.wait_until(lambda: any(k >= step for k in training.steps()))

    reach(first)
    kill_any_worker(training, chance)
    reach(outage)
    server.kill()
    take_places_away()
    reach(second)
    before = training.first_workers()[-1]
    kill_while_a_checkpoint_is_written(training)
    reach(back)
    training.wait_until(lambda: training.first_workers()[-1] != before)
    assert [*training.checkpoints.parent.glob("spool/*.json")], "metrics wait for MLflow"
    server.start()
    server.wait()
    result = training.succeed()
    assert result["unlogged"] == 0 and result["version"] is not None
    assert_logged_once(server.uri, result["run_id"])
    assert_same_end(training, undisturbed)
    assert [*training.checkpoints.glob(".tmp-*")] == []
