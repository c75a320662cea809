"""`pip install .` gives a package that works without its checkout, with the public API at its top level."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import depthflow

ROOT = Path(__file__).resolve().parents[2]
USE = """
import sys, depthflow
assert depthflow.__file__.startswith(sys.argv[1]), depthflow.__file__
assert not {"keras", "ray", "mlflow", "pyarrow"} & set(sys.modules)
from depthflow import *
from depthflow.datasets.catalogue import expected_counts
from depthflow.reports.page import Page
missing = [name for name in depthflow.__all__ if name not in globals()]
assert not missing, missing
page = Page(title="A page", sections=[]).to_html()
print(sum(expected_counts().values()), "A page" in page)

"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tracked files, so that no untracked file gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in tracked.split("\0"):
        if name and (name.startswith("depthflow/") or "/" not in name) and (ROOT / name).is_file():
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run([sys.executable, "-m", "pip", *command], cwd=folder / "source", check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_contains_modules_data_and_types(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"depthflow/py.typed", "depthflow/datasets/catalog.csv", "depthflow/reports/page.html"} <= held
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "depthflow").rglob("*.py")}
    assert modules == {name for name in held if name.endswith(".py")}


def test_the_wheel_has_the_packages_version(wheel):
    assert wheel.name.split("-")[1] == depthflow.__version__


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", USE, str(site)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["26070", "True"]  # Number of samples in the packaged catalogue.


def test_no_environment_has_pytorch():
    """Weights of transformers are read without it; beside TensorFlow it would bring a second CUDA."""
    locks = sorted(ROOT.glob("*.lock"))
    assert [path.name for path in locks] == ["requirements-gpu.lock", "requirements.lock"]
    pinned = {line.partition("==")[0] for path in locks for line in path.read_text().splitlines() if "==" in line}
    assert {"safetensors", "huggingface-hub"} <= pinned
    assert not pinned & {"torch", "transformers", "torchvision"}
