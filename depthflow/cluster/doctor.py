"""Looks at a running Ray from all its nodes, and says what it can and cannot do."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from depthflow.cluster import looks
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
from depthflow.cluster.requirements import is_local_store
from depthflow.cluster.scouts import ClusterNode, Looks, Scouts, Unseen
from depthflow.errors import ClusterError, DepthflowError, PlacementError
from depthflow.placement import Node, plan_data, plan_pool, plan_training

ALL_REDUCE_LIMITS = 3
"""How many times as long as a look the all-reduce may take: it starts processes that import TensorFlow."""
CPU_WORKERS = 2
"""That try the all-reduce where there is no GPU."""
Probe = Callable[..., Mapping[str, float]]
"""An all-reduce between num_workers processes, use_gpu with a GPU each: takes these two, storage and timeout_s; gives
workers, bytes_each and seconds."""


class Doctor:
    """Examines the nodes of a running Ray.

    Args:
        config: which checks, of what.
        nodes: alive ones.
        mlflow_uri: where runs go.
        may_grow: whether an autoscaler may add nodes.
        probe: the all-reduce.
    """

    def __init__(
        self, config: DoctorConfig, nodes: Sequence[ClusterNode], *, mlflow_uri: str, may_grow: bool, probe: Probe
    ) -> None:
        self._config = config
        self._nodes = nodes
        self._mlflow_uri = mlflow_uri
        self._may_grow = may_grow
        self._probe = probe

    def examine(self, told: Callable[[str, Check], None]) -> dict[str, Check]:
        """Each check's judgement, by its name, in the order of the configuration.

        Args:
            told: is told of each as soon as it is there.
        """
        scouts = Scouts(self._nodes, timeout_s=self._config.timeout_s)
        found = {}
        try:
            waiting = {name: getattr(self, _method(name))(scouts) for name in self._config.checks if name != "plan"}
            for name, judged in waiting.items():
                found[name] = judged()
                told(name, found[name])
        finally:
            scouts.dismiss()
        return found

    def _versions(self, scouts: Scouts) -> Callable[[], Check]:
        wait = scouts.start(looks.versions)
        return lambda: judge_versions(wait())

    def _disk(self, scouts: Scouts) -> Callable[[], Check]:
        wait = scouts.start(looks.disks, self._config.storage)
        return lambda: judge_disks(wait())

    def _proxies(self, scouts: Scouts) -> Callable[[], Check]:
        wait = scouts.start(looks.proxies)
        return lambda: judge_proxies(self._nodes, wait())

    def _mlflow(self, scouts: Scouts) -> Callable[[], Check]:
        asked = [] if is_local_store(self._mlflow_uri) else self._nodes
        wait = scouts.start(looks.mlflow_answers, self._mlflow_uri, on=asked)
        return lambda: judge_mlflow(self._mlflow_uri, wait(), nodes=len(self._nodes), may_grow=self._may_grow)

    def _gpus(self, scouts: Scouts) -> Callable[[], Check]:
        with_gpus = [node for node in self._nodes if node.gpus]
        wait = scouts.start(looks.tensorflow_gpus, on=with_gpus)
        return lambda: judge_gpus(with_gpus, wait())

    def _storage(self, scouts: Scouts) -> Callable[[], Check]:
        """All nodes write, then all read what all wrote; at all locations at once."""
        folder = f".doctor-{uuid.uuid4().hex[:8]}"
        there = {place: scouts.start(looks.is_there, place) for place in self._config.samples}
        writing = {place: scouts.start(looks.write_mark, place, folder) for place in self._config.storage}

        def judged() -> Check:
            checks = [judge_presence(place, wait()) for place, wait in there.items()]
            for place, wait in writing.items():
                written = wait()
                read = scouts.look(looks.read_marks, place, folder, [node.node_id for node in self._nodes])
                checks.append(judge_storage(place, written, self._by_name(read)))
                scouts.look(looks.remove_marks, place, folder, True in written.values())
            return worst(checks)

        return judged

    def _by_name(self, read: Looks) -> Looks:
        """Which nodes' files were read, by the nodes' names instead of their ids."""
        names = {node.node_id: node.name for node in self._nodes}
        return {node: seen if isinstance(seen, Unseen) else [names[i] for i in seen] for node, seen in read.items()}

    def _all_reduce(self, scouts: Scouts) -> Callable[[], Check]:
        return self.reduced

    def reduced(self) -> Check:
        """The all-reduce between all GPUs, or between two CPU workers."""
        gpus = sum(node.gpus for node in self._nodes)
        if gpus == 1 or (self._config.quick and gpus == 0):
            return Check(status="skipped", message="one GPU" if gpus else "no GPU")
        if gpus == 0 and sum(node.cpus for node in self._nodes) < CPU_WORKERS:
            return Check(status="skipped", message="one CPU")
        shared = next(iter(self._config.storage), None)
        if shared is None and len(self._nodes) > 1:
            return Check(status="skipped", message="Ray Train wants a place that all nodes share: pass --storage")
        try:
            return judge_all_reduce(
                self._probe(
                    num_workers=gpus or CPU_WORKERS,
                    use_gpu=gpus > 0,
                    storage=shared,
                    timeout_s=ALL_REDUCE_LIMITS * self._config.timeout_s,
                )
            )
        except DepthflowError as error:
            return judge_all_reduce(str(error))


def check_plan(config: DoctorConfig, room: Mapping[str, Sequence[Node]]) -> Check:
    """Whether the work finds room on the nodes that are there or that the autoscaler may add."""
    try:
        if config.work == "data":
            tasks = plan_data(**room)
            return Check(status="ok", message=f"tasks of one CPU each{_on(tasks.label_selector)}")
        if config.work == "pool":
            pool = plan_pool(config.num_workers, **room)
            kind = "GPU" if pool.use_gpu else "CPU"
            return Check(
                status="ok", message=f"{pool.num_workers} processes, one {kind} each{_on(pool.label_selector)}"
            )
        plan = plan_training(num_workers=config.num_workers, **room)
    except PlacementError as error:
        return Check(status="failed", message=str(error))
    gpu = "one GPU and " if plan.use_gpu else ""
    return Check(
        status="ok",
        message=f"{plan.num_workers} workers, {gpu}{plan.cpus_per_worker} CPUs each{_on(plan.label_selector)}",
    )


def conclude(checks: Mapping[str, Check], *, nodes: int, seconds: float) -> dict[str, Any]:
    """The result of an examination.

    Raises:
        ClusterError: if a check failed, with all of them in its details.
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
    """A row of the table that a person reads."""
    return f"{name:<12}{check.status:<9}{check.message}"


def _on(label_selector: Mapping[str, str]) -> str:
    return "".join(f", on nodes with {label}={value}" for label, value in label_selector.items())


def _method(name: str) -> str:
    return "_" + name.replace("-", "_")
