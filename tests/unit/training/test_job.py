"""A job's folder: new jobs get new folders, one process locks each, and --resume finds the matching unfinished job."""

import json
import pickle
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from depthflow.errors import LockLostError, TrainingError
from depthflow.recipes import RECIPES, smoke
from depthflow.storage.lock import LOCK_NAME
from depthflow.store.store import SampleStore
from depthflow.training.config import TrainJob
from depthflow.training.job import JOB_FILE, JobFolder, open_job, unique_name


def store_of(fingerprint="f1"):
    return cast(SampleStore, SimpleNamespace(fingerprint=fingerprint))


@pytest.fixture
def opened(tmp_path):
    """Opens a job in tmp_path/storage."""

    def open_(recipe=None, *, fingerprint="f1", **changes):
        job = TrainJob(**{"samples": "s", "storage": str(tmp_path / "storage"), **changes})
        return open_job(recipe or smoke(), job, store_of(fingerprint))

    return open_


def started(opened, recipe=None, **changes):
    """Starts a job and leaves it unfinished; returns its folder as one sees it without the lock."""
    with opened(recipe, **changes) as folder:
        pass
    return JobFolder(root=folder.root)


def test_names_are_unique_and_contain_the_recipe():
    names = {unique_name("diode") for _ in range(200)}
    assert len(names) == 200
    assert all(name.startswith("diode-") for name in names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_a_new_job_has_its_own_folder(opened, tmp_path):
    with opened() as folder:
        assert folder.root == str(tmp_path / "storage" / folder.name)
        assert folder.name.startswith("smoke-")
        description = folder.read()
        assert (description["run_id"], description["finished"]) == (None, False)
        assert description["wanted"]["fingerprint"] == "f1"
        assert description["wanted"]["recipe"]["learning_rate"] == smoke().learning_rate
        kept = {folder.checkpoints, folder.spool, folder.ray}
        assert len(kept) == 3 and {path.rpartition("/")[0] for path in kept} == {folder.root}
        with opened() as other:
            assert other.root != folder.root


def test_the_folder_is_absolute(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(storage="storage") as folder:
        assert folder.root == str(tmp_path / "storage" / folder.name)


def test_notes_are_merged(opened):
    with opened() as folder:
        folder.note(run_id="r1")
        folder.note(finished=True)
        assert {name: folder.read()[name] for name in ("run_id", "finished")} == {"run_id": "r1", "finished": True}
        assert [path.name for path in Path(folder.root).iterdir() if path.name.startswith(".tmp")] == []


# --- locking ---


def test_whoever_lost_the_lock_notes_nothing(opened):
    with opened() as folder:
        there = pickle.loads(pickle.dumps(folder))  # As a worker gets it.
        there.check_lock()
        Path(folder.root, LOCK_NAME).unlink()
        with opened(resume=True) as again:
            for late in (folder, there):
                with pytest.raises(LockLostError, match="another process took it over"):
                    late.check_lock()
                with pytest.raises(LockLostError, match=f"no longer holds the lock of {folder.root}"):
                    late.note(finished=True)
            assert again.read()["finished"] is False
            again.check_lock()
        assert again.root == folder.root
    with pytest.raises(LockLostError, match="it was removed"):
        again.check_lock()


def test_a_second_process_is_rejected(opened):
    with (
        opened() as folder,
        pytest.raises(TrainingError, match=rf"{folder.root} cannot be locked: .*another process"),
        opened(resume=True),
    ):
        pass
    with opened(resume=True) as again:
        assert again.root == folder.root


def test_an_unusable_storage_is_reported(opened, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="cannot be locked"), opened(storage=str(tmp_path / "file" / "storage")):
        pass


# --- resume ---


@pytest.mark.parametrize("name", RECIPES)
def test_resume_finds_the_job_with_the_same_recipe_and_samples(opened, name):
    """Recipes with tuples match too, although JSON has none."""
    wanted = started(opened, RECIPES[name]())
    wanted.note(run_id="r1")
    started(opened, replace(RECIPES[name](), learning_rate=0.5))
    started(opened, RECIPES[name](), fingerprint="f2")
    started(opened, RECIPES[name](), model_name="other")
    with opened(RECIPES[name](), resume=True) as folder:
        assert folder.root == wanted.root
        assert folder.read()["run_id"] == "r1", "its MLflow run continues"


def test_settings_that_do_not_affect_the_result_may_differ(opened):
    wanted = started(opened, num_workers=2, keep_checkpoints=3)
    changes = {"num_workers": 4, "keep_checkpoints": 1, "checkpoint_every_steps": 5, "step_timeout_s": 9.0}
    with opened(resume=True, **changes) as folder:
        assert folder.root == wanted.root


def test_the_most_recently_active_job_is_resumed(opened):
    """It need not be the one that was started last."""
    folders = [started(opened) for _ in range(3)]
    for k in (0, 2, 1):
        time.sleep(0.05)  # A file system's clock ticks only every few milliseconds.
        folders[k].note(run_id=f"r{k}")
    with opened(resume=True) as folder:
        assert folder.root == folders[1].root


def test_a_finished_job_is_not_resumed(opened):
    first, second = started(opened), started(opened)
    second.note(finished=True)
    with opened(resume=True) as folder:
        assert folder.root == first.root
    first.note(finished=True)
    with (
        pytest.raises(TrainingError, match=r"There is no unfinished job in .*Run without --resume"),
        opened(resume=True),
    ):
        pass


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_resume_is_reported(opened, tmp_path, exists):
    if exists:
        (tmp_path / "storage" / "notes").mkdir(parents=True)
    with pytest.raises(TrainingError, match="There is no unfinished job"), opened(resume=True):
        pass
    assert not list(tmp_path.glob("storage/*/.lock"))


@pytest.mark.parametrize(
    ("recipe", "changes", "differences"),
    [
        ({"learning_rate": 3e-4}, {}, r"learning_rate 0\.003 there, 0\.0003 here\. Pass "),
        ({"learning_rate": 3e-4, "epochs": 7}, {}, r"learning_rate 0\.003 there, 0\.0003 here, epochs 2 there, 7 here"),
        (
            {"decoder_filters": (8,) * 5},
            {},
            r"decoder_filters \[64, 48, 32, 24, 16\] there, \[8, 8, 8, 8, 8\] here\. Pass ",
        ),
        ({}, {"fingerprint": "f2"}, r"fingerprint f1 there, f2 here\. Pass "),
        ({}, {"model_name": "other"}, r"model_name depthflow there, other here\. Pass "),
    ],
)
def test_another_job_is_rejected_with_the_differences(opened, recipe, changes, differences):
    there = started(opened)
    with (
        pytest.raises(TrainingError, match=rf"No unfinished job .*{there.name} differs: {differences}"),
        opened(replace(smoke(), **recipe), resume=True, **changes),
    ):
        pass
    assert json.loads(Path(there.root, JOB_FILE).read_text())["wanted"]["fingerprint"] == "f1"


def test_a_folder_without_a_description_is_ignored(opened, tmp_path):
    """A killed process may leave one."""
    wanted = started(opened)
    (tmp_path / "storage" / "smoke-99999999-000000-ffffff").mkdir()
    with opened(resume=True) as folder:
        assert folder.root == wanted.root
    assert isinstance(folder, JobFolder)


def test_a_job_from_before_a_recipe_field_existed_is_resumed_with_its_default(opened):
    folder = started(opened)
    description = folder.read()
    del description["wanted"]["recipe"]["augment"]
    folder.note(wanted=description["wanted"])
    with (
        pytest.raises(TrainingError, match="augment"),
        opened(replace(smoke(), augment=(("gamma", 0.2),)), resume=True),
    ):
        pass
    with opened(resume=True) as again:
        assert again.root == folder.root
