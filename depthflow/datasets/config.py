"""Flags of download.py."""

import re

from depthflow.flags import Split, flags, require, require_folder, require_positive


@flags
class DownloadConfig:
    """An official archive of DIODE, fetched and verified."""

    split: Split
    """val.tar.gz has 2.6 GB, train.tar.gz 81 GB."""
    out: str
    """Folder for the archive. The same command again resumes there what was cut, and finds nothing to do once whole."""
    connections: int = 8
    """Parts fetched at a time."""
    base_url: str = "http://diode-dataset.s3.amazonaws.com"
    """Where SPLIT.tar.gz lies: the official place, or a mirror."""
    md5: str | None = None
    """What the archive's MD5 must be. Default: the official one."""

    def __post_init__(self) -> None:
        require_folder(out=self.out)
        require_positive(connections=self.connections)
        require(
            re.match(r"https?://[^/]", self.base_url) is not None,
            f"--base-url must begin with http:// or https://. Received: {self.base_url}",
        )
        require(
            self.md5 is None or re.fullmatch(r"[0-9a-fA-F]{32}", self.md5) is not None,
            f"--md5 must be 32 hexadecimal digits. Received: {self.md5}",
        )
