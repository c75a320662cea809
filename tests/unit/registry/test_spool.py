"""Metrics reach MLflow once each, whatever happens to the server, the worker or the answer on its way."""

import json
import logging
import math
import os
import resource
import shutil
import socket
import sqlite3
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import mlflow
import pytest
import s3fs
from mlflow import MlflowClient
from mlflow.entities import Metric

from depthflow.errors import RegistryError
from depthflow.registry.runs import RunLog, mlflow_run
from depthflow.registry.spool import MetricSpool, replay
from depthflow.registry.tracking import mlflow_at, one_attempt
from tests.mlflow_server import MlflowServer

LARGEST = sys.float_info.max
"""What MLflow's databases keep for infinity."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def database(server):
    """The database of the server, used directly, as a laptop does. Waiting for the server makes it whole."""
    server.wait()
    return server.database


@pytest.fixture
def new_run(database):
    """Makes a run, to be logged through a URI."""

    def new(uri=database):
        client = MlflowClient(database)
        return RunLog(tracking_uri=uri, run_id=client.create_run("0").info.run_id)

    return new


@pytest.fixture
def values(database):
    """All that MLflow holds of a metric: [(step, value)], in the order of steps, doubles included."""

    def read(run_log, name):
        history = MlflowClient(database).get_metric_history(run_log.run_id, name)
        return sorted((metric.step, metric.value) for metric in history)

    return read


def records(folder):
    return sorted(folder.glob("*.json"))


def eventually(condition, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def lossy_proxy(target_port, *, lost, instead):
    """Forwards each request whole; the first so many log-batch requests are answered by `instead`, or not at all."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = {"lost": 0, "batches": 0}

    def serve(client):
        with client, socket.create_connection(("127.0.0.1", target_port)) as upstream:
            request = read_request(client)
            upstream.sendall(request.replace(b"Connection: keep-alive", b"Connection: close", 1))
            answer = b""
            while part := upstream.recv(65536):
                answer += part
            is_batch = b"runs/log-batch" in request.partition(b"\r\n")[0]
            seen["batches"] += is_batch
            if is_batch and seen["lost"] < lost:
                assert b" 200 " in answer.partition(b"\r\n")[0], "the server took it"
                seen["lost"] += 1
                client.sendall(instead)
                return
            client.sendall(answer)

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.close()


def read_request(client):
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize("through", ["database", "server"])
def test_all_values_arrive_as_they_were_made(tmp_path, server, new_run, values, through):
    """Thousands in a series take several calls; what is not finite survives both JSONs; time is the making's."""
    server.wait()
    run_log = new_run(server.uri if through == "server" else server.database)
    spool = MetricSpool(tmp_path / "spool", run_log)
    before_ms = int(time.time() * 1000)
    spool.metrics({"val/abs_rel": 0.1, "nan": math.nan, "up": math.inf, "down": -math.inf}, step=1)
    spool.series("train/step_loss", [1 / (1 + k) for k in range(2345)], first_step=1)
    after_ms = int(time.time() * 1000)
    assert spool.close(30) == 0
    assert records(tmp_path / "spool") == []
    assert values(run_log, "train/step_loss") == [(1 + k, 1 / (1 + k)) for k in range(2345)], "to the last bit"
    assert values(run_log, "val/abs_rel") == [(1, 0.1)]
    [(step, value)] = values(run_log, "nan")
    assert step == 1 and math.isnan(value)
    assert values(run_log, "up") == [(1, LARGEST)] and values(run_log, "down") == [(1, -LARGEST)]
    history = MlflowClient(server.database).get_metric_history(run_log.run_id, "train/step_loss")
    assert all(before_ms <= metric.timestamp <= after_ms for metric in history)


def test_record_on_disk_keeps_what_is_not_finite(tmp_path):
    spool = MetricSpool(tmp_path, RunLog(tracking_uri="http://127.0.0.1:9", run_id="0" * 32))
    spool.series("m", [math.nan, math.inf, -math.inf, 0.1], first_step=3)
    assert spool.close(0) == 1
    record = json.loads(records(tmp_path)[0].read_text())
    assert record["first_step"] == 3
    assert str(record["values"]) == "{'m': [nan, inf, -inf, 0.1]}"


