"""Where work goes on a cluster, by its nodes' labels: pure functions decide, from what Ray and its autoscaler have.

A node says what it is for by the label depthflow.io/role: `train` takes training and pools of models on GPUs, `data`
takes preprocessing. Where no node has a role, its work goes wherever there is room. Nodes that the autoscaler may still
add count as room: what fits on them waits for them, and what fits on none is refused before anything starts.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import ray
import yaml

from depthflow.errors import PlacementError

Role = Literal["head", "data", "train"]

ROLE_LABEL = "depthflow.io/role"
ANYWHERE: Mapping[str, str] = MappingProxyType({})
"""The label selector of all nodes."""
GROUP_LABEL = "ray.io/node-group"
"""Set by Ray on nodes that a launcher or KubeRay starts: the node type's name."""
LIMITS_VARIABLE = "DEPTHFLOW_CLUSTER_YAML"
"""Environment variable with the path of a file that has available_node_types as cluster.yaml has them, for clusters
that Ray's launcher did not start."""
LAUNCHERS_FILE = "~/ray_bootstrap_config.yaml"
"""Where Ray's launcher leaves cluster.yaml on the head node."""
MAX_CPUS_A_GPU = 8
"""So that a GPU node keeps CPUs for other tasks; a choice, not a measurement."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node of the cluster has, or would have.

    Attributes:
        memory_bytes: what Ray gives to tasks and actors.
        labels: of Ray.
    """

    cpus: int
    gpus: int
    memory_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The resources that a run takes.

    Attributes:
        num_workers: data-parallel workers.
        use_gpu: one GPU each.
        cpus_per_worker: CPUs, and threads, of each.
        label_selector: of the nodes that may have them; empty for any.
    """

    num_workers: int
    use_gpu: bool
    cpus_per_worker: int
    label_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Processes that hold a model.

    Attributes:
        num_workers: how many.
        use_gpu: one GPU each, and one CPU; else one CPU each.
        label_selector: of the nodes that may have them; empty for any.
    """

    num_workers: int
    use_gpu: bool
    label_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """Where tasks of one CPU each go.

    Attributes:
        label_selector: of the nodes that may have them; empty for any.
        most_cpus: of one of these nodes.
    """

    label_selector: Mapping[str, str]
    most_cpus: int


