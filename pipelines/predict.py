"""Predict depth for images of any size."""

import sys
from collections import Counter
from typing import Any

from depthflow.command import run_command
from depthflow.inference.config import PredictConfig
from depthflow.observability.logs import tell


def main(config: PredictConfig) -> dict[str, Any]:
    """Writes the requested files for each image that lacks them, and reports broken images."""
    from depthflow.cluster.session import ray_session
    from depthflow.inference.comparison import draw_comparisons
    from depthflow.inference.images import find_images
    from depthflow.inference.named_model import find_models
    from depthflow.inference.outputs import plan_outputs, without_predictions
    from depthflow.inference.predict import predict_images
    from depthflow.placement import cluster_capacity, plan_pool

    paths = without_predictions(find_images(config.images))
    models = find_models([config.model, *config.compare])
    outputs = plan_outputs(models, config)
    with ray_session(config.num_cpus):
        results = [
            predict_images(
                paths,
                load=model.load_tiled(config.tile_px),
                outputs=one,
                **vars(plan_pool(config.num_workers, **cluster_capacity())),
            )
            for model, one in zip(models, outputs, strict=True)
        ]
        comparisons = draw_comparisons(paths, outputs) if config.compare else []
    for row in (row for rows in results for row in rows if row["reason"]):
        tell(f"{row['path']}: {row['reason']}: {row['message']}", {"sample_id": row["path"], "reason": row["reason"]})
    rows = results[0]
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    cameras = Counter(row["camera"] or "unknown" for row in rows if not row["reason"] and not row["done_before"])
    return {
        "model": models[0].uri,
        "output": models[0].output,
        "images": len(rows) - reasons.total(),
        "done_before": sum(row["done_before"] for row in rows),
        "rejects": reasons.total(),
        "rejects_by_reason": dict(reasons),
        "cameras": dict(cameras),
        "outputs": [*(path for row in rows for path in row["outputs"]), *comparisons],
    }


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
