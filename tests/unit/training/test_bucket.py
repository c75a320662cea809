"""A job in a bucket: what it is, its lock and its checkpoints, on a real server of S3's protocol."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow.fs
import pytest
import s3fs

from depthflow.errors import LockLostError, StoreError, TrainingError
from depthflow.recipes import smoke
from depthflow.storage.files import open_files
from depthflow.store.read.share import Position
from depthflow.store.store import SampleStore
from depthflow.training.checkpoint import MANIFEST_FILE, MODEL_FILE, Snapshot, TrainingProgress, best, read_progress
from depthflow.training.config import TrainJob
from depthflow.training.job import JobFolder, open_job
from depthflow.training.kept_checkpoints import BucketCheckpoints, open_checkpoints
from depthflow.training.saver import CheckpointSaver
from tests.object_store import serving_bucket

BUCKET = "jobs"


@pytest.fixture(scope="module")
def s3():
    """The client of a server that holds one bucket."""
    with serving_bucket(BUCKET) as client:
        yield client


@pytest.fixture
def root(s3, tmp_path):
    """A prefix of this test's own."""
    return f"s3://{BUCKET}/{tmp_path.name}"


def keys(s3, root):
    """What the bucket holds under a prefix."""
    return sorted(key.removeprefix(root.removeprefix("s3://") + "/") for key in s3.find(root))


# --- the job ---


def opened(root, *, fingerprint="f1", **changes):
    job = TrainJob(samples="s", storage=root, **changes)
    return open_job(smoke(), job, cast(SampleStore, SimpleNamespace(fingerprint=fingerprint)))


def test_a_job_is_begun_held_and_resumed(s3, root):
    with opened(f"{root}/") as first:
        assert first.root == f"{root}/{first.name}"
        assert (first.read()["run_id"], first.read()["finished"]) == (None, False)
        first.note(run_id="r1")
        assert keys(s3, first.root) == [".lock-00000", "job.json"]
    assert keys(s3, first.root) == ["job.json"]
    with opened(root, fingerprint="f2") as other:
        other.note(finished=True)
    with opened(root, resume=True) as again:
        assert (again.root, again.read()["run_id"]) == (first.root, "r1")
        again.note(finished=True)
    with pytest.raises(TrainingError, match=f"There is no unfinished job in {root}"), opened(root, resume=True):
        pass


def test_of_several_the_one_that_was_last_at_work_is_taken(root):
    folders = []
    for _ in range(3):
        with opened(root) as folder:
            folders.append(JobFolder(root=folder.root))
    folders[1].note(run_id="r1")
    with opened(root, resume=True) as folder:
        assert folder.root == folders[1].root


def test_a_missing_bucket_is_reported(s3):
    with pytest.raises(TrainingError, match=r"s3://no-such/.* cannot be locked"), opened("s3://no-such/runs"):
        pass


def test_a_uri_with_another_scheme_is_reported():
    with pytest.raises(TrainingError, match=r"s3://bucket/key or gs://bucket/key"), opened("hdfs://h/runs"):
        pass


def test_ray_keeps_its_own_records_there(s3, root):
    """Through the same client as ours, so that an endpoint of the environment counts."""
    filesystem, path = open_files(f"{root}/ray").arrow()
    with filesystem.open_output_stream(f"{path}/record") as stream:
        stream.write(b"x")
    assert keys(s3, root) == ["ray/record"]
    assert filesystem.get_file_info(f"{path}/record").type == pyarrow.fs.FileType.File


# --- checkpoints ---


def progress(steps, **metrics):
    return TrainingProgress(position=Position(seed=0, epoch=steps), steps_done=steps, metrics=metrics)


def snapshot(value):
    return Snapshot(model=[np.full(3, value, np.float32)], optimizer=[np.array(value)])


def nothing():
    pass


def saved(root, *abs_rels, keep=1, first_step=1):
    """What a worker leaves that saved a checkpoint with each of these figures."""
    with open_checkpoints(root) as kept:
        kept.latest()
        saver = CheckpointSaver(kept, keep=keep)
        for steps, abs_rel in enumerate(abs_rels, start=first_step):
            saver.save(lambda steps=steps: snapshot(steps), progress(steps), first=nothing)
            if abs_rel is not None:
                saver.annotate(progress(steps, **{"val/abs_rel": abs_rel}), first=nothing)
            saver.wait()
        return kept


def values(checkpoint):
    with np.load(checkpoint / MODEL_FILE) as arrays:
        return arrays["00000"].tolist()


def of(name, *files):
    return [f"{name}/{file}" for file in (MANIFEST_FILE, MODEL_FILE, "optimizer.npz", *files)]


def test_the_best_and_the_latest_are_kept_and_found_again_elsewhere(s3, root):
    kept = saved(root, 0.5, 0.3, 0.4, 0.6)
    assert keys(s3, root) == [*of("step-00000002"), *of("step-00000004")]
    assert not kept.folder.exists(), "the process's own folder goes with it"
    with open_checkpoints(root) as elsewhere:
        latest = elsewhere.latest()
        assert latest is not None and latest.name == "step-00000004" and values(latest) == [4, 4, 4]
        found = best(elsewhere.folder)
        assert found is not None and (found[0].name, found[1].metrics["val/abs_rel"]) == ("step-00000002", 0.3)
        assert not (found[0] / MODEL_FILE).exists(), "arrays are fetched when they are asked for"
        assert values(elsewhere.fetch(found[0].name)) == [2, 2, 2]
    assert keys(s3, root) == [*of("step-00000002"), *of("step-00000004")]


