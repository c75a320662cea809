"""`pip install .` gives a package that works where its checkout is not; what is public can be imported from its top."""

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
    """Built from a copy of what git has, so that nothing of the checkout is in it by chance."""
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


def test_it_holds_the_package_its_data_and_its_types(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"depthflow/py.typed", "depthflow/datasets/catalog.csv", "depthflow/reports/page.html"} <= held
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "depthflow").rglob("*.py")}
    assert modules == {name for name in held if name.endswith(".py")}


def test_it_is_of_the_version_that_it_says(wheel):
    assert wheel.name.split("-")[1] == depthflow.__version__


def test_it_works_without_its_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", USE, str(site)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["26070", "True"]  # What the packaged catalogue lists.
