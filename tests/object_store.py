"""An object store on the loopback address."""

import contextlib
import logging

import pytest


@contextlib.contextmanager
def serving_s3():
    """A server, and the environment in which clients find it; clients that others left are forgotten."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'depthflow[s3]'")
    moto_server = pytest.importorskip("moto.server", reason="pip install 'depthflow[dev]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "anyone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # Of the client below s3fs, which tries again by itself.
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield server
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def serving_bucket(name):
    """A client of such a server, with one new bucket, that remembers no listing."""
    with serving_s3():
        import s3fs

        client = s3fs.S3FileSystem(use_listings_cache=False)
        client.mkdir(name)
        try:
            yield client
        finally:
            client.rm(name, recursive=True)  # All servers of a process have the same buckets.
