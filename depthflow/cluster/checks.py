"""Judges what probes found on a cluster: each check is a pure function from the nodes' answers to a verdict."""

import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from depthflow.cluster.probes import Answers, ClusterNode, NoAnswer
from depthflow.cluster.requirements import is_local_store

MIN_FREE_BYTES = 2 * 2**30
"""With less, the first spill or checkpoint may fill the disk."""
LOW_FREE_BYTES = 20 * 2**30
SPILL_LIMIT = 0.95
"""Fraction of a used disk above which Ray stores no more objects there (local_fs_capacity_threshold)."""


@dataclass(frozen=True)
class Check:
    """The verdict of a check.

    Attributes:
        status: ok; warning: work can start, but may suffer; failed: work would fail; skipped: nothing to check.
        message: what was found, and what to do about it.
    """

    status: Literal["ok", "warning", "failed", "skipped"]
    message: str


def worst(checks: Sequence[Check]) -> Check:
    """Combines several checks: the worst status, with the messages of all checks that have it."""
    if not checks:
        return Check("skipped", "nothing to check")
    status = min(checks, key=lambda check: ("failed", "warning", "ok", "skipped").index(check.status)).status
    return Check(status, "; ".join(check.message for check in checks if check.status == status))


def judge_storage(location: str, written: Answers, read: Answers) -> Check:
    """Checks that every node can write to the location, and read what the others wrote.

    Args:
        location: Folder or URI.
        written: Any answer from nodes that wrote their mark.
        read: Names of the nodes whose mark was read, from each node.
    """
    if failures := _failures(written) or _failures(read):
        return Check("failed", f"{location}: {failures}. Check the path, its owner and the credentials.")
    for node, seen in read.items():
        if missing := sorted(set(written) - set(seen)):
            return Check(
                "failed",
                f"{location} is not shared: {node} does not see what {', '.join(missing)} wrote there. Use s3://, "
                "gs:// or a disk that all nodes share.",
            )
    return Check("ok", f"{location}: written and read by {_nodes(len(written))}")


def judge_presence(location: str, answers: Answers) -> Check:
    """Checks that every node sees a location that is to be read."""
    if failures := _failures(answers):
        return Check("failed", f"{location}: {failures}. Check the address and the credentials.")
    if blind := sorted(node for node, exists in answers.items() if not exists):
        return Check(
            "failed",
            f"{location} does not exist on {', '.join(blind)}. Check the name, and use s3://, gs:// or a disk that all "
            "nodes share.",
        )
    return Check("ok", f"{location}: found by {_nodes(len(answers))}")


def judge_disks(answers: Answers) -> Check:
    """Checks the free space of every node's disks.

    Args:
        answers: (free, total) bytes by folder, from each node.
    """
    if failures := _failures(answers):
        return Check("warning", failures)
    found = [
        (free, free / total, f"{node} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free at {folder}")
        for node, folders in answers.items()
        for folder, (free, total) in folders.items()
    ]
    if full := [text for free, _, text in found if free < MIN_FREE_BYTES]:
        return Check("failed", f"{'; '.join(full)}. Free some space, or use another disk.")
    if low := [text for free, fraction, text in found if free < LOW_FREE_BYTES or fraction < 1 - SPILL_LIMIT]:
        return Check("warning", f"{'; '.join(low)}. Ray stores no objects on a disk that is {SPILL_LIMIT:.0%} full.")
    return Check("ok", f"the fullest: {min(found)[2]}")


def judge_mlflow(uri: str, answers: Answers, *, nodes: int, may_grow: bool) -> Check:
    """Checks that every node can reach MLflow.

    Args:
        uri: MLFLOW_TRACKING_URI.
        answers: True from each node that got an answer; empty if the URI is a local file.
        nodes: Number of nodes in the cluster.
        may_grow: Whether an autoscaler may add nodes.
    """
    if is_local_store(uri):
        if nodes > 1 or may_grow:
            cluster = f"{nodes} nodes" if nodes > 1 else "an autoscaler that adds nodes"
            return Check(
                "failed",
                f"{uri} is a file on one machine, and this cluster has {cluster}. Start `mlflow server`, and set "
                "MLFLOW_TRACKING_URI to its http://HOST:5000.",
            )
        return Check("ok", f"{uri}, on the only node")
    if failures := _failures(answers):
        return Check(
            "failed",
            f"{uri}: {failures}. Start the server, open its port to the nodes, and allow the host name they use "
            "(mlflow server --allowed-hosts HOST:PORT).",
        )
    return Check("ok", f"{uri} answers {_nodes(len(answers))}")


