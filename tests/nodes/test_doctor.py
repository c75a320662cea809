"""doctor on a cluster of two nodes."""

START_S = 250
"""Time limit of steps that take 15 s on an idle machine."""


def test_doctor_checks_every_node(nodes, submit, tmp_path):
    """The second node claims a GPU that it lacks, and MLflow is a local file."""
    nodes.start("second", num_cpus=1, num_gpus=1, role="train")
    checks = ["plan", "storage", "disk", "mlflow", "proxies", "gpus"]
    line = ["doctor", "--checks", *checks, "--storage", tmp_path / "shared", "--timeout-s", START_S]
    done = submit(*line, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    assert done.code == 1
    assert done.result["nodes"] == 2
    found = {name: check["status"] for name, check in done.result["checks"].items()}
    assert list(found) == checks
    assert (found["storage"], found["mlflow"], found["gpus"]) == ("ok", "failed", "failed"), done.result["checks"]
    assert "all 2 nodes" in done.result["checks"]["storage"]["message"]
    assert "2 nodes" in done.result["checks"]["mlflow"]["message"]
    assert "has 1 for Ray, TensorFlow sees 0" in done.result["checks"]["gpus"]["message"]
    assert "mlflow:" in done.result["error"] and "gpus:" in done.result["error"]
    assert "storage:" not in done.result["error"]
    assert list(tmp_path.iterdir()) == []
