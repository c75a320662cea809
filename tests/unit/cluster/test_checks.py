"""Every check on hand-written answers."""

import pytest

from depthflow.cluster.checks import (
    Check,
    bus_bandwidth,
    exempt,
    judge_all_reduce,
    judge_disks,
    judge_gpus,
    judge_mlflow,
    judge_presence,
    judge_proxies,
    judge_storage,
    judge_versions,
    worst,
)
from depthflow.cluster.config import DoctorConfig
from depthflow.cluster.doctor import Doctor, conclude, line
from depthflow.cluster.probes import ClusterNode, NoAnswer
from depthflow.errors import ClusterError, TrainingError

GB = 10**9
TIMEOUT = NoAnswer("no answer within 60 s")


def node(name: str, gpus: int = 0) -> ClusterNode:
    return ClusterNode(name=name, node_id=name * 4, address=name, cpus=1, gpus=gpus)


def assert_check(check: Check, status: str, *words: str) -> None:
    assert check.status == status, check
    for word in words:
        assert word in check.message


# --- storage ---


def test_storage_that_every_node_writes_and_reads():
    answers = {"a": ["a", "b"], "b": ["b", "a"]}
    assert_check(judge_storage("/shared", {"a": False, "b": False}, answers), "ok", "/shared", "all 2 nodes")


def test_storage_that_is_not_shared():
    answers = {"a": ["a", "b"], "b": ["b"]}
    found = judge_storage("/data", {"a": True, "b": True}, answers)
    assert_check(found, "failed", "/data is not shared: b does not see what a wrote", "s3://")


def test_storage_that_a_node_cannot_write():
    written = {"a": False, "b": NoAnswer("PermissionError: /shared"), "c": TIMEOUT}
    found = judge_storage("/shared", written, {"a": ["a"], "b": [], "c": []})
    assert_check(found, "failed", "b: PermissionError: /shared", "c: no answer within 60 s")


def test_storage_that_a_node_cannot_read():
    assert_check(
        judge_storage("s3://b", {"a": False, "b": False}, {"a": ["a", "b"], "b": TIMEOUT}),
        "failed",
        "s3://b: b: no answer",
    )


@pytest.mark.parametrize(
    ("answers", "status", "word"),
    [
        ({"a": True, "b": True}, "ok", "all 2 nodes"),
        ({"a": True, "b": False}, "failed", "does not exist on b"),
        ({"a": TIMEOUT, "b": True}, "failed", "a: no answer"),
    ],
)
def test_presence(answers, status, word):
    assert_check(judge_presence("/samples", answers), status, "/samples", word)


# --- disk ---


@pytest.mark.parametrize(
    ("free", "total", "status", "word"),
    [
        (100 * GB, 200 * GB, "ok", "a has 100.0 of 200.0 GB free at /tmp"),
        (1 * GB, 200 * GB, "failed", "1.0 of 200.0 GB"),
        (10 * GB, 20 * GB, "warning", "10.0 of 20.0 GB"),
        (30 * GB, 1000 * GB, "warning", "95%"),
    ],
)
def test_disk(free, total, status, word):
    assert_check(judge_disks({"a": {"/tmp": (free, total)}, "b": {"/tmp": (500 * GB, 1000 * GB)}}), status, word)


def test_only_the_full_disk_is_named():
    found = judge_disks({"a": {"/tmp": (10 * GB, 20 * GB)}, "b": {"/data": (0, 20 * GB)}})
    assert_check(found, "failed", "b has 0.0 of 20.0 GB free at /data")
    assert "/tmp" not in found.message


# --- MLflow ---


@pytest.mark.parametrize("uri", ["sqlite:////m/mlflow.db", "file:///m", "/m", "./m"])
def test_an_mlflow_file_is_accepted_on_one_node_only(uri):
    assert_check(judge_mlflow(uri, {}, nodes=1, may_grow=False), "ok", "only node")
    assert_check(judge_mlflow(uri, {}, nodes=2, may_grow=False), "failed", uri, "2 nodes", "mlflow server")
    assert_check(judge_mlflow(uri, {}, nodes=1, may_grow=True), "failed", "autoscaler")


def test_an_mlflow_server_must_answer_every_node():
    assert_check(judge_mlflow("http://m:5000", {"a": True, "b": True}, nodes=2, may_grow=True), "ok", "all 2 nodes")
    found = judge_mlflow("http://m:5000", {"a": True, "b": NoAnswer("refused")}, nodes=2, may_grow=False)
    assert_check(found, "failed", "b: refused", "--allowed-hosts")


# --- versions ---


def test_versions():
    same = {"python": "3.11.7", "ray": "2.60.0"}
    assert_check(judge_versions({"a": same, "b": dict(same)}), "ok", "python 3.11.7, ray 2.60.0")
    found = judge_versions({"a": same, "b": {**same, "ray": "2.61.0"}, "c": same})
    assert_check(found, "failed", "ray: 2.60.0 on a c, 2.61.0 on b", "requirements.lock")
    assert "python" not in found.message
    assert_check(judge_versions({"a": same, "b": {"python": "3.11.7"}}), "failed", "missing on b")
    assert_check(judge_versions({"a": same, "b": NoAnswer("No module named 'depthflow'")}), "failed", "No module named")


