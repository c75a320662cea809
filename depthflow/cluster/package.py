"""The code that is uploaded with a job: modules and their data files, and nothing else of the checkout."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from depthflow.errors import ClusterError

MAX_BYTES = 2_000_000
LARGEST_NAMED = 5
"""Number of files to name if the package is too large."""
ALLOWED = (
    "pipelines/*.py",
    "depthflow/**/*.py",
    "depthflow/py.typed",
    "depthflow/datasets/*.csv",
    "depthflow/**/*.html",
)
"""Patterns of the files to upload."""


def find_files(root: Path) -> dict[str, bytes]:
    """Returns the content of the files to upload by their POSIX path below the root. Links are not followed.

    Raises:
        ClusterError: if the root holds no pipelines/, or more than `MAX_BYTES` of code.
    """
    found = sorted({path for pattern in ALLOWED for path in root.glob(pattern)})
    paths = {path.relative_to(root).as_posix(): path for path in found if path.is_file() and not path.is_symlink()}
    if not any(name.startswith("pipelines/") for name in paths):
        raise ClusterError(f"{root} contains no pipelines/. Run submit.py from a checkout of depthflow.")
    check_size({name: path.stat().st_size for name, path in paths.items()})
    return {name: path.read_bytes() for name, path in paths.items()}


def check_size(sizes: Mapping[str, int]) -> None:
    """Checks the size of the package, given the size of each file.

    Raises:
        ClusterError: if it exceeds `MAX_BYTES`, naming the largest files.
    """
    total = sum(sizes.values())
    if total <= MAX_BYTES:
        return
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:LARGEST_NAMED]
    named = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in largest)
    raise ClusterError(
        f"The code to upload exceeds {MAX_BYTES / 1e6:g} MB. Received: {total / 1e6:.2f} MB. The largest files: "
        f"{named}. Move anything that is not code out of depthflow/ and pipelines/."
    )


def digest(files: Mapping[str, bytes]) -> str:
    """Returns a hash of names and contents."""
    hashed = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes the files below an empty folder."""
    for name, content in files.items():
        target = folder / PurePosixPath(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
