"""Turn raw triplets into a Parquet sample store, in parallel on every node."""

import logging
import sys
import time
from typing import Any

from depthflow.command import run_command
from depthflow.observability.logs import tell
from depthflow.observability.progress import ProgressLine
from depthflow.store.write.config import PreprocessConfig


def main(config: PreprocessConfig) -> dict[str, Any]:
    """Writes the store. Every input becomes a sample or a reject with its reason."""
    from depthflow.cluster.session import ray_session
    from depthflow.reports.data_report import write_report
    from depthflow.reports.survey import implausible_depths
    from depthflow.store.write.preprocess import preprocess

    started = time.monotonic()
    with ray_session(config.num_cpus):
        store = preprocess(config, ProgressLine)
    manifest = store.manifest
    if manifest["rejects"]:
        tell(
            f"{manifest['rejects']} inputs were refused ({manifest['rejects_by_reason']}): "
            f"see {store.files.root}/rejects.parquet",
            {"rejects": manifest["rejects"]},
        )
    if warning := implausible_depths(store.index.to_pylist()):
        tell(warning, level=logging.WARNING)
    report = write_report(store, ProgressLine("samples surveyed")) if config.report else None
    if report:
        tell(f"The data report: {report}")
    return {
        "out": store.files.root,
        "samples": manifest["samples"],
        "rejects": manifest["rejects"],
        "rejects_by_reason": manifest["rejects_by_reason"],
        "counts": manifest["counts"],
        "accounting": manifest["accounting"],
        "shards": len(manifest["shards"]),
        "fingerprint": manifest["fingerprint"],
        "report": report,
        "seconds": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
