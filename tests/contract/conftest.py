"""Fixtures of the tests of the deployment files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def locked() -> Callable[..., str]:
    """Returns the version of a package in a lock file."""

    def version(package: str, lock: str = "requirements.lock") -> str:
        found = re.findall(rf"^{package}==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)
        assert len(found) == 1, f"{package} in {lock}: {found}"
        return found[0]

    return version


@pytest.fixture(scope="session")
def launched() -> dict[str, Any]:
    """The parsed cluster.yaml."""
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())
