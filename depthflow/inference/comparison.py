"""Plots that compare several models' predictions for the same images."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import ray

from depthflow.errors import unwrapped
from depthflow.inference.formats import DRAWN_AS, shrunk
from depthflow.inference.images import read_image
from depthflow.inference.outputs import COMPARISON, Outputs, output_names
from depthflow.placement import cluster_capacity, plan_data
from depthflow.reports.panels import DepthMap, draw_comparison
from depthflow.storage.files import open_files


def draw_comparisons(paths: list[str], outputs: Sequence[Outputs]) -> list[str]:
    """Draws every image beside the map that each model left of it, on a running Ray.

    Args:
        paths: All images, in the order in which they were predicted. Images that a model rejected are left out.
        outputs: Where each model's maps are, as npy. The plots go to the first model's folder.

    Returns:
        The plots' paths or URIs.
    """

    def draw(path: str, name: str) -> str:
        if not all(one.is_done(path, name) for one in outputs):
            return ""
        folders = [open_files(one.folder) for one in outputs]
        files = [one.files(name)[one.kinds.index("npy")] for one in outputs]
        rgb = read_image(path)
        depths = (np.load(BytesIO(folder.read(file))) for folder, file in zip(folders, files, strict=True))
        shrunken = [shrunk(rgb, depth) for depth in depths]
        maps = [
            DepthMap(title=one.model, depth_m=small, valid_mask=np.isfinite(small), **DRAWN_AS[one.output])
            for one, (_, small) in zip(outputs, shrunken, strict=True)
        ]
        plot = f"{name}.{COMPARISON}"
        with TemporaryDirectory() as scratch:
            draw_comparison(Path(scratch, plot), rgb=shrunken[0][0], maps=maps)
            with folders[0].commit(plot, durable=False) as committed:
                committed.write(Path(scratch, plot).read_bytes())
        return f"{outputs[0].folder}/{plot}"

    selector = plan_data(**cluster_capacity()).label_selector
    task = ray.remote(num_cpus=1, label_selector=dict(selector))(draw)
    with unwrapped():
        drawn = ray.get([task.remote(path, name) for path, name in zip(paths, output_names(paths), strict=True)])
    return [plot for plot in drawn if plot]
