"""Examines a running Ray from all of its nodes."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from depthflow.cluster.checks import (
    Check,
    judge_all_reduce,
    judge_disks,
    judge_gpus,
    judge_mlflow,
    judge_presence,
    judge_proxies,
    judge_storage,
    judge_versions,
    worst,
)
from depthflow.cluster.config import DoctorConfig
from depthflow.cluster.probes import (
    ClusterNode,
    NodeProbes,
    disks,
    exists,
    mlflow_answers,
    proxies,
    read_marks,
    remove_marks,
    tensorflow_gpus,
    versions,
    write_mark,
)
from depthflow.cluster.requirements import is_local_store
from depthflow.errors import ClusterError, DepthflowError, PlacementError
from depthflow.placement import Node, plan_data, plan_pool, plan_training

ALL_REDUCE_TIMEOUTS = 3
"""Time limit of the all-reduce in timeouts of a probe: it starts processes that import TensorFlow."""
CPU_WORKERS = 2
"""Workers of the all-reduce on a cluster without GPUs."""
AllReduce = Callable[..., Mapping[str, float]]
"""Runs an all-reduce between num_workers processes, with use_gpu on one GPU each; also takes storage and timeout_s, and
returns workers, bytes_each and seconds."""


class Doctor:
    """Checks the nodes of a running Ray.

    Args:
        config: Checks to run, and what to check.
        nodes: Alive nodes.
        mlflow_uri: MLflow tracking URI.
        may_grow: Whether an autoscaler may add nodes.
        all_reduce: Function that runs the all-reduce.
    """

    def __init__(
        self,
        config: DoctorConfig,
        nodes: Sequence[ClusterNode],
        *,
        mlflow_uri: str,
        may_grow: bool,
        all_reduce: AllReduce,
    ) -> None:
        self._config = config
        self._nodes = nodes
        self._mlflow_uri = mlflow_uri
        self._may_grow = may_grow
        self._run_all_reduce = all_reduce

    def examine(self, report: Callable[[str, Check], None]) -> dict[str, Check]:
        """Runs the configured checks but the plan, and returns them by name in the configured order.

        Args:
            report: Called with each check as soon as it is known.
        """
        probes = NodeProbes(self._nodes, timeout_s=self._config.timeout_s)
        checks = {}
        try:
            waiting = {name: self._start(name, probes) for name in self._config.checks if name != "plan"}
            for name, wait in waiting.items():
                checks[name] = wait()
                report(name, checks[name])
        finally:
            probes.close()
        return checks

    def _start(self, name: str, probes: NodeProbes) -> Callable[[], Check]:
        """Starts a check's probes, and returns a function that waits for the check."""
        match name:
            case "versions":
                return _then(probes.start(versions), judge_versions)
            case "disk":
                return _then(probes.start(disks, self._config.storage), judge_disks)
            case "proxies":
                return _then(probes.start(proxies), partial(judge_proxies, self._nodes))
            case "gpus":
                nodes = [node for node in self._nodes if node.gpus]
                return _then(probes.start(tensorflow_gpus, on=nodes), partial(judge_gpus, nodes))
            case "mlflow":
                asked = [] if is_local_store(self._mlflow_uri) else self._nodes
                judge = partial(judge_mlflow, self._mlflow_uri, nodes=len(self._nodes), may_grow=self._may_grow)
                return _then(probes.start(mlflow_answers, self._mlflow_uri, on=asked), judge)
            case "storage":
                return self._start_storage(probes)
            case "all-reduce":
                return self.all_reduce
        raise AssertionError(name)

    def _start_storage(self, probes: NodeProbes) -> Callable[[], Check]:
        """Every node writes a mark to each location, then reads the marks of all nodes."""
        folder = f".doctor-{uuid.uuid4().hex[:8]}"
        names = {node.node_id: node.name for node in self._nodes}
        looking = {location: probes.start(exists, location) for location in self._config.samples}
        writing = {location: probes.start(write_mark, location, folder) for location in self._config.storage}

        def wait() -> Check:
            checks = [judge_presence(location, answers()) for location, answers in looking.items()]
            for location, answers in writing.items():
                written = answers()
                checks.append(judge_storage(location, written, probes.run(read_marks, location, folder, names)))
                probes.run(remove_marks, location, folder, True in written.values())
            return worst(checks)

        return wait

    def all_reduce(self) -> Check:
        """Runs the all-reduce between all GPUs, or between two CPU workers."""
        gpus = sum(node.gpus for node in self._nodes)
        if gpus == 1 or (self._config.quick and gpus == 0):
            return Check("skipped", "one GPU" if gpus else "no GPU")
        if gpus == 0 and sum(node.cpus for node in self._nodes) < CPU_WORKERS:
            return Check("skipped", "one CPU")
        storage = next(iter(self._config.storage), None)
        if storage is None and len(self._nodes) > 1:
            return Check("skipped", "Ray Train needs storage that all nodes share: pass --storage")
        try:
            found = self._run_all_reduce(
                num_workers=gpus or CPU_WORKERS,
                use_gpu=gpus > 0,
                storage=storage,
                timeout_s=ALL_REDUCE_TIMEOUTS * self._config.timeout_s,
            )
        except DepthflowError as error:
            return judge_all_reduce(str(error))
        return judge_all_reduce(found)


def _then(wait: Callable[[], Any], judge: Callable[[Any], Check]) -> Callable[[], Check]:
    return lambda: judge(wait())


def check_plan(config: DoctorConfig, capacity: Mapping[str, Sequence[Node]]) -> Check:
    """Checks that the work fits on the nodes that are there or that the autoscaler may add."""
    try:
        if config.work == "data":
            plan, what = plan_data(**capacity), "tasks of one CPU each"
        elif config.work == "pool":
            plan = plan_pool(config.num_workers, **capacity)
            what = f"{plan.num_workers} processes, one {'GPU' if plan.use_gpu else 'CPU'} each"
        else:
            plan = plan_training(num_workers=config.num_workers, **capacity)
            gpu = "one GPU and " if plan.use_gpu else ""
            what = f"{plan.num_workers} workers, {gpu}{plan.cpus_per_worker} CPUs each"
    except PlacementError as error:
        return Check("failed", str(error))
    on = "".join(f", on nodes with {label}={value}" for label, value in plan.label_selector.items())
    return Check("ok", what + on)


def conclude(checks: Mapping[str, Check], *, nodes: int, seconds: float) -> dict[str, Any]:
    """Returns the result of an examination.

    Raises:
        ClusterError: if a check failed, with all checks in its details.
    """
    result = {
        "nodes": nodes,
        "checks": {name: asdict(check) for name, check in checks.items()},
        "seconds": round(seconds, 1),
    }
    failed = [f"{name}: {check.message}" for name, check in checks.items() if check.status == "failed"]
    if failed:
        raise ClusterError(" | ".join(failed), details=result)
    return result


def line(name: str, check: Check) -> str:
    """Formats a check as a row of the table on stderr."""
    return f"{name:<12}{check.status:<9}{check.message}"
