"""Pictures of what several models make of the same photographs."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import ray

from depthflow.errors import unwrapped
from depthflow.inference.formats import DRAWN_AS, shrunk
from depthflow.inference.outputs import Outputs, output_names
from depthflow.inference.photographs import read_photograph
from depthflow.placement import cluster_capacity, plan_data
from depthflow.reports.panels import DepthMap, draw_comparison
from depthflow.storage.files import open_files

SUFFIX = "compare.png"


def draw_comparisons(paths: list[str], outputs: Sequence[Outputs]) -> list[str]:
    """Draws every photograph beside the maps that each model has left of it, on a running Ray.

    Args:
        paths: all photographs that were predicted, in the order they were; one that a model refused is left out.
        outputs: where each model's maps are; the pictures go to the first's folder. All must hold npy.

    Returns:
        The pictures' paths or URIs.
    """

    def draw(path: str, name: str) -> str:
        folders = [open_files(one.folder) for one in outputs]
        files = [one.files(name)[one.kinds.index("npy")] for one in outputs]
        if not all(folder.exists(file) for folder, file in zip(folders, files, strict=True)):
            return ""
        rgb = read_photograph(path)
        depths = (np.load(BytesIO(folder.read(file))) for folder, file in zip(folders, files, strict=True))
        shrunken = [shrunk(rgb, depth) for depth in depths]
        maps = [
            DepthMap(title=one.model, depth_m=small, **DRAWN_AS[one.output])
            for one, (_, small) in zip(outputs, shrunken, strict=True)
        ]
        picture = f"{name}.{SUFFIX}"
        with TemporaryDirectory() as scratch:
            draw_comparison(Path(scratch, picture), rgb=shrunken[0][0], maps=maps)
            with folders[0].commit(picture, durable=False) as committed:
                committed.write(Path(scratch, picture).read_bytes())
        return f"{outputs[0].folder}/{picture}"

    where = plan_data(**cluster_capacity()).label_selector
    task = ray.remote(num_cpus=1, label_selector=dict(where))(draw)
    with unwrapped():
        drawn = ray.get([task.remote(path, name) for path, name in zip(paths, output_names(paths), strict=True)])
    return [picture for picture in drawn if picture]
