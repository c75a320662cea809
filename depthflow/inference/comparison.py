"""Pictures of what several models make of the same photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray

from depthflow.errors import unwrapped
from depthflow.inference.formats import DRAWN_AS, shrunk
from depthflow.inference.photographs import read_photograph
from depthflow.inference.predict import Outputs, output_names
from depthflow.pictures.panels import DepthMap, draw_comparison
from depthflow.placement import cluster_room, plan_data

SUFFIX = "compare.png"


def draw_comparisons(paths: list[str], outputs: Sequence[Outputs]) -> list[str]:
    """Draws every photograph beside the maps that each model has left of it, on a running Ray.

    Args:
        paths: all photographs that were predicted, in the order they were; one that a model refused is left out.
        outputs: where each model's maps are; the pictures go to the first's folder. All must hold npy.

    Returns:
        The pictures' paths.
    """

    def draw(path: str, name: str) -> str:
        files = [one.files(name)[one.kinds.index("npy")] for one in outputs]
        if not all(Path(file).is_file() for file in files):
            return ""
        rgb = read_photograph(path)
        shrunken = [shrunk(rgb, np.load(file)) for file in files]
        maps = [
            DepthMap(title=one.model, depth_m=small, **DRAWN_AS[one.output])
            for one, (_, small) in zip(outputs, shrunken, strict=True)
        ]
        picture = Path(outputs[0].folder) / f"{name}.{SUFFIX}"
        scratch = picture.with_name(f".{picture.name}")
        draw_comparison(scratch, rgb=shrunken[0][0], maps=maps)
        scratch.rename(picture)
        return str(picture)

    where = plan_data(**cluster_room()).label_selector
    task = ray.remote(num_cpus=1, label_selector=dict(where))(draw)
    with unwrapped():
        drawn = ray.get([task.remote(path, name) for path, name in zip(paths, output_names(paths), strict=True)])
    return [picture for picture in drawn if picture]
