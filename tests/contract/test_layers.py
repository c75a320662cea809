"""Import layers, and modules without side effects on import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_imports_go_downwards():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_importing_the_library_starts_nothing(tmp_path):
    """Importing modules that need no TensorFlow creates no file or thread, and starts neither Ray nor TensorFlow."""
    script = """
import pathlib, sys, threading
modules = sorted(pathlib.Path(sys.argv[1]).rglob("*.py"))
names = [".".join(m.relative_to(sys.argv[2]).with_suffix("").parts) for m in modules]
heavy = ("depthflow.models", "depthflow.training.", "depthflow.inference.serving_model")
for name in names:
    if not name.startswith(heavy) or name in ("depthflow.training.trainer", "depthflow.training.observers"):
        __import__(name.removesuffix(".__init__"))
import ray
assert not ray.is_initialized()
assert threading.active_count() == 1, threading.enumerate()
assert "tensorflow" not in sys.modules, "TensorFlow takes seconds: import it where it is used"
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "depthflow"), str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
