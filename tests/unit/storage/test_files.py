"""Files are committed atomically."""

import os
import pickle
import signal
import subprocess
import sys

import pytest

from depthflow.errors import StoreError
from depthflow.storage.files import DiskFiles, StoreFiles, open_files, open_output

KILLED_WHILE_WRITING = """
import sys, time
from depthflow.storage.files import open_files
with open_files(sys.argv[1]).commit("split=train/part-00000.parquet") as handle:
    handle.write(b"half")
    handle.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def everything(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def fail_while_writing(files, path, error):
    with files.commit(path) as handle:
        handle.write(b"half")
        raise error("stop")


@pytest.fixture
def files(tmp_path):
    return open_files(str(tmp_path))


def test_a_committed_file_is_read_back(files):
    files.write("split=val/part-00000.parquet", b"content")
    assert files.exists("split=val/part-00000.parquet")
    assert files.read("split=val/part-00000.parquet").to_pybytes() == b"content"
    assert files.open("split=val/part-00000.parquet").read(4) == b"cont"


def test_nothing_is_seen_before_the_block_ends(files, tmp_path):
    with files.commit("a/b.bin") as handle:
        handle.write(b"half")
        handle.flush()
        assert not files.exists("a/b.bin")
        assert files.names("**/*") == []
        handle.write(b" and half")
    assert files.read("a/b.bin").to_pybytes() == b"half and half"
    assert everything(tmp_path) == ["a/b.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(files, tmp_path, error):
    with pytest.raises(error, match="stop"):
        fail_while_writing(files, "a/b.bin", error)
    assert everything(tmp_path) == []


def test_an_error_leaves_the_file_that_was_there(files, tmp_path):
    files.write("a.bin", b"before")
    with pytest.raises(ValueError, match="stop"):
        fail_while_writing(files, "a.bin", ValueError)
    assert files.read("a.bin").to_pybytes() == b"before"
    assert everything(tmp_path) == ["a.bin"]


def test_a_reader_keeps_what_it_opened_when_the_file_is_replaced(files):
    files.write("a.bin", b"before")
    opened = files.read("a.bin")
    files.write("a.bin", b"after!")
    assert opened.to_pybytes() == b"before"
    assert files.read("a.bin").to_pybytes() == b"after!"


def test_what_a_killed_writer_leaves_is_no_file_and_can_be_removed(files, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "writing\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert len(everything(tmp_path)) == 1
    assert not files.exists("split=train/part-00000.parquet")
    assert files.names("split=*/*") == []

    files.write("split=train/part-00001.parquet", b"x")
    files.write("index.parquet", b"x")
    files.remove_temporaries()
    assert everything(tmp_path) == ["index.parquet", "split=train/part-00001.parquet"]


def test_names_are_sorted_files_that_match(files, tmp_path):
    for name in ("split=val/part-00001.parquet", "split=train/part-00010.parquet", "split=train/part-00002.parquet"):
        files.write(name, b"x")
    files.write("split=train/other.txt", b"x")
    (tmp_path / "split=train/part-dir.parquet").mkdir()
    assert files.names("split=*/part-*.parquet") == [
        "split=train/part-00002.parquet",
        "split=train/part-00010.parquet",
        "split=val/part-00001.parquet",
    ]


@pytest.mark.parametrize("root", ["hdfs://h/x", "file:///tmp/x", "S3://bucket/store", "http://h/store", "://x"])
def test_a_uri_with_another_scheme_is_rejected(root):
    with pytest.raises(StoreError, match=rf"s3://bucket/key or gs://bucket/key\. Received: {root}"):
        open_files(root)


@pytest.mark.parametrize("root", ["s3:/bucket/store", "s3", "a:b"])
def test_what_has_no_scheme_is_a_folder(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    files = open_files(root)
    assert isinstance(files, DiskFiles)
    assert files.root == str(tmp_path / root)


@pytest.mark.parametrize("root", ["s3://bucket/store", "s3://bucket/store/"])
def test_a_store_on_s3_is_opened_without_a_request(root):
    files = open_files(root)
    assert type(files) is StoreFiles
    assert files.root == "s3://bucket/store"


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = open_files("store")
    assert files.root == str(tmp_path / "store")
    files.write("a.bin", b"x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert files.exists("a.bin")
    travelled = pickle.loads(pickle.dumps(files))
    assert (travelled.root, travelled.exists("a.bin")) == (files.root, True)


def test_a_folder_is_no_file(files, tmp_path):
    (tmp_path / "a").mkdir()
    assert not files.exists("a")
    assert not files.exists("gone")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_is_no_place_for_results(tmp_path, out):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match=rf"{tmp_path}/file is a file\..*Received: {tmp_path / out}$"):
        open_output(str(tmp_path / out))


def test_a_place_for_results_is_not_made_before_there_are_any(tmp_path):
    assert open_output(str(tmp_path / "new" / "folder")).root == str(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("durable", [True, False])
def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path, durable):
    files, name = open_files(str(tmp_path)), "n" * 255
    with files.commit(name, durable=durable) as handle:
        handle.write(b"all of it")
    assert [path.name for path in tmp_path.iterdir()] == [name] and files.read(name).to_pybytes() == b"all of it"
