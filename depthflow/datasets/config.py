"""Flags of download.py."""

import re

from depthflow.flags import Split, flags, require, require_folder, require_positive


@flags
class DownloadConfig:
    """Downloads and verifies an official archive of DIODE."""

    split: Split
    """Split to download: val.tar.gz has 2.6 GB, train.tar.gz 81 GB."""
    out: str
    """Folder for the archive. Running the command again resumes the download, or does nothing if it is complete."""
    connections: int = 8
    """Number of parts to download in parallel."""
    base_url: str = "http://diode-dataset.s3.amazonaws.com"
    """URL of the folder that holds SPLIT.tar.gz. Defaults to the official one."""
    md5: str | None = None
    """Expected MD5 of the archive. Default: the official one."""

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
