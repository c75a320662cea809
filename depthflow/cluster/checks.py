"""What the looks say of a cluster: each check is a pure function from what was seen to a judgement."""

import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from depthflow.cluster.requirements import is_local_store
from depthflow.cluster.scouts import ClusterNode, Looks, Unseen

MIN_FREE_BYTES = 2 * 2**30
"""Less, and the first spill or checkpoint may fill the disk."""
LOW_FREE_BYTES = 20 * 2**30
SPILL_LIMIT = 0.95
"""Ray puts no objects on a disk that is fuller than this share (local_fs_capacity_threshold)."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A judgement.

    Attributes:
        status: ok; warning: work can begin, but may suffer; failed: it would fail; skipped: there was nothing to look
            at.
        message: what was found, and what to do about it.
    """

    status: Literal["ok", "warning", "failed", "skipped"]
    message: str


def worst(checks: Sequence[Check]) -> Check:
    """Several judgements as one: the worst status, and the messages that have it."""
    if not checks:
        return Check(status="skipped", message="nothing to look at")
    status = min(checks, key=lambda check: ("failed", "warning", "ok", "skipped").index(check.status)).status
    return Check(status=status, message="; ".join(check.message for check in checks if check.status == status))


def judge_storage(location: str, written: Looks, read: Looks) -> Check:
    """Whether every node writes the location, and reads what the others wrote.

    Args:
        location: folder or URI.
        written: anything from the nodes that wrote their file.
        read: from each node, the names of the nodes whose file it read.
    """
    unable = _unseen(written)
    if unable:
        return Check(status="failed", message=f"{location}: {unable}. Check the path, its owner and the credentials.")
    unable = _unseen(read)
    if unable:
        return Check(status="failed", message=f"{location}: {unable}. Check the path, its owner and the credentials.")
    for node, seen in read.items():
        missing = sorted(set(written) - set(seen))
        if missing:
            return Check(
                status="failed",
                message=f"{location} is not shared: {node} does not see what {', '.join(missing)} wrote there. Take a "
                "disk that all nodes share, s3:// or gs://.",
            )
    return Check(status="ok", message=f"{location}: written and read by {_nodes(len(written))}")


def judge_presence(location: str, looks: Looks) -> Check:
    """Whether every node finds what is to be read."""
    unable = _unseen(looks)
    if unable:
        return Check(status="failed", message=f"{location}: {unable}. Check the address and the credentials.")
    blind = sorted(node for node, there in looks.items() if not there)
    if blind:
        return Check(
            status="failed",
            message=f"{location} is not there for {', '.join(blind)}. Check the name; every node must see it, on a "
            "disk that all share, s3:// or gs://.",
        )
    return Check(status="ok", message=f"{location}: there for {_nodes(len(looks))}")


def judge_disks(looks: Looks) -> Check:
    """Whether there is room on every node's disks.

    Args:
        looks: from each node, (free, total) bytes by folder.
    """
    unable = _unseen(looks)
    if unable:
        return Check(status="warning", message=unable)
    found = [
        (free, free / total, f"{node} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free at {folder}")
        for node, folders in looks.items()
        for folder, (free, total) in folders.items()
    ]
    full = [said for free, _, said in found if free < MIN_FREE_BYTES]
    if full:
        return Check(status="failed", message=f"{'; '.join(full)}. Free space there, or take another disk.")
    low = [said for free, share, said in found if free < LOW_FREE_BYTES or share < 1 - SPILL_LIMIT]
    if low:
        return Check(
            status="warning",
            message=f"{'; '.join(low)}. Ray puts no objects on a disk that is {SPILL_LIMIT:.0%} full.",
        )
    return Check(status="ok", message=f"the fullest: {min(found)[2]}")


def judge_mlflow(uri: str, looks: Looks, *, nodes: int, may_grow: bool) -> Check:
    """Whether MLflow can be written from every node.

    Args:
        uri: MLFLOW_TRACKING_URI.
        looks: True from each node that had an answer; empty where the URI is a file's.
        nodes: in the cluster.
        may_grow: whether more may be added to it.
    """
    if is_local_store(uri):
        if nodes > 1 or may_grow:
            there = f"{nodes} nodes" if nodes > 1 else "an autoscaler that adds nodes"
            return Check(
                status="failed",
                message=f"{uri} is a file of one machine, and this cluster has {there}. Start `mlflow server`, and set "
                "MLFLOW_TRACKING_URI to its http://HOST:5000.",
            )
        return Check(status="ok", message=f"{uri}, on the only node")
    unable = _unseen(looks)
    if unable:
        return Check(
            status="failed",
            message=f"{uri}: {unable}. Start the server, open its port to the nodes, and let it answer to the name "
            "they call it by (mlflow server --allowed-hosts HOST:PORT).",
        )
    return Check(status="ok", message=f"{uri} answers {_nodes(len(looks))}")