def plan_training(*, num_workers: int | None, nodes: Sequence[Node], addable: Sequence[Node] = ()) -> TrainingPlan:
    """One worker a GPU where there are GPUs; else two CPU workers, or one where there is one CPU.

    On a cluster of several nodes, one CPU of each node is left to data tasks, unless it is the only one: a run that
    lasts for days starves nobody. Workers are placed all at once or not at all (Ray Train's placement group), and data
    tasks wait for nothing while they have a CPU, so neither can hold what the other needs for ever.

    Args:
        num_workers: as asked for, or None.
        nodes: what each of Ray's nodes has; a worker's CPUs and its GPU are on one node.
        addable: nodes that the autoscaler may still add. Workers are only placed there where `num_workers` asks for
            them; without it, one is if there is no GPU yet and the autoscaler can add some.

    Raises:
        PlacementError: if the workers asked for can never be placed.
    """
    selector = _selector("train", [*nodes, *addable])
    there, possible = _selected(selector, nodes), _selected(selector, [*nodes, *addable])
    gpus, cpus = sum(node.gpus for node in possible), sum(node.cpus for node in possible)
    kept = 1 if len(nodes) + len(addable) > 1 else 0
    wanted = num_workers or sum(node.gpus for node in there) or (1 if gpus else max(1, min(2, cpus)))

    def places(cpus_each: int) -> int:
        return sum(min(_left(node, kept) // cpus_each, node.gpus if gpus else node.cpus) for node in possible)

    if places(1) < wanted:
        needs = "one CPU and one GPU each" if gpus else "one CPU each"
        left = ", one CPU of each node left to data tasks" if kept else ""
        raise PlacementError(
            f"{wanted} workers need {needs}; {_inventory(selector, there, possible)}, which is room for {places(1)}"
            f"{left}. Lower --num-workers{_or_add(selector)}."
        )
    most = max(_left(node, kept) for node in possible)
    limit = min(most, MAX_CPUS_A_GPU) if gpus else most
    cpus_each = max(each for each in range(1, limit + 1) if places(each) >= wanted)
    return TrainingPlan(num_workers=wanted, use_gpu=gpus > 0, cpus_per_worker=cpus_each, label_selector=selector)


def plan_pool(asked: int | None, *, nodes: Sequence[Node], addable: Sequence[Node] = ()) -> Pool:
    """One process a GPU, or a single one where there is none; or as many as asked for.

    On GPUs they go where training does, else where data tasks do.

    Args:
        asked: processes as asked for, or None.
        nodes: what each of Ray's nodes has; a process's CPU and its GPU are on one node.
        addable: nodes that the autoscaler may still add.

    Raises:
        PlacementError: if so many can never be placed.
    """
    everything = [*nodes, *addable]
    on_gpus = _selector("train", everything)
    use_gpu = any(node.gpus for node in _selected(on_gpus, everything))
    selector = on_gpus if use_gpu else _selector("data", everything)
    there, possible = _selected(selector, nodes), _selected(selector, everything)
    room = sum(min(node.cpus, node.gpus) if use_gpu else node.cpus for node in possible)
    wanted = asked or sum(min(node.cpus, node.gpus) for node in there if use_gpu) or 1
    if wanted > room:
        kind = "CPU and one GPU" if use_gpu else "CPU"
        raise PlacementError(
            f"{wanted} workers need one {kind} each; {_inventory(selector, there, possible)}, which is room for "
            f"{room}. Lower --num-workers{_or_add(selector)}."
        )
    return Pool(num_workers=wanted, use_gpu=use_gpu, label_selector=selector)


def plan_data(*, nodes: Sequence[Node], addable: Sequence[Node] = ()) -> DataPlan:
    """Data tasks go to nodes of the role `data` if there are any, else anywhere.

    Raises:
        PlacementError: if none of these nodes has a CPU.
    """
    selector = _selector("data", [*nodes, *addable])
    there, possible = _selected(selector, nodes), _selected(selector, [*nodes, *addable])
    most = max((node.cpus for node in there), default=0) or max((node.cpus for node in possible), default=0)
    if most < 1:
        raise PlacementError(
            f"A data task needs one CPU; {_inventory(selector, there, possible)}. Add a node with CPUs."
        )
    return DataPlan(label_selector=selector, most_cpus=most)


def addable_nodes(config: Mapping[str, Any], nodes: Sequence[Node]) -> list[Node]:
    """What the autoscaler may still add: a node type's max_workers, less its nodes that are there.

    Each type counts for itself: max_workers of the whole cluster does not, as the autoscaler takes idle nodes of
    another type away before long.

    Args:
        config: cluster.yaml, with resources of each of its available_node_types.
        nodes: those that are there.
    """
    types = config.get("available_node_types") or {}
    at_most = config.get("max_workers", 0)
    groups = [node.labels.get(GROUP_LABEL) for node in nodes]
    found = []
    for name, about in types.items():
        if name == config.get("head_node_type"):
            continue
        node = _node(about.get("resources") or {}, {**(about.get("labels") or {}), GROUP_LABEL: name})
        more = min(about.get("max_workers", at_most), at_most) - groups.count(name)
        found += [node] * max(0, more)
    return found


def alive_nodes() -> list[Node]:
    """What each node of the running Ray has."""
    return [_node(node["Resources"], node.get("Labels") or {}) for node in ray.nodes() if node["Alive"]]


def autoscaled_nodes(nodes: Sequence[Node]) -> list[Node]:
    """What the autoscaler of the running Ray may still add; none where nothing says so.

    Ray tells a driver of its nodes, but not of the autoscaler's limits: those are in the file that Ray's launcher
    leaves on the head node, where jobs run, or in the one that DEPTHFLOW_CLUSTER_YAML names. The launcher's counts if
    a node of this Ray is of one of its types: a Ray that a command starts for itself beside it does not grow.

    Raises:
        PlacementError: if DEPTHFLOW_CLUSTER_YAML names no such file.
    """
    named = os.environ.get(LIMITS_VARIABLE)
    path = Path(named or LAUNCHERS_FILE).expanduser()
    if not named and not path.is_file():
        return []
    try:
        config = yaml.safe_load(path.read_text())
        types = {*config["available_node_types"]}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise PlacementError(
            f"{path} has no available_node_types as cluster.yaml has: {error!r}. Let {LIMITS_VARIABLE} name the file "
            "that the cluster was launched with."
        ) from None
    if not any(node.labels.get(GROUP_LABEL) in types for node in nodes):
        return []
    return addable_nodes(config, nodes)


def cluster_capacity() -> dict[str, list[Node]]:
    """What the running Ray has and may still get, as `plan_training`, `plan_pool` and `plan_data` take it."""
    nodes = alive_nodes()
    return {"nodes": nodes, "addable": autoscaled_nodes(nodes)}


def _node(resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    return Node(
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        labels=dict(labels),
    )


def _selector(role: Role, nodes: Sequence[Node]) -> dict[str, str]:
    """Of the nodes of a role; of all where none has it."""
    return {ROLE_LABEL: role} if any(node.labels.get(ROLE_LABEL) == role for node in nodes) else {}


def _selected(selector: Mapping[str, str], nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if selector.items() <= node.labels.items()]


def _left(node: Node, kept: int) -> int:
    """CPUs of a node that training may take."""
    return max(min(1, node.cpus), node.cpus - kept)


def _inventory(selector: Mapping[str, str], there: Sequence[Node], possible: Sequence[Node]) -> str:
    """Such as: Ray has 8 CPUs and 1 GPUs on 1 nodes with depthflow.io/role=train, and can add 7 with 56 and 7."""
    where = "".join(f" with {name}={value}" for name, value in selector.items())
    cpus, gpus = sum(node.cpus for node in there), sum(node.gpus for node in there)
    text = f"Ray has {cpus} CPUs and {gpus} GPUs on {len(there)} nodes{where}"
    if len(possible) > len(there):
        more_cpus, more_gpus = sum(node.cpus for node in possible) - cpus, sum(node.gpus for node in possible) - gpus
        text += f" and can add {len(possible) - len(there)} with {more_cpus} CPUs and {more_gpus} GPUs"
    return text


def _or_add(selector: Mapping[str, str]) -> str:
    return "".join(f", or add nodes with {name}={value}" for name, value in selector.items())
