"""A command as a job of a cluster with a token: submitted, left with Ctrl-C, attached to again."""

import signal
import subprocess
import sys
from subprocess import Popen

import pytest

from depthflow.command import last_json_line
from tests.commands import ROOT, read_until

START_S = 250
"""Time limit of steps that take 15 s on an idle machine."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write_triplet):
    """A tree with two splits and one triplet that lacks its depth file."""
    root = tmp_path_factory.mktemp("tree")
    for split, scene in (("train", 0), ("val", 1)):
        for view in range(2):
            write_triplet(root, split=split, scene=scene, view=view, size=(32, 32))
    image = write_triplet(root, split="val", scene=1, view=2, size=(32, 32))
    image.with_name(image.name.replace(".png", "_depth.npy")).unlink()
    return root


def test_a_job_survives_ctrl_c_and_can_be_attached_to(nodes, submit, tree, tmp_path):
    """Ctrl-C only stops following the log; the same command attaches to the job and ends with its result."""
    size = ["--height", "32", "--width", "32"]
    line = ["preprocess", "--source", str(tree), "--out", str(tmp_path / "store"), *size]
    first = Popen(
        [sys.executable, str(ROOT / "pipelines" / "submit.py"), *line],
        cwd=tmp_path,
        env=nodes.client_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = read_until(first, "checking plan", timeout_s=START_S)
    first.send_signal(signal.SIGINT)
    stdout, stderr = first.communicate(timeout=60)
    left = last_json_line(stdout)
    assert first.returncode == 130, seen + stderr
    assert left["job_status"] == "RUNNING" and left["action"] == "submit"
    assert f"ray job stop --address {nodes.api} {left['submission_id']}" in left["error"]

    done = submit(*line)
    assert done.result["submission_id"] == left["submission_id"]
    assert done.result["action"] == "attach", done.stderr
    assert done.code == 3 and done.result["status"] == "rejects"
    assert (done.result["samples"], done.result["rejects_by_reason"]) == (4, {"missing_member": 1})
    assert (tmp_path / "store" / "manifest.json").is_file()
    for word in ("versions", "disk", "storage"):
        assert f"\n{word:<12}ok" in done.stderr or f"\n{word:<12}warning" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"], "the preflight left a mark"