def test_history_is_asked_page_by_page(monkeypatch, server, new_run):
    """The spool relies on it: MLflow's client returns all pages."""
    monkeypatch.setattr("mlflow.tracking._tracking_service.client.GET_METRIC_HISTORY_MAX_RESULTS", 7)
    server.wait()
    run_log = new_run(server.uri)
    assert run_log.client().get_metric_history(run_log.run_id, "m") == []
    run_log.series("m", [0.5] * 21, first_step=0)
    history = run_log.client().get_metric_history(run_log.run_id, "m")
    assert sorted(metric.step for metric in history) == list(range(21))


@pytest.mark.parametrize("through", ["database", "server"])
def test_request_that_is_taken_late_changes_nothing(server, new_run, values, through):
    """After a timeout the same values may arrive twice. MLflow keeps one: MetricSpool relies on that."""
    server.wait()
    run_log = new_run(server.uri if through == "server" else server.database)
    client = run_log.client()
    batch = [Metric(name, value, 123, 1) for name, value in {"m": 0.1, "nan": math.nan, "up": math.inf}.items()]
    client.log_batch(run_log.run_id, metrics=batch)
    client.log_batch(run_log.run_id, metrics=[*batch, Metric("m", 0.2, 123, 2)])
    assert values(run_log, "m") == [(1, 0.1), (2, 0.2)]
    assert len(values(run_log, "nan")) == len(values(run_log, "up")) == 1


def test_first_value_wins(tmp_path, new_run, values):
    """Steps that were logged before a crash are made again by the worker that resumes, some of them anew."""
    run_log = new_run()
    run_log.series("m", [1.0, 2.0, 3.0], first_step=1)
    spool = MetricSpool(tmp_path, run_log)
    spool.series("m", [-2.0, -3.0, 4.0], first_step=2)
    spool.metrics({"m": -4.0, "n": 1.0}, step=4)
    spool.metrics({"m": 0.0}, step=0)  # Earlier than all that MLflow has, and new all the same.
    assert spool.close(30) == 0
    assert values(run_log, "m") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert values(run_log, "n") == [(4, 1.0)]


def test_crash_between_shipping_and_removing(tmp_path, new_run, values):
    run_log = new_run()
    dead = MetricSpool(tmp_path / "spool", RunLog(tracking_uri="http://127.0.0.1:9", run_id=run_log.run_id))
    dead.metrics({"m": 1.0}, step=1)
    dead.series("m", [2.0, 3.0], first_step=2)
    assert dead.close(0) == 2
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    assert replay(tmp_path / "spool", run_log, timeout_s=30) == 0
    once = values(run_log, "m")
    assert once == [(1, 1.0), (2, 2.0), (3, 3.0)]
    for path in records(tmp_path / "copy"):
        shutil.copy(path, tmp_path / "spool")
    spool = MetricSpool(tmp_path / "spool", run_log)
    spool.metrics({"m": 4.0}, step=4)
    assert spool.close(30) == 0
    assert values(run_log, "m") == [*once, (4, 4.0)]


def test_two_spools_one_after_the_other(tmp_path, new_run, values):
    """The second, on another node, goes on where the first's records end, and the first's come first."""
    run_log = new_run()
    away = RunLog(tracking_uri="http://127.0.0.1:9", run_id=run_log.run_id)
    first = MetricSpool(tmp_path, away)
    for step in range(12):
        first.metrics({"m": float(step)}, step=step)
    assert first.close(0) == 12
    second = MetricSpool(tmp_path, away)
    second.series("m", [-11.0, 12.0], first_step=11)
    assert second.close(0) == 13
    assert [int(path.name.partition("-")[0]) for path in records(tmp_path)] == list(range(1, 14))
    assert replay(tmp_path, run_log, timeout_s=30) == 0
    assert values(run_log, "m") == [(step, float(step)) for step in range(13)]