def judge_versions(looks: Looks) -> Check:
    """Whether all nodes run the same.

    Args:
        looks: from each node, versions by package.
    """
    unable = _unseen(looks)
    if unable:
        return Check(status="failed", message=f"{unable}. Install depthflow on every node.")
    differing = []
    for package in sorted({package for found in looks.values() for package in found}):
        nodes_by_version: dict[str, list[str]] = defaultdict(list)
        for node, found in looks.items():
            nodes_by_version[found.get(package, "missing")].append(node)
        if len(nodes_by_version) > 1:
            said = ", ".join(f"{version} on {' '.join(nodes)}" for version, nodes in sorted(nodes_by_version.items()))
            differing.append(f"{package}: {said}")
    if differing:
        return Check(status="failed", message=f"{'; '.join(differing)}. Install requirements.lock on every node.")
    same = next(iter(looks.values()))
    return Check(status="ok", message=", ".join(f"{package} {version}" for package, version in same.items()))


def judge_proxies(nodes: Sequence[ClusterNode], looks: Looks) -> Check:
    """Whether nodes' own connections would go by way of a proxy: gRPC, and with it TensorFlow's collectives, heed it.

    Args:
        nodes: with their addresses.
        looks: from each node, its proxy variables.
    """
    unable = _unseen(looks)
    if unable:
        return Check(status="warning", message=unable)
    for name, found in looks.items():
        proxy = next((variable for variable in sorted(found) if variable != "no_proxy"), None)
        outside = [node.address for node in nodes if not exempt(node.address, found.get("no_proxy", ""))]
        if proxy and outside:
            return Check(
                status="warning",
                message=f"{name} has {proxy}={found[proxy]}, and no_proxy leaves out {', '.join(outside[:3])}: "
                "TensorFlow's workers would talk through the proxy and hang. Set no_proxy to the nodes' addresses "
                "before `ray start`.",
            )
    return Check(status="ok", message="no proxy between nodes")


def exempt(address: str, no_proxy: str) -> bool:
    """Whether no_proxy names an IP address: itself, a network, an end of it, or everything."""
    for entry in (part.strip() for part in no_proxy.split(",")):
        if not entry:
            continue
        if entry == "*" or address == entry or address.endswith("." + entry.lstrip(".")):
            return True
        if "/" in entry:
            try:
                if ipaddress.ip_address(address) in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
    return False


def judge_gpus(nodes: Sequence[ClusterNode], looks: Looks) -> Check:
    """Whether TensorFlow sees the GPUs that Ray gives out.

    Args:
        nodes: those with GPUs.
        looks: from each of them, the number that TensorFlow sees.
    """
    if not nodes:
        return Check(status="skipped", message="no GPU")
    unable = _unseen(looks)
    if unable:
        return Check(status="failed", message=unable)
    blind = [
        f"{node.name} has {node.gpus} for Ray, TensorFlow sees {looks[node.name]}"
        for node in nodes
        if looks[node.name] < node.gpus
    ]
    if blind:
        return Check(
            status="failed",
            message=f"{'; '.join(blind)}. Install requirements-gpu.lock there, and the driver (nvidia-smi shows it).",
        )
    total = sum(node.gpus for node in nodes)
    return Check(status="ok", message=f"TensorFlow sees all {total} on {_nodes(len(nodes))}")


def judge_all_reduce(found: Mapping[str, float] | str) -> Check:
    """What the workers' all-reduce came to.

    Args:
        found: workers, bytes_each and seconds; or why there was none.
    """
    if isinstance(found, str):
        return Check(
            status="failed",
            message=f"{found}. Check that the nodes reach each other on all ports, and with NCCL_DEBUG=INFO what NCCL "
            "says.",
        )
    return Check(
        status="ok",
        message=f"{found['bytes_each'] / 1e6:.0f} MB between {found['workers']} workers in {found['seconds']:.3f} s, "
        f"{bus_bandwidth(**found) / 1e9:.2f} GB/s of bus bandwidth",
    )


def bus_bandwidth(*, workers: float, bytes_each: float, seconds: float) -> float:
    """Bytes a second that each link must carry: a ring sends 2 (n - 1) / n of the bytes, whatever n is.

    Source: NVIDIA, nccl-tests, doc/PERFORMANCE.md.
    """
    return 2 * (workers - 1) / workers * bytes_each / seconds


def _unseen(looks: Looks) -> str:
    """Why looks gave no answer, nodes with the same reason together; empty if all did."""
    nodes_by_reason: dict[str, list[str]] = defaultdict(list)
    for node, seen in looks.items():
        if isinstance(seen, Unseen):
            nodes_by_reason[seen.reason].append(node)
    return "; ".join(f"{', '.join(nodes)}: {reason.rstrip('.')}" for reason, nodes in nodes_by_reason.items())


def _nodes(count: int) -> str:
    return "the only node" if count == 1 else f"all {count} nodes"
