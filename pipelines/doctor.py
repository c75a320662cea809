"""Check what this machine, or the cluster that RAY_ADDRESS names, can do."""

import sys
import time
from typing import Any

from depthflow.cluster.config import DoctorConfig
from depthflow.command import run_command


def main(config: DoctorConfig) -> dict[str, Any]:
    """Prints one line per check on stderr. If the plan can never be placed, nothing else is checked."""
    from depthflow.cluster.checks import Check
    from depthflow.cluster.doctor import Doctor, check_plan, conclude, line
    from depthflow.cluster.probes import cluster_nodes
    from depthflow.cluster.session import ray_session
    from depthflow.placement import cluster_capacity
    from depthflow.registry.tracking import tracking_uri
    from depthflow.training.probe import probe_all_reduce

    def tell(name: str, check: Check) -> None:
        print(line(name, check), file=sys.stderr, flush=True)

    started = time.monotonic()
    print(f"checking {' '.join(config.checks)}", file=sys.stderr, flush=True)
    with ray_session(config.num_cpus):
        capacity, nodes = cluster_capacity(), cluster_nodes()
        checks: dict[str, Check] = {}
        if "plan" in config.checks:
            checks["plan"] = check_plan(config, capacity)
            tell("plan", checks["plan"])
        if all(check.status != "failed" for check in checks.values()):
            doctor = Doctor(
                config,
                nodes,
                mlflow_uri=tracking_uri(),
                may_grow=bool(capacity["addable"]),
                all_reduce=probe_all_reduce,
            )
            checks.update(doctor.examine(tell))
    return conclude(checks, nodes=len(nodes), seconds=time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
