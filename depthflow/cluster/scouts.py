"""A process on every node that looks at things from there, on all nodes at once, each look with its time limit."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from depthflow.errors import unwrapped

LOOKS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """A look that gave no answer.

    Attributes:
        reason: the error, or that it took too long.
    """

    reason: str


Looks = Mapping[str, Any]
"""What was seen, by the node it was seen from; an `Unseen` where a look gave no answer."""


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """An alive node.

    Attributes:
        name: for people; unlike any other's.
        node_id: Ray's.
        address: its IP address.
        cpus: that Ray gives out there.
        gpus: the same.
    """

    name: str
    node_id: str
    address: str
    cpus: int
    gpus: int


def cluster_nodes() -> list[ClusterNode]:
    """The alive nodes of the running Ray."""
    return named_nodes([node for node in ray.nodes() if node["Alive"]])


def named_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[ClusterNode]:
    """Nodes as `ray.nodes` tells of them, each called by its address, and by its id besides where two share one."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return [
        ClusterNode(
            name=address if addresses.count(address) == 1 else f"{address}/{node['NodeID'][:6]}",
            node_id=node["NodeID"],
            address=address,
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node, address in zip(nodes, addresses, strict=True)
    ]


class Scout:
    """The process on a node. A look that hangs holds up no other."""

    def look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns here."""
        with unwrapped():
            return function(*arguments)


class Scouts:
    """One on each node; they reserve nothing, so that a cluster that is at work is looked at, too.

    Args:
        nodes: where.
        timeout_s: how long one look may take.
    """

    def __init__(self, nodes: Sequence[ClusterNode], *, timeout_s: float) -> None:
        self.nodes = tuple(nodes)
        self._timeout_s = timeout_s
        scout: Any = ray.remote(Scout)
        self._scouts = {
            node.name: scout.options(
                num_cpus=0,
                max_concurrency=LOOKS_AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            ).remote()
            for node in nodes
        }

    def start(
        self, function: Callable[..., Any], *arguments: Any, on: Sequence[ClusterNode] | None = None
    ) -> Callable[[], dict[str, Any]]:
        """Looks from every node, or from some; returns what waits for the answers."""
        names = [node.name for node in (self.nodes if on is None else on)]
        answers = {name: self._scouts[name].look.remote(function, *arguments) for name in names}

        def wait() -> dict[str, Any]:
            ray.wait(list(answers.values()), num_returns=len(answers), timeout=self._timeout_s) if answers else None
            return {name: self._answer(answer) for name, answer in answers.items()}

        return wait

    def look(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Looks from every node and waits."""
        return self.start(function, *arguments)()

    def _answer(self, answer: Any) -> Any:
        try:
            with unwrapped():
                return ray.get(answer, timeout=0)
        except GetTimeoutError:
            return Unseen(reason=f"no answer within {self._timeout_s:g} s")
        except Exception as error:  # Whatever a look raises is what was found.
            cause = getattr(error, "cause", None) or error
            return Unseen(reason=str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__)

    def dismiss(self) -> None:
        """Ends the processes, and what may still hang in them."""
        for scout in self._scouts.values():
            with suppress(Exception):
                ray.kill(scout)
