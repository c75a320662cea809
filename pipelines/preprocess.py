"""Turn raw frames into a Parquet sample store, in parallel on every node."""

import logging
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
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
    if config.dry_run:
        return describe(config)
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
        "status": _status(manifest["rejects_by_reason"]),
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


def describe(config: PreprocessConfig) -> dict[str, Any]:
    """Writes the frame table alone, and tells what was understood."""
    from depthflow.cluster.session import ray_session
    from depthflow.reports.survey import implausible_depths
    from depthflow.store.write.dry_run import FRAMES, read_some, summary, understood
    from depthflow.store.write.list_sources import archive_identities
    from depthflow.store.write.preprocess import dry_run, sample_layout

    with ray_session(config.num_cpus) if archive_identities(config) else nullcontext():
        rows, sources = dry_run(config, ProgressLine)
    for line in understood(rows, sources):
        tell(line)
    read = [*read_some(rows, sources, sample_layout(config))]
    for row in read:
        tell(
            f"  read: {row['sample_id']}: "
            + (
                f"{row['reason']}: {row['message']}"
                if "reason" in row
                else f"median depth {row['depth_median_m']:.3g} m"
            )
        )
    if warning := implausible_depths([row for row in read if "reason" not in row]):
        tell(warning, level=logging.WARNING)
    found = summary(rows, sources)
    reasons = {*found["rejects_by_reason"], *(row["reason"] for row in read if "reason" in row)}
    return {"status": _status(reasons), "frames": f"{config.out.rstrip('/')}/{FRAMES}", **found}


def _status(reasons: Iterable[str]) -> str:
    """Returns rejects if any input was refused that the flags did not ask to leave out."""
    from depthflow.store.write.splits import LEFT_OUT

    return "rejects" if {*reasons} - {*LEFT_OUT} else "ok"


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