def test_a_run_that_resumes_goes_on_with_what_is_there(s3, root):
    """It annotates what it fetched without writing it anew, and prunes what another process wrote."""
    saved(root, 0.5, 0.4, None, keep=3)
    before = s3.info(f"{root}/step-00000003/{MODEL_FILE}")["LastModified"]
    with open_checkpoints(root) as kept:
        latest = kept.latest()
        assert latest is not None and read_progress(latest).awaits_validation
        saver = CheckpointSaver(kept, keep=1)
        saver.annotate(progress(3, **{"val/abs_rel": 0.6}), first=nothing)
        saver.wait()
    assert keys(s3, root) == [*of("step-00000002"), *of("step-00000003")]
    assert s3.info(f"{root}/step-00000003/{MODEL_FILE}")["LastModified"] == before
    with open_checkpoints(root) as kept:
        latest = kept.latest()
        assert latest is not None and read_progress(latest).metrics == {"val/abs_rel": 0.6}


class Killed(BaseException):
    """What ends a process."""


@pytest.mark.parametrize("at", [MODEL_FILE, "optimizer.npz", MANIFEST_FILE])
def test_a_killed_upload_does_not_count(s3, root, tmp_path, at):
    saved(root, 0.5)
    files = open_files(root)
    commit = files.commit

    def until(path):
        if path.endswith(f"2/{at}"):
            raise Killed
        return commit(path)

    files.commit = until
    (tmp_path / "scratch").mkdir()
    kept = BucketCheckpoints(files, tmp_path / "scratch")
    kept.latest()
    saver = CheckpointSaver(kept, keep=2)
    saver.save(lambda: snapshot(2), progress(2), first=nothing)
    with pytest.raises(Killed):
        saver.wait()
    assert f"step-00000002/{MANIFEST_FILE}" not in keys(s3, root)
    with open_checkpoints(root) as elsewhere:
        latest = elsewhere.latest()
        assert latest is not None and latest.name == "step-00000001"
    assert keys(s3, root) == of("step-00000001"), "what was left is gone"
    saved(root, 0.4, first_step=2)
    assert keys(s3, root) == of("step-00000002")


@pytest.mark.parametrize("at", ["before", "optimizer.npz", MANIFEST_FILE])
def test_whoever_lost_the_lock_adds_no_checkpoint_and_removes_none(s3, root, tmp_path, at):
    """Also where another process takes over in the middle of an upload."""
    saved(root, 0.5)
    logged = []
    with open_files(root).writer_lock() as files:
        commit = files.commit

        def until(path):
            if path.endswith(at):
                s3.pipe_file(f"{root}/.lock-00001", b"the successor")
            return commit(path)

        files.commit = until
        kept = BucketCheckpoints(files, tmp_path)
        kept.refresh()
        if at == "before":
            s3.pipe_file(f"{root}/.lock-00001", b"the successor")
        saver = CheckpointSaver(kept, keep=1)
        saver.save(lambda: snapshot(2), progress(2, **{"val/abs_rel": 0.1}), first=lambda: logged.append(2))
        with pytest.raises(LockLostError, match="the successor"):
            saver.wait()
    assert logged == ([] if at == "before" else [2])
    found = keys(s3, root)
    assert set(of("step-00000001")) <= set(found) and f"step-00000002/{MANIFEST_FILE}" not in found


@pytest.mark.parametrize("what", ["truncated", "flipped", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_counts_no_more(s3, root, what):
    saved(root, 0.5, 0.4, keep=2)
    path = f"{root}/step-00000002/{MANIFEST_FILE if what == 'manifest' else MODEL_FILE}"
    content = s3.cat_file(path)
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    s3.pipe_file(path, flipped if what == "flipped" else content[:middle])
    with open_checkpoints(root) as kept:
        latest = kept.latest()
        assert latest is not None and latest.name == "step-00000001"
        assert keys(s3, root) == of("step-00000001")
        saver = CheckpointSaver(kept, keep=2)
        saver.save(lambda: snapshot(7), progress(2), first=nothing)
        saver.wait()
    with open_checkpoints(root) as kept:
        latest = kept.latest()
        assert latest is not None and latest.name == "step-00000002" and values(latest) == [7, 7, 7]


def test_an_empty_prefix_has_no_checkpoint(s3, root):
    with open_checkpoints(root) as kept:
        assert kept.latest() is None
        assert best(kept.folder) is None
    assert keys(s3, root) == []


def test_a_server_outage_is_reported_and_no_checkpoint_is_set_aside(serving, tmp_path):
    """A checkpoint that cannot be read is not damaged: the run ends with a message, and finds it again."""
    with serving() as server:
        s3fs.S3FileSystem(use_listings_cache=False).makedirs(BUCKET, exist_ok=True)
        root = f"s3://{BUCKET}/gone"
        saved(root, 0.5)
        kept = BucketCheckpoints(open_files(root), tmp_path)
        kept.refresh()
        server.stop()
        with pytest.raises(StoreError, match="cannot be"):
            kept.latest()
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        saver = CheckpointSaver(kept, keep=1)
        saver.save(lambda: snapshot(2), progress(2), first=nothing)
        with pytest.raises(TrainingError, match=r"The checkpoints in s3://jobs/gone cannot be kept: .*--resume"):
            saver.wait()


def test_progress_is_unchanged_by_the_way_it_goes(root):
    with open_checkpoints(root) as kept:
        assert isinstance(kept.folder, Path)
        saver = CheckpointSaver(kept, keep=1)
        told = replace(progress(5), loss_sum=0.1)
        saver.save(lambda: snapshot(5), told, first=nothing)
        saver.wait()
    with open_checkpoints(root) as kept:
        latest = kept.latest()
        assert latest is not None and read_progress(latest) == told
