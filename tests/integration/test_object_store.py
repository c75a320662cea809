"""A run on a store in a bucket, its shards copied to a local disk, is the run on the same store on a disk."""

from pathlib import Path

import fsspec
import pytest

from depthflow.samples.files import ObjectFiles
from depthflow.samples.store import open_store

moto_server = pytest.importorskip("moto.server", reason="pip install 'depthflow[dev,s3]'")
s3fs = pytest.importorskip("s3fs", reason="pip install 'depthflow[s3]'")


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server on the loopback address, with one bucket; its address is in the environment, also of commands."""
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.slow
def test_training_from_a_bucket_equals_training_from_a_disk(run, bucket, tmp_path, write_triplet):
    for scene in range(4):
        for view in range(6):
            write_triplet(tmp_path / "tree", split="val" if scene == 3 else "train", scene=scene, view=view)
    done = run("preprocess", "--source", "tree", "--out", "store", "--height", 64, "--width", 64, cwd=tmp_path)
    assert done.code == 0
    on_disk, in_bucket = open_store(str(tmp_path / "store")), ObjectFiles(f"{bucket}/store")
    for path in on_disk.files.names("**/*"):
        in_bucket.write(path, on_disk.files.read(path).to_pybytes())

    common = ["--epochs", 1, "--global-batch-size", 6, "--num-workers", 2]
    from_disk = run("train", "smoke", "--samples", "store", "--storage", "runs", *common, cwd=tmp_path)
    cache = ["--cache-dir", "cache", "--cache-gib", 0]
    # A Ray of its own, whose workers have the bucket's address in their environment.
    from_bucket = run(
        *("train", "smoke", "--samples", in_bucket.root, "--storage", "runs", *common, *cache, "--num-cpus", 2),
        cwd=tmp_path,
        env={"RAY_ADDRESS": ""},
    )

    assert figures(from_bucket.result) == figures(from_disk.result)
    copies = sorted(Path(tmp_path, "cache", on_disk.fingerprint).rglob("*.parquet"))
    shards = on_disk.files.names("split=*/*.parquet")
    assert [copy.read_bytes() for copy in copies] == [on_disk.files.read(path).to_pybytes() for path in shards]


def figures(result: dict) -> dict:
    """What the run's samples decide; not how fast it was."""
    assert result["status"] == "ok"
    return {name: value for name, value in result["metrics"].items() if not name.startswith("perf/")}
