"""Predict depth for photographs of any size."""

import sys
from collections import Counter
from typing import Any

from depthflow.cluster.session import plan_pool, ray_session
from depthflow.command import run_command
from depthflow.config import PredictConfig
from depthflow.inference.photographs import find_photographs
from depthflow.inference.predict import predict_photographs
from depthflow.inference.predictor import find_network, load_predictor
from depthflow.registry.versions import resolve_model


def main(config: PredictConfig) -> dict[str, Any]:
    """Writes a float32 .npy, a 16-bit PNG and a picture for each photograph; a broken one is reported."""
    paths = find_photographs(config.images)
    model = resolve_model(config.model)
    find_network(model.download())
    with ray_session(config.num_cpus):
        rows = predict_photographs(
            paths,
            load=lambda: load_predictor(model.download()),
            out=config.out,
            **vars(plan_pool(config.num_workers)),
        )
    refused = [row for row in rows if row["reason"]]
    for row in refused:
        print(f"{row['path']}: {row['reason']}: {row['message']}", file=sys.stderr)
    return {
        "model": model.uri,
        "images": len(rows) - len(refused),
        "rejects": len(refused),
        "rejects_by_reason": dict(Counter(row["reason"] for row in refused)),
        "outputs": [path for row in rows for path in row["outputs"]],
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