@pytest.mark.parametrize(
    "instead",
    [
        pytest.param(b"", id="no answer"),
        pytest.param(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops", id="500"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\noops", id="404 of a starting gateway"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", id="200 of something else"),
    ],
)
def test_answer_that_was_lost(tmp_path, server, new_run, values, instead):
    """MLflow has the values, and the spool does not know it."""
    server.wait()
    with lossy_proxy(server.port, lost=2, instead=instead) as (uri, seen):
        run_log = new_run(uri)
        spool = MetricSpool(tmp_path, run_log)
        spool.metrics({"m": 1.0}, step=1)
        spool.series("loss", [float(k) for k in range(1500)], first_step=1)
        spool.metrics({"m": 2.0}, step=2)
        assert spool.close(30) == 0
        assert seen == {"lost": 2, "batches": 4}, "m, 1000 losses, 500 losses, m: none was sent twice"
    assert values(run_log, "m") == [(1, 1.0), (2, 2.0)]
    assert values(run_log, "loss") == [(1 + k, float(k)) for k in range(1500)]


def test_server_that_is_away_holds_up_nobody(tmp_path, caplog):
    run_log = RunLog(tracking_uri="http://127.0.0.1:9", run_id="0" * 32)
    spool = MetricSpool(tmp_path, run_log)
    started = time.monotonic()
    for step in range(20):
        spool.metrics({"m": 1.0}, step=step)
    written = time.monotonic()
    assert written - started < 5
    assert spool.close(2.5) == 20
    assert 2.4 < time.monotonic() - written < 3.5
    assert [record.levelname for record in caplog.records if record.name.startswith("depthflow")] == ["WARNING"]
    assert "MLflow at http://127.0.0.1:9 does not answer" in caplog.text and str(tmp_path) in caplog.text


def test_server_that_hangs_ends_an_attempt(monkeypatch):
    """It takes the connection and says nothing."""
    monkeypatch.setattr("depthflow.registry.tracking.ATTEMPT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run_log = RunLog(tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}", run_id="0" * 32)
        started = time.monotonic()
        with one_attempt(), pytest.raises(mlflow.MlflowException, match="timed out"):
            run_log.client().get_metric_history(run_log.run_id, "m")
        assert 1.9 < time.monotonic() - started < 4


def test_server_that_hangs_in_the_middle_of_a_step_is_waited_for_aloud_and_not_for_ever(
    server, new_run, monkeypatch, capsys
):
    server.wait()
    run_log = new_run(server.uri)
    monkeypatch.setattr("depthflow.observability.progress.TELL_EVERY_S", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with (
        pytest.raises(RegistryError, match=rf"MLflow at {server.uri} no longer answers: .*timed out.* once it does\.$"),
        mlflow_at(server.uri) as client,
        server.suspended(),
    ):
        client.set_tag(run_log.run_id, "a", "b")
    assert f"Waiting for MLflow at {server.uri}: 2 s so far\n" in capsys.readouterr().err
    run_log.tag({"c": "d"})
    assert run_log.client().get_run(run_log.run_id).data.tags["c"] == "d"


def test_database_that_is_locked(tmp_path, database, new_run, values):
    run_log = new_run()
    lock = sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    spool = MetricSpool(tmp_path, run_log)
    spool.metrics({"m": 1.0}, step=1)
    assert spool.close(1) == 1
    lock.execute("ROLLBACK")
    lock.close()
    assert replay(tmp_path, run_log, timeout_s=30) == 0
    assert values(run_log, "m") == [(1, 1.0)]


@pytest.mark.parametrize("through", ["database", "server"])
def test_deleted_run_warns_once_and_keeps_its_records(tmp_path, caplog, server, new_run, values, through):
    run_log = new_run(server.uri if through == "server" else server.database)
    client = MlflowClient(server.database)
    client.delete_run(run_log.run_id)
    spool = MetricSpool(tmp_path, run_log)
    spool.metrics({"m": 1.0}, step=1)
    spool.metrics({"m": 2.0}, step=2)
    started = time.monotonic()
    assert spool.close(30) == 2
    assert time.monotonic() - started < 10, "waiting would not help"
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("depthflow")]
    assert len(warnings) == 1 and run_log.run_id in warnings[0] and "active" in warnings[0]
    client.restore_run(run_log.run_id)
    assert replay(tmp_path, run_log, timeout_s=30) == 0
    assert values(run_log, "m") == [(1, 1.0), (2, 2.0)]


def test_refused_and_damaged_records_do_not_hold_up_others(tmp_path, caplog, new_run, values):
    run_log = new_run()
    (tmp_path / "0000000001-00000000.json").write_text('{"time_ms": 1, "first')
    spool = MetricSpool(tmp_path, run_log)
    spool.metrics({"no such: name?": 1.0}, step=1)
    spool.metrics({"m": 2.0}, step=2)
    assert spool.close(30) == 2
    assert values(run_log, "m") == [(2, 2.0)]
    assert "damaged" in caplog.text and "no such: name?" in caplog.text


def test_folder_that_is_full_or_gone(tmp_path, caplog):
    run_log = RunLog(tracking_uri="http://127.0.0.1:9", run_id="0" * 32)
    spool = MetricSpool(tmp_path / "spool", run_log)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # A real error of write(), as on a full disk.
    try:
        with pytest.raises(RegistryError, match=r"metrics of step 7 cannot be kept in .*spool: .*Make room there"):
            spool.series("m", [0.1234567] * 1000, first_step=7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "spool").iterdir()) == [], "half a record is none"
    spool.metrics({"m": 1.0}, step=1)
    assert spool.close(0) == 1
    shutil.rmtree(tmp_path / "spool")
    with pytest.raises(RegistryError, match="cannot be kept"):
        spool.metrics({"m": 1.0}, step=2)
    assert replay(tmp_path / "spool", run_log, timeout_s=5) == 0, "no folder, no records"
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="cannot be made"):
        MetricSpool(tmp_path / "file", run_log)