def judge_versions(answers: Answers) -> Check:
    """Checks that all nodes run the same versions.

    Args:
        answers: Versions by package, from each node.
    """
    if failures := _failures(answers):
        return Check("failed", f"{failures}. Install depthflow on every node.")
    differing = []
    for package in sorted({package for found in answers.values() for package in found}):
        nodes_by_version: dict[str, list[str]] = defaultdict(list)
        for node, found in answers.items():
            nodes_by_version[found.get(package, "missing")].append(node)
        if len(nodes_by_version) > 1:
            where = ", ".join(f"{version} on {' '.join(nodes)}" for version, nodes in sorted(nodes_by_version.items()))
            differing.append(f"{package}: {where}")
    if differing:
        return Check("failed", f"{'; '.join(differing)}. Install requirements.lock on every node.")
    return Check("ok", ", ".join(f"{package} {version}" for package, version in next(iter(answers.values())).items()))


def judge_proxies(nodes: Sequence[ClusterNode], answers: Answers) -> Check:
    """Checks that connections between nodes bypass any proxy, which gRPC and thus TensorFlow's collectives would use.

    Args:
        nodes: Nodes with their addresses.
        answers: Proxy variables, from each node.
    """
    if failures := _failures(answers):
        return Check("warning", failures)
    for name, found in answers.items():
        proxy = next((variable for variable in sorted(found) if variable != "no_proxy"), None)
        proxied = [node.address for node in nodes if not exempt(node.address, found.get("no_proxy", ""))]
        if proxy and proxied:
            return Check(
                "warning",
                f"{name} has {proxy}={found[proxy]}, and no_proxy does not list {', '.join(proxied[:3])}: TensorFlow's "
                "workers would talk through the proxy and hang. Add the nodes' addresses to no_proxy before "
                "`ray start`.",
            )
    return Check("ok", "no proxy between nodes")


def exempt(address: str, no_proxy: str) -> bool:
    """Returns whether no_proxy covers an IP address, by the address, a suffix of it, a network, or `*`."""
    for entry in filter(None, (part.strip() for part in no_proxy.split(","))):
        if entry == "*" or address == entry or address.endswith("." + entry.lstrip(".")):
            return True
        if "/" in entry:
            try:
                if ipaddress.ip_address(address) in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
    return False


def judge_gpus(nodes: Sequence[ClusterNode], answers: Answers) -> Check:
    """Checks that TensorFlow sees every GPU that Ray schedules.

    Args:
        nodes: Nodes with GPUs.
        answers: Number of GPUs that TensorFlow sees, from each of them.
    """
    if not nodes:
        return Check("skipped", "no GPU")
    if failures := _failures(answers):
        return Check("failed", failures)
    blind = [
        f"{node.name} has {node.gpus} for Ray, TensorFlow sees {answers[node.name]}"
        for node in nodes
        if answers[node.name] < node.gpus
    ]
    if blind:
        return Check(
            "failed", f"{'; '.join(blind)}. Install requirements-gpu.lock and the NVIDIA driver there (see nvidia-smi)."
        )
    return Check("ok", f"TensorFlow sees all {sum(node.gpus for node in nodes)} on {_nodes(len(nodes))}")


def judge_all_reduce(found: Mapping[str, float] | str) -> Check:
    """Checks the result of an all-reduce between workers.

    Args:
        found: workers, bytes_each and seconds; or the error message.
    """
    if isinstance(found, str):
        return Check(
            "failed",
            f"{found}. Check that the nodes reach each other on all ports, and what NCCL prints with NCCL_DEBUG=INFO.",
        )
    return Check(
        "ok",
        f"{found['bytes_each'] / 1e6:.0f} MB between {found['workers']} workers in {found['seconds']:.3f} s, "
        f"{bus_bandwidth(**found) / 1e9:.2f} GB/s of bus bandwidth",
    )


def bus_bandwidth(*, workers: float, bytes_each: float, seconds: float) -> float:
    """Returns bytes per second and link, given that a ring of n sends 2 (n - 1) / n of the bytes over each link.

    Source: NVIDIA, nccl-tests, doc/PERFORMANCE.md.
    """
    return 2 * (workers - 1) / workers * bytes_each / seconds


def _failures(answers: Answers) -> str:
    """Lists why probes failed, nodes with the same reason together; empty if none did."""
    nodes_by_reason: dict[str, list[str]] = defaultdict(list)
    for node, answer in answers.items():
        if isinstance(answer, NoAnswer):
            nodes_by_reason[answer.reason].append(node)
    return "; ".join(f"{', '.join(nodes)}: {reason.rstrip('.')}" for reason, nodes in nodes_by_reason.items())


def _nodes(count: int) -> str:
    return "the only node" if count == 1 else f"all {count} nodes"
