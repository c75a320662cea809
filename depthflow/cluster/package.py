"""What a job takes along: the code and the data files that belong to it, and nothing else of the folder."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from depthflow.errors import ClusterError

MAX_BYTES = 2_000_000
LARGEST_NAMED = 5
"""Files named where the package is too large."""
ALLOWED = (
    "pipelines/*.py",
    "depthflow/**/*.py",
    "depthflow/py.typed",
    "depthflow/datasets/*.csv",
    "depthflow/**/*.html",
)
"""Patterns of what is taken; everything else of a folder stays, however much it is."""


def find_files(root: Path) -> dict[str, bytes]:
    """The package's files by their path below the root, `/` between its parts; links are not followed.

    Raises:
        ClusterError: if the root holds no code, or more than `MAX_BYTES` of it.
    """
    found = sorted({path for pattern in ALLOWED for path in root.glob(pattern)})
    paths = {path.relative_to(root).as_posix(): path for path in found if path.is_file() and not path.is_symlink()}
    if not any(name.startswith("pipelines/") for name in paths):
        raise ClusterError(f"{root} holds no pipelines/. Run submit.py from a checkout of depthflow.")
    check_size({name: path.stat().st_size for name, path in paths.items()})
    return {name: path.read_bytes() for name, path in paths.items()}


def check_size(sizes: Mapping[str, int]) -> None:
    """Refuses a package that is too large.

    Raises:
        ClusterError: naming the largest files.
    """
    total = sum(sizes.values())
    if total <= MAX_BYTES:
        return
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:LARGEST_NAMED]
    named = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in largest)
    raise ClusterError(
        f"The code to upload has {total / 1e6:.2f} MB, more than the {MAX_BYTES / 1e6:g} MB allowed. The largest "
        f"files: {named}. Move what is no code out of depthflow/ and pipelines/."
    )


def digest(files: Mapping[str, bytes]) -> str:
    """A hash of names and contents."""
    hashed = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Lays the package out in an empty folder."""
    for name, content in files.items():
        target = folder / PurePosixPath(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
