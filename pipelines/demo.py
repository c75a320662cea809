"""The whole chain, command by command, on a mini-DIODE or on your own frames."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from depthflow.command import run_command
from depthflow.demo.config import DemoConfig
from depthflow.errors import DepthflowError


def main(config: DemoConfig) -> dict[str, Any]:
    """Runs the chain, prints the table, and returns every command's result."""
    from depthflow.cluster.session import ray_session
    from depthflow.demo.chain import empty_folder, list_source, run_chain
    from depthflow.demo.summary import summary
    from depthflow.registry.tracking import sqlite_uri

    started = time.monotonic()
    out = Path(config.out).resolve()
    source = list_source(config.source, out) if config.source is not None else None
    empty_folder(out)
    os.environ["MLFLOW_TRACKING_URI"] = sqlite_uri(out / "mlflow.db")
    with ray_session(config.num_cpus):
        results = run_chain(config, source, out, pipelines=Path(__file__).resolve().parent)
    results["seconds"] = round(time.monotonic() - started, 1)
    print(summary(results, out), flush=True)
    if results["promote"]["decision"] != "promoted":
        raise DepthflowError(f"The chain ran, but no version was promoted: {'; '.join(results['promote']['reasons'])}.")
    return results


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
