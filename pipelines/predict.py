"""Predict depth for images of any size."""

import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from depthflow.command import run_command
from depthflow.errors import RegistryError
from depthflow.inference.config import PredictConfig
from depthflow.inference.formats import FORMATS
from depthflow.observability.logs import tell

if TYPE_CHECKING:
    from depthflow.inference.named_model import NamedModel
    from depthflow.inference.predict import Outputs
    from depthflow.models.interface import LoadPredictor


def main(config: PredictConfig) -> dict[str, Any]:
    """Writes the requested files for each image that lacks them, and reports broken images."""
    from depthflow.cluster.session import ray_session
    from depthflow.inference.comparison import draw_comparisons
    from depthflow.inference.named_model import find_models
    from depthflow.inference.photographs import find_photographs
    from depthflow.inference.predict import predict_photographs
    from depthflow.placement import cluster_capacity, plan_pool

    paths = find_photographs(config.images)
    models = find_models([config.model, *config.compare])
    outputs = [_outputs(model, config, is_first=model is models[0]) for model in models]
    with ray_session(config.num_cpus):
        results = [
            predict_photographs(
                paths,
                load=_loader(model, config),
                outputs=one,
                python=model.python,
                **vars(plan_pool(config.num_workers, **cluster_capacity())),
            )
            for model, one in zip(models, outputs, strict=True)
        ]
        pictures = draw_comparisons(paths, outputs) if config.compare else []
    rows = results[0]
    refused = [row for row in rows if row["reason"]]
    for row in (row for result in results for row in result if row["reason"]):
        tell(f"{row['path']}: {row['reason']}: {row['message']}", {"sample_id": row["path"], "reason": row["reason"]})
    return {
        "model": models[0].uri,
        "images": len(rows) - len(refused),
        "done_before": sum(row["done_before"] for row in rows),
        "rejects": len(refused),
        "rejects_by_reason": dict(Counter(row["reason"] for row in refused)),
        "outputs": [*(path for row in rows for path in row["outputs"]), *pictures],
    }


def _outputs(model: "NamedModel", config: PredictConfig, *, is_first: bool) -> "Outputs":
    """Returns what a model writes for each image, and where.

    Raises:
        RegistryError: if a model without metres would have to write metres.
    """
    from depthflow.inference.predict import Outputs
    from depthflow.inference.writers import Lens
    from depthflow.storage.files import open_output
    from depthflow.storage.location import absolute

    if model.output != "metres" and (config.point_cloud or config.tile_px) and is_first:
        raise RegistryError(
            f"{model.uri} predicts {model.output}: without metres, no --point-cloud and no --tile-px. Leave them out."
        )
    kinds: tuple[str, ...] = config.files if is_first else ("npy",)
    if config.compare and "npy" not in kinds:
        kinds = (*kinds, "npy")
    if config.point_cloud and is_first:
        kinds = (*kinds, "ply")
    unwritable = [kind for kind in kinds if model.output not in FORMATS[kind].endings]
    if unwritable:
        able = [kind for kind, found in FORMATS.items() if model.output in found.endings]
        raise RegistryError(
            f"{model.uri} predicts {model.output}, which no {unwritable[0]} holds. Pass --files {' '.join(able)}, or "
            f"some of them. Received: {' '.join(config.files)}"
        )
    open_output(config.out)
    out, own = absolute(config.out), re.sub(r"[^\w.-]+", "-", model.uri)
    return Outputs(
        folder=out if is_first else f"{out}/{own}",
        kinds=kinds,
        model=model.uri,
        output=model.output,
        lens=Lens(fx_px=config.fx, fy_px=config.fy, fov_deg=config.fov_deg) if "ply" in kinds else None,
        settings={"tile_px": config.tile_px},
    )


def _loader(model: "NamedModel", config: PredictConfig) -> "LoadPredictor":
    from depthflow.inference.tiles import TiledPredictor

    tile_px = config.tile_px
    if tile_px is None or model.output != "metres":
        return model.load
    return lambda: TiledPredictor(model.load(), tile_px=tile_px)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
