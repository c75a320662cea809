"""Depth Anything V2 (Yang et al. 2024, arXiv:2406.09414), by transformers' depth-estimation pipeline.

It needs the extra depth-anything, which is an environment of its own: PyTorch and tensorflow[and-cuda] want different
CUDA versions. Ray runs this module's processes there.
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from depthflow.errors import RegistryError
from depthflow.models.interface import Output

HUB = {"depth-anything-v2-small": "depth-anything/Depth-Anything-V2-Small-hf"}
"""Names to repositories of Hugging Face's hub; small is the one whose licence, Apache-2.0, allows every use."""
PREFIX = "depth-anything:"
"""Before a local folder, or a repository of the hub."""
PYTHON_VARIABLE = "DEPTHFLOW_DEPTH_ANYTHING_PYTHON"
PACKAGES = ("torch", "transformers")


def is_depth_anything(model: str) -> bool:
    """Whether a model's name is one of Depth Anything."""
    return model in HUB or model.startswith(PREFIX)


def location(model: str) -> str:
    """What transformers loads: an absolute folder or a repository of the hub.

    Raises:
        RegistryError: if a folder is named that is none of transformers'.
    """
    if model in HUB:
        return HUB[model]
    place = model.removeprefix(PREFIX)
    folder = Path(place).absolute()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RegistryError(
                f"The folder {folder} is no model of transformers: it has no config.json. "
                "Pass the folder that holds it."
            )
        return str(folder)
    if place.count("/") != 1 or place.startswith((".", "/")):
        known = ", ".join(HUB)
        raise RegistryError(f"There is no folder {folder}. Pass {PREFIX}FOLDER, {PREFIX}OWNER/NAME or {known}.")
    return place


def output_of(model: str) -> Output:
    """What a model predicts: metres if it was fine-tuned for them, as its config, or else its name, says."""
    place = location(model)
    config = Path(place) / "config.json"
    if config.is_file():
        kind = json.loads(config.read_text()).get("depth_estimation_type", "relative")
    else:
        kind = "metric" if "metric" in place.lower() else "relative"
    return "metres" if kind == "metric" else "relative inverse depth"


def python() -> str:
    """The interpreter that has PyTorch and transformers: this one, or that of the environment made for them.

    Raises:
        RegistryError: if there is none, with the command that makes it.
    """
    if all(find_spec(package) for package in PACKAGES):
        return sys.executable
    own = Path(sys.prefix).with_name(".venv-depth-anything") / "bin" / "python"
    chosen = os.environ.get(PYTHON_VARIABLE, str(own))
    if not Path(chosen).is_file():
        raise RegistryError(
            f"Depth Anything needs an environment of its own, and there is no {chosen}. Make it with `make "
            f"depth-anything`, or let {PYTHON_VARIABLE} name an interpreter with depthflow[depth-anything]."
        )
    return chosen


class DepthAnythingPredictor:
    """The pipeline as a predictor, on a GPU where there is one.

    Args:
        model: a name of `HUB`, or `PREFIX` and a folder or repository.
    """

    def __init__(self, model: str) -> None:
        import torch  # pyright: ignore[reportMissingImports] - of the extra
        from transformers import pipeline  # pyright: ignore[reportMissingImports]

        self.output: Output = output_of(model)
        device = 0 if torch.cuda.is_available() else "cpu"
        self._pipeline = pipeline("depth-estimation", model=location(model), device=device)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, H, W) float32: metres, or relative inverse depth, which is 0 at infinity."""
        from PIL import Image

        results = self._pipeline([Image.fromarray(image) for image in rgb], batch_size=len(rgb))
        maps = [np.asarray(result["predicted_depth"], np.float32) for result in results]
        # The pipeline enlarges by bicubic interpolation, which falls below zero beside what is infinitely far.
        return np.maximum(np.stack(maps).reshape(rgb.shape[:3]), 0.0)
