"""An object store on the loopback address."""

import contextlib
import logging

import pytest


@contextlib.contextmanager
def serving_s3():
    """Runs an S3 server and points the environment to it; cached clients of other servers are dropped."""
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
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # For the client below s3fs, which has its own retries.
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield server
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def serving_bucket(name):
    """Runs an S3 server with a new bucket, and yields a client that caches no listings."""
    with serving_s3():
        import s3fs

        client = s3fs.S3FileSystem(use_listings_cache=False)
        client.mkdir(name)
        try:
            yield client
        finally:
            client.rm(name, recursive=True)  # All servers of a process have the same buckets.
