"""Request nodes from the autoscaler ahead of a job, so that doctor.py sees them; without flags, cancel the request.

On AWS: ray submit cluster.yaml deploy/nodes.py -- --data 1 --train 2
"""

import ray
import tyro
from ray.autoscaler.sdk import request_resources


def main(data: int = 0, train: int = 0) -> None:
    """Requests nodes, which stay until the request is cancelled.

    Args:
        data: Number of CPU nodes.
        train: Number of GPU nodes.
    """
    ray.init(address="auto", logging_level="WARNING")
    # One bundle per node, with more than half of its CPUs, so that no two bundles fit on one node.
    bundles = [{"CPU": 10}] * data + [{"CPU": 30, "GPU": 1}] * train
    roles = ["data"] * data + ["train"] * train
    request_resources(bundles=bundles, bundle_label_selectors=[{"depthflow.io/role": role} for role in roles])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
