"""Files that others made: FIFOs, devices, links to them and huge files are never opened, wherever they are met."""

import os
import socket
from pathlib import Path

import pytest

from depthflow.datasets.archive import archive_identity
from depthflow.datasets.listing import read_camera
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.inference.images import find_images, read_image
from depthflow.storage.foreign_file import MAX_FILE_BYTES, UnsafeFileError, read_foreign_file
from depthflow.store.write.sources import read_member

pytestmark = pytest.mark.timeout(60)  # Opening a FIFO that nobody writes to would wait for ever.


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_suffix(".fifo"))
    path.symlink_to(path.with_suffix(".fifo"))


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # A socket's address has at most 107 bytes.
        server.bind(path.name)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


UNSAFE = {
    fifo: "is a FIFO, not a plain file",
    link_to_fifo: "is a FIFO, not a plain file",
    unix_socket: "is a socket, not a plain file",
    link_to_device: "is a character device, not a plain file",
    huge: "has 1073741825 bytes, more than 1073741824",
}


@pytest.fixture(params=UNSAFE, ids=lambda make: make.__name__)
def unsafe(request, tmp_path, monkeypatch):
    """A function that makes an unsafe file of a name and returns its path and what is wrong with it."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        request.param(tmp_path / name)
        return str(tmp_path / name), UNSAFE[request.param]

    return make


def test_an_unsafe_file_is_not_read(unsafe):
    path, problem = unsafe("file")
    with pytest.raises(UnsafeFileError) as caught:
        read_foreign_file(path)
    assert str(caught.value) == f"{path} {problem}"


def test_an_unsafe_file_of_a_sample_is_a_reject(unsafe):
    path, problem = unsafe("00022_00193_indoors_010_000_depth.npy")
    with pytest.raises(RejectError, match=problem) as caught:
        read_member(path)
    assert caught.value.reason == "unsafe_member"


def test_an_unsafe_image_is_a_reject(unsafe, tmp_path):
    path, problem = unsafe("image.png")
    assert find_images((str(tmp_path),)) == [path]
    with pytest.raises(RejectError, match=problem) as caught:
        read_image(path)
    assert caught.value.reason == "unreadable_file"


def test_an_unsafe_camera_is_an_error(unsafe, tmp_path):
    _, problem = unsafe("camera.json")
    with pytest.raises(SourceError, match=problem):
        read_camera(str(tmp_path))


@pytest.mark.parametrize("make", [fifo, link_to_device])
def test_an_archive_that_is_not_a_file_is_an_error(make, tmp_path):
    make(tmp_path / "train.tar.gz")
    with pytest.raises(SourceError, match=UNSAFE[make]):
        archive_identity(str(tmp_path / "train.tar.gz"))


def test_a_plain_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_foreign_file(str(tmp_path / "file")) == read_foreign_file(str(tmp_path / "link")) == b"content"
