"""Fixtures of tests that train."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainings import STEPS, Training, assert_logged_once, made_once


@pytest.fixture
def start():
    """Starts trainings that end with the test."""
    started = []

    def start(*arguments: Any, **options: Any) -> Training:
        started.append(Training(*arguments, **options))
        return started[-1]

    yield start
    for training in started:
        training.end()


@pytest.fixture(scope="session")
def samples(run, tmp_path_factory, write_triplet) -> Path:
    """A store of 30 samples to train on and 10 to validate; one for all files that train, whichever asks first."""
    with made_once(tmp_path_factory, "training-samples") as (folder, to_be_made):
        if to_be_made:
            for scene in range(4):
                for view in range(10):
                    write_triplet(folder / "tree", split="val" if scene == 3 else "train", scene=scene, view=view)
            size = ("--height", 64, "--width", 64)
            done = run("preprocess", "--source", "tree", "--out", "store", *size, cwd=folder)
            assert done.code == 0
    return folder / "store"


@pytest.fixture(scope="session")
def undisturbed(samples, tmp_path_factory) -> Path:
    """The last checkpoint of a run that nobody disturbed, made once likewise."""
    with made_once(tmp_path_factory, "training-undisturbed") as (folder, to_be_made):
        if to_be_made:
            training = Training(samples, folder, mlflow=f"sqlite:///{folder}/mlflow.db")
            try:
                result = training.succeed()
            finally:
                training.end()
            assert_logged_once(f"sqlite:///{folder}/mlflow.db", result["run_id"])
    [checkpoint] = folder.glob(f"*/checkpoints/step-{STEPS:08d}")
    return checkpoint
