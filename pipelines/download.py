"""Download an official archive of DIODE, with resume, and verify it."""

import sys
import time
from pathlib import Path
from typing import Any

from depthflow.command import run_command
from depthflow.datasets.config import DownloadConfig
from depthflow.observability.progress import ProgressLine


def main(config: DownloadConfig) -> dict[str, Any]:
    """Downloads the missing parts of the archive; a second run finds nothing to do."""
    from depthflow.datasets.download import MD5_OF_SPLIT, download

    started = time.monotonic()
    name = f"{config.split}.tar.gz"
    archive = download(
        url=f"{config.base_url.rstrip('/')}/{name}",
        folder=Path(config.out),
        md5=config.md5 or MD5_OF_SPLIT[config.split],
        connections=config.connections,
        progress=ProgressLine(name, unit="bytes"),
        hash_progress=ProgressLine(f"MD5 of {name}", unit="bytes"),
    )
    return {
        "path": str(archive.path),
        "bytes": archive.size_bytes,
        "md5": archive.md5,
        "downloaded_bytes": archive.downloaded_bytes,
        "seconds": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
