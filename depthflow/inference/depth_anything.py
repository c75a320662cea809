"""Depth Anything V2 (Yang et al. 2024, arXiv:2406.09414) as a predictor, resized as transformers' pipeline does it."""

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from depthflow.models.interface import Output
from depthflow.models.transformers_config import depth_anything_measures, is_metric, network_size
from depthflow.models.transformers_folder import DEPTH_ANYTHING_PREFIX, TransformersFolder, open_transformers

if TYPE_CHECKING:
    import keras

HUB = {"depth-anything-v2-small": "depth-anything/Depth-Anything-V2-Small-hf"}
"""Name to repository on Hugging Face. Only the small model's licence, Apache-2.0, allows every use."""
NETWORKS_KEPT = 4
"""Number of networks in memory, one per size of images: upright and wide ones of two aspect ratios, say."""


def is_depth_anything(model: str) -> bool:
    """Returns whether the name is that of a Depth Anything model."""
    return model in HUB or model.startswith(DEPTH_ANYTHING_PREFIX)


def open_depth_anything(model: str) -> TransformersFolder:
    """Opens a Depth Anything model, and downloads it first if it is on the hub and not in the cache.

    Args:
        model: A name in `HUB`, or `DEPTH_ANYTHING_PREFIX` followed by a folder or repository.

    Raises:
        WeightsError: if there is no such model, it cannot be downloaded, or it is damaged or another one.
    """
    folder = open_transformers(HUB.get(model, model.removeprefix(DEPTH_ANYTHING_PREFIX)))
    depth_anything_measures(folder)
    return folder


def output_of(folder: TransformersFolder) -> Output:
    """Returns what a model predicts."""
    return "metres" if is_metric(folder) else "relative inverse depth"


class DepthAnythingPredictor:
    """A Depth Anything model as a predictor, with a network per size of images.

    Args:
        folder: Model.

    Raises:
        WeightsError: if its tensors are not those of its configuration, with the first image.
    """

    def __init__(self, folder: TransformersFolder) -> None:
        self.output: Output = output_of(folder)
        self._folder = folder
        self._network = lru_cache(NETWORKS_KEPT)(self._build)

    def _build(self, height: int, width: int) -> "keras.Model":
        from depthflow.models.depth_anything import build_depth_anything  # Takes seconds.

        return build_depth_anything(self._folder, height=height, width=width)

    def __call__(self, rgb: np.ndarray, focal: np.ndarray | None = None) -> np.ndarray:
        """Predicts (B, H, W) float32, metres or relative inverse depth (0 at infinity), from (B, H, W, 3) uint8."""
        height, width = rgb.shape[1:3]
        rows, columns = network_size(self._folder, height=height, width=width)
        resized = [Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC) for image in rgb]
        depth = self._network(rows, columns).predict_on_batch(np.stack([*map(np.asarray, resized)]))[..., 0]
        maps = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in depth]
        # Bicubic interpolation undershoots zero next to points at infinity.
        return np.maximum(np.stack(maps), 0.0)
