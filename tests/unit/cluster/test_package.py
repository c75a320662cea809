"""The upload contains the code and nothing else of the checkout."""

import tomllib
from pathlib import Path

import pytest

from depthflow.cluster.package import MAX_BYTES, check_size, digest, find_files, write_files
from depthflow.errors import ClusterError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with large files next to the code."""
    for name in ("pipelines/train.py", "depthflow/a.py", "depthflow/datasets/b.py", "depthflow/datasets/catalog.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in (
        "data/val.tar.gz",
        ".git/pack",
        "depthflow/weights.h5",
        "depthflow/__pycache__/a.pyc",
        ".env",
        "mlflow.db",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 3_000_000)
    return tmp_path


def test_only_code_is_uploaded(checkout):
    files = find_files(checkout)
    assert sorted(files) == [
        "depthflow/a.py",
        "depthflow/datasets/b.py",
        "depthflow/datasets/catalog.csv",
        "pipelines/train.py",
    ]
    assert files["depthflow/a.py"] == b"depthflow/a.py"


def test_a_link_is_not_followed(checkout):
    (checkout / "depthflow" / "secret.py").symlink_to(checkout / ".env")
    assert "depthflow/secret.py" not in find_files(checkout)


def test_the_largest_files_of_an_oversized_package_are_named(checkout):
    (checkout / "depthflow" / "table.py").write_bytes(b"#" * 1_500_000)
    (checkout / "pipelines" / "table.py").write_bytes(b"#" * 700_000)
    with pytest.raises(ClusterError, match=r"2\.20 MB.*depthflow/table\.py \(1\.50 MB\), pipelines/table\.py \(0\.70"):
        find_files(checkout)


def test_a_package_of_exactly_the_limit_passes():
    check_size({"a": MAX_BYTES})
    with pytest.raises(ClusterError):
        check_size({"a": MAX_BYTES, "b": 1})


def test_a_folder_without_pipelines_is_rejected(tmp_path):
    with pytest.raises(ClusterError, match=r"contains no pipelines/\. Run submit\.py from a checkout"):
        find_files(tmp_path)


def test_every_module_of_this_checkout_is_uploaded():
    """Also every data file of the wheel."""
    files = find_files(ROOT)
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["depthflow"]
    assert {f"depthflow/{name}" for name in data} <= set(files)
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "depthflow").rglob("*.py")} <= set(files)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in files)


def test_digest_changes_with_names_and_contents():
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})
    different = [{"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b""}, {"ab": b"", "": b"1"}, {"a1": b""}]
    assert len({digest(files) for files in different}) == len(different)


def test_written_files_are_found_again(checkout, tmp_path_factory):
    files = find_files(checkout)
    folder = tmp_path_factory.mktemp("job")
    write_files(files, folder)
    assert find_files(folder) == files
