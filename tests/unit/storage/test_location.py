"""Errors of an object store become messages for the user; a bug keeps its traceback."""

import importlib
import sys

import botocore.exceptions
import pytest

from depthflow.errors import SourceError, StoreError
from depthflow.storage.location import is_uri, object_store, reported


@pytest.mark.parametrize(
    ("location", "wanted"),
    [
        ("s3://bucket/key", True),
        ("gs://bucket", True),
        ("hdfs://host/x", True),
        ("/data/store", False),
        ("store", False),
        ("s3:/bucket", False),
        ("C:store", False),
    ],
)
def test_a_uri_is_what_has_a_scheme(location, wanted):
    assert is_uri(location) == wanted


@pytest.mark.parametrize(
    "uri", ["s3://", "gs:///", "http://host/x", "file:///x", "memory://x", "S3://bucket/x", "://x"]
)
@pytest.mark.parametrize("error", [SourceError, StoreError])
def test_another_scheme_is_rejected(uri, error):
    with pytest.raises(error, match=rf"s3://bucket/key or gs://bucket/key\. Received: {uri}"):
        object_store(uri, error)


@pytest.mark.parametrize(("uri", "module", "extra"), [("s3://b/k", "s3fs", "s3"), ("gs://b/k", "gcsfs", "gcs")])
def test_a_client_that_is_not_installed_is_named(monkeypatch, uri, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    loaded = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(loaded, uri.split(":")[0], raising=False)
    with pytest.raises(StoreError, match=rf"{uri} needs another package: pip install 'depthflow\[{extra}\]'"):
        object_store(uri, StoreError)


@pytest.mark.parametrize(("uri", "path"), [("s3://b/k/x", "b/k/x"), ("s3://b/k/", "b/k"), ("s3://b", "b")])
def test_a_filesystem_and_a_path_in_it(uri, path):
    filesystem, got = object_store(uri, StoreError)
    assert got == path
    assert object_store(uri, StoreError)[0] is filesystem  # One connection for all.


def fail(error, **kwargs):
    with reported("s3://b/k cannot be read", StoreError, **kwargs):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Access Denied"),
        TimeoutError("too long"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://host"),
    ],
)
def test_errors_of_clients_and_disks_are_reported(error):
    with pytest.raises(StoreError) as info:
        fail(error)
    assert str(info.value).startswith(f"s3://b/k cannot be read: {type(error).__name__}: {error}. Check the address")
    assert info.value.__suppress_context__


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), SourceError("x"), KeyboardInterrupt()])
def test_everything_else_passes_as_it_is(error):
    with pytest.raises(type(error)) as info:
        fail(error)
    assert info.value is error


def test_absence_passes_unless_it_is_the_buckets():
    with pytest.raises(FileNotFoundError):
        fail(FileNotFoundError("b/k"))
    with pytest.raises(StoreError, match=r"cannot be read: FileNotFoundError: no bucket\. Check"):
        fail(FileNotFoundError("no bucket"), absence_passes=False)
