"""Ctrl-C ends a command that has trained: Ray Train's own handler does not outlive the training."""

import signal
import subprocess
import sys

from depthflow.command import last_json_line
from tests.commands import ROOT, TIMEOUT_S, read_until


def test_ctrl_c_ends_the_demo_after_its_training(shared_ray, tmp_path):
    line = [sys.executable, str(ROOT / "pipelines" / "demo.py"), "--out", "demo-out", "--epochs", "1"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        seen = read_until(demo, "samples evaluated: ", timeout_s=TIMEOUT_S)
        demo.send_signal(signal.SIGINT)
        stdout, stderr = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130, seen + stderr
    assert last_json_line(stdout) == {"status": "failed", "error": "Interrupted."}
