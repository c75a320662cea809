"""A disk that refuses a write: told with what to do, nothing half-written is left, and the next run goes on."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from depthflow.errors import StoreError
from depthflow.storage.files import open_files
from tests.archives import pack
from tests.full_disk import files_at_most

SPLITS = {"train": {"00001_00001_indoors": 80}, "val": {"00002_00001_outdoor": 5}}
TOLD = r"cannot be written: File too large\. Free space, or raise the quota, and run the same command again: it goes on"


def files_in(root, pattern="*"):
    return {path: path.stat().st_mtime_ns for path in Path(root).rglob(pattern) if path.is_file()}


@pytest.mark.parametrize("size", [1, 1001, 10_000_000])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_file_that_does_not_fit_keeps_the_previous_content(tmp_path, size, before):
    files = open_files(str(tmp_path))
    if before is not None:
        files.write("a.bin", before)
    with files_at_most(size - 1), pytest.raises(StoreError, match=TOLD):
        files.write("a.bin", bytes(size))
    assert {path.name: path.read_bytes() for path in files_in(tmp_path)} == ({"a.bin": before} if before else {})
    with files_at_most(size):
        files.write("a.bin", bytes(size))
    assert files.read("a.bin").size == size


WRITE_TO_A_FULL_DISK = """
import os, sys
from depthflow.errors import StoreError
from depthflow.storage.files import open_files
files = open_files(sys.argv[1])
files.write("small.bin", bytes(1000))
try:
    files.write("folder/large.bin", bytes(2**21))
except StoreError as error:
    print(error)
print(sorted(name for _, _, names in os.walk(sys.argv[1]) for name in names))
os.remove(sys.argv[1] + "/small.bin")
files.write("folder/fits.bin", bytes(2**19))
"""


def test_a_disk_without_space(tmp_path):
    """On a real file system of 1 MiB, mounted where no other process sees it."""
    mounted = f'mount -t tmpfs -o size=1m none "{tmp_path}" && exec "$@"'
    unshared = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    if subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets no test mount a file system of its own")
    command = [*unshared, sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "large.bin cannot be written: No space left on device. Free space" in done.stdout
    assert "['small.bin']" in done.stdout


def test_a_disk_on_which_an_objects_content_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        files_at_most(999),
        pytest.raises(StoreError, match=rf"a\.bin cannot be gathered in {tmp_path}: File too large"),
    ):
        open_files("s3://bucket/store").write("a.bin", bytes(1000))
    assert not files_in(tmp_path)


def test_another_error_is_reported_unchanged(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileExistsError) as info:
        open_files(str(tmp_path)).write("file/a.bin", b"x")
    assert info.value.__cause__ is not info.value  # Whoever follows causes would never come to an end.


def test_a_store_that_did_not_fit_is_finished_by_the_next_run(tmp_path, write):
    write.tree(tmp_path / "tree", SPLITS)
    wanted = write.store(tmp_path / "elsewhere", tmp_path / "tree")
    sizes = {shard["path"]: shard["bytes"] for shard in wanted.manifest["shards"]}
    large, small = max(sizes.values()), sizes["split=val/part-00000.parquet"]
    assert large > 2 * small

    for _ in range(2):  # And it is told again.
        with files_at_most(large - 1), pytest.raises(StoreError, match=TOLD):
            write.store(tmp_path / "store", tmp_path / "tree")
        assert not files_in(tmp_path / "store", ".tmp-*")
        assert not (tmp_path / "store/manifest.json").exists()

    done = files_in(tmp_path / "store", "part-*.parquet")
    store = write.store(tmp_path / "store", tmp_path / "tree")
    assert store.fingerprint == wanted.fingerprint
    assert {path: files_in(tmp_path / "store")[path] for path in done} == done


def test_an_archive_whose_pieces_did_not_fit_is_finished_by_the_next_run(tmp_path, write):
    write.tree(tmp_path / "tree", SPLITS)
    archive = pack(tmp_path / "diode.tar.gz", tmp_path / "tree")
    wanted = write.store(tmp_path / "elsewhere", archive)
    pieces = files_in(tmp_path / "elsewhere", "*.arrow")
    largest = max(path.stat().st_size for path in pieces)

    with files_at_most(largest - 1), pytest.raises(StoreError, match=TOLD):
        write.store(tmp_path / "store", archive)
    assert not files_in(tmp_path / "store", ".tmp-*")
    done = files_in(tmp_path / "store", "*.arrow")
    assert len(done) < len(pieces)

    store = write.store(tmp_path / "store", archive)
    assert store.fingerprint == wanted.fingerprint
    assert files_in(tmp_path / "store", "*.arrow").items() >= done.items()