# --- proxies ---


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({}, "ok"),
        ({"no_proxy": "x"}, "ok"),
        ({"https_proxy": "http://p:3128"}, "warning"),
        ({"http_proxy": "http://p:3128", "no_proxy": "10.0.0.1"}, "warning"),
        ({"https_proxy": "http://p:3128", "no_proxy": "10.0.0.1, 10.0.0.2"}, "ok"),
        ({"https_proxy": "http://p:3128", "no_proxy": "10.0.0.0/24"}, "ok"),
    ],
)
def test_proxies(found, status):
    nodes = [node("10.0.0.1"), node("10.0.0.2")]
    words = ["10.0.0.2", "http://p:3128", "no_proxy"] if status == "warning" else []
    assert_check(judge_proxies(nodes, {"10.0.0.1": {}, "10.0.0.2": found}), status, *words)


@pytest.mark.parametrize(
    ("no_proxy", "expected"),
    [
        ("", False),
        ("localhost,127.0.0.1", False),
        ("*", True),
        ("10.1.2.3", True),
        ("x, 10.1.2.3", True),
        ("2.3", True),
        (".3", True),
        ("0.1.2.3", False),
        ("10.1.0.0/16", True),
        ("10.2.0.0/16", False),
        ("example/16", False),
    ],
)
def test_exempt(no_proxy, expected):
    assert exempt("10.1.2.3", no_proxy) == expected


# --- GPUs and the all-reduce ---


def test_gpus():
    nodes = [node("a", 4), node("b", 2)]
    assert_check(judge_gpus([], {}), "skipped", "no GPU")
    assert_check(judge_gpus(nodes, {"a": 4, "b": 3}), "ok", "all 6")
    assert_check(
        judge_gpus(nodes, {"a": 4, "b": 0}), "failed", "b has 2 for Ray, TensorFlow sees 0", "requirements-gpu.lock"
    )
    assert_check(judge_gpus(nodes, {"a": 4, "b": TIMEOUT}), "failed", "b: no answer")


def test_bus_bandwidth():
    assert bus_bandwidth(workers=2, bytes_each=100, seconds=2) == 50
    assert bus_bandwidth(workers=4, bytes_each=100, seconds=1) == 150


def test_all_reduce():
    found = judge_all_reduce({"workers": 2, "bytes_each": 64_000_000, "seconds": 0.5})
    assert_check(found, "ok", "64 MB between 2 workers in 0.500 s", "0.13 GB/s")
    assert_check(judge_all_reduce("It did not end within 180 s"), "failed", "within 180 s", "NCCL_DEBUG=INFO")


# --- the whole examination ---


def test_worst():
    ok, warning, failed = (Check(status, status) for status in ("ok", "warning", "failed"))
    assert worst([ok, warning, ok]) == warning
    assert worst([failed, warning, failed]) == Check(status="failed", message="failed; failed")
    assert worst([]).status == "skipped"


def test_conclude():
    checks = {"disk": Check(status="warning", message="low"), "gpus": Check(status="skipped", message="no GPU")}
    found = conclude(checks, nodes=2, seconds=1.234)
    assert found == {
        "nodes": 2,
        "checks": {
            "disk": {"status": "warning", "message": "low"},
            "gpus": {"status": "skipped", "message": "no GPU"},
        },
        "seconds": 1.2,
    }
    with pytest.raises(ClusterError, match=r"^mlflow: away$") as caught:
        conclude({**checks, "mlflow": Check(status="failed", message="away")}, nodes=2, seconds=1)
    assert caught.value.details["checks"]["mlflow"]["status"] == "failed"


def test_the_table_is_aligned():
    rows = [line("all-reduce", Check(status="skipped", message="M")), line("disk", Check(status="ok", message="M"))]
    assert [row.index("M") for row in rows] == [21, 21]


@pytest.mark.parametrize(
    ("nodes", "quick", "storage", "reason"),
    [
        ([node("a", 1)], False, (), "one GPU"),
        ([node("a"), node("b")], True, ("s3://b",), "no GPU"),
        ([node("a")], False, (), "one CPU"),
        ([node("a", 2), node("b", 2)], False, (), "--storage"),
    ],
)
def test_a_pointless_all_reduce_is_skipped(nodes, quick, storage, reason):
    def never(**_):
        raise AssertionError("the all-reduce ran")

    config = DoctorConfig(checks=("all-reduce",), quick=quick, storage=storage)
    doctor = Doctor(config, nodes, mlflow_uri="sqlite:///m", may_grow=False, all_reduce=never)
    assert_check(doctor.all_reduce(), "skipped", reason)


def test_the_all_reduce_uses_all_gpus():
    asked = {}

    def time_out(**arguments):
        asked.update(arguments)
        raise TrainingError("It did not end within 180 s")

    config = DoctorConfig(checks=("all-reduce",), quick=True, storage=("s3://b/runs",))
    doctor = Doctor(config, [node("a", 2), node("b", 2)], mlflow_uri="sqlite:///m", may_grow=False, all_reduce=time_out)
    assert_check(doctor.all_reduce(), "failed", "did not end within 180 s")
    assert asked == {"num_workers": 4, "use_gpu": True, "storage": "s3://b/runs", "timeout_s": 180.0}
