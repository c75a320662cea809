"""Turn raw frames into a Parquet sample store, in parallel on every node."""

import logging
import sys
import time
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
    from depthflow.store.write.preprocess import preprocess, store_facts

    started = time.monotonic()
    if config.dry_run:
        return describe(config)
    with ray_session(config.num_cpus):
        store = preprocess(config, ProgressLine)
    facts = store_facts(store)
    if rejects := facts["rejects"]:
        told = f"{rejects} inputs were refused ({facts['rejects_by_reason']}): see {facts['out']}/rejects.parquet"
        tell(told, {"rejects": rejects})
    if warning := implausible_depths(store.index.to_pylist()):
        tell(warning, level=logging.WARNING)
    report = write_report(store, ProgressLine("samples surveyed")) if config.report else None
    if report:
        tell(f"The data report: {report}")
    return {**facts, "report": report, "seconds": round(time.monotonic() - started, 2)}


def describe(config: PreprocessConfig) -> dict[str, Any]:
    """Writes the frame table alone, and tells what was understood."""
    from depthflow.cluster.session import ray_session
    from depthflow.reports.survey import implausible_depths
    from depthflow.store.write.dry_run import read_lines, read_some, summary, understood
    from depthflow.store.write.list_sources import archive_identities
    from depthflow.store.write.preprocess import dry_run, sample_layout

    with ray_session(config.num_cpus) if archive_identities(config) else nullcontext():
        rows, sources = dry_run(config, ProgressLine)
    for line in understood(rows, sources):
        tell(line)
    read = [*read_some(rows, sources, sample_layout(config))]
    for line in read_lines(read):
        tell(line)
    if warning := implausible_depths([row for row in read if "reason" not in row]):
        tell(warning, level=logging.WARNING)
    return summary(rows, sources, read, out=config.out)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