def test_outage_in_the_middle(tmp_path, server, database, values, monkeypatch, caplog):
    """Kill -9 while values stream in; the run's end finds no server either; another process finishes the work."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.chdir(tmp_path)
    uris = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        with caplog.at_level(logging.WARNING), mlflow_run(experiment="e", name="r", tags={}) as run_log:
            spool = MetricSpool(tmp_path / "spool", run_log)
            for step in range(60):
                spool.metrics({"m": float(step), "n": float(-step)}, step=step)
                if step == 20:
                    eventually(lambda: values(run_log, "m"))
                    server.kill()
            left = spool.close(1)
            assert left >= 39
        assert f"The run {run_log.run_id} is FINISHED, but MLflow at {server.uri} could not be told" in caplog.text
        assert MlflowClient(database).get_run(run_log.run_id).info.status == "RUNNING"
        resumed = MetricSpool(tmp_path / "spool", run_log)
        resumed.series("m", [100.0] * 10, first_step=55)  # Five of them again.
        server.start()
        server.wait()
        assert resumed.close(30) == 0
        assert replay(tmp_path / "spool", run_log, timeout_s=1) == 0
        with mlflow_run(experiment="e", name="r", tags={}, run_id=run_log.run_id):
            pass
    finally:
        mlflow.set_tracking_uri(uris[0])
        mlflow.set_registry_uri(uris[1])
    assert values(run_log, "m") == [(k, float(k)) for k in range(60)] + [(k, 100.0) for k in range(60, 65)]
    assert values(run_log, "n") == [(k, float(-k)) for k in range(60)]
    assert MlflowClient(database).get_run(run_log.run_id).info.status == "FINISHED"


# --- in a bucket ---

BUCKET = "metrics"


@pytest.fixture
def bucket(serving):
    """Lists a server's bucket, or stops the server."""
    with serving() as server:
        client = s3fs.S3FileSystem(use_listings_cache=False)
        client.makedirs(BUCKET, exist_ok=True)
        yield SimpleNamespace(names=lambda: sorted(map(os.path.basename, client.find(BUCKET))), stop=server.stop)


def test_records_wait_in_a_bucket_and_go_out_once_in_order(bucket, new_run, values):
    """MLflow is away when the first process dies; the second, on another node, does some steps anew."""
    run_log = new_run()
    away = RunLog(tracking_uri="http://127.0.0.1:9", run_id=run_log.run_id)
    first = MetricSpool(f"s3://{BUCKET}/spool", away)
    first.series("m", [1.0, 2.0, math.inf], first_step=1)
    first.metrics({"n": 0.1}, step=1)
    assert first.close(0) == 2
    second = MetricSpool(f"s3://{BUCKET}/spool", away)
    second.series("m", [-2.0, -3.0, 4.0], first_step=2)
    assert second.close(0) == 3
    assert [int(name.partition("-")[0]) for name in bucket.names()] == [1, 2, 3]
    assert replay(f"s3://{BUCKET}/spool", run_log, timeout_s=30) == 0
    assert values(run_log, "m") == [(1, 1.0), (2, 2.0), (3, LARGEST), (4, 4.0)]
    assert values(run_log, "n") == [(1, 0.1)]
    assert bucket.names() == []
    assert replay(f"s3://{BUCKET}/none", run_log, timeout_s=30) == 0, "no records"


def test_bucket_that_is_gone(bucket):
    spool = MetricSpool(f"s3://{BUCKET}/gone", RunLog(tracking_uri="http://127.0.0.1:9", run_id="0" * 32))
    bucket.stop()
    with pytest.raises(RegistryError, match=rf"metrics of step 3 cannot be kept in s3://{BUCKET}/gone: "):
        spool.metrics({"m": 1.0}, step=3)
    with pytest.raises(RegistryError, match="cannot be listed"):
        spool.close(0)
