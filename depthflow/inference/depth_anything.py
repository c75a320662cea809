"""Depth Anything V2 (Yang et al. 2024, arXiv:2406.09414), through transformers' depth-estimation pipeline.

It needs the extra depth-anything in a separate environment, because PyTorch and tensorflow[and-cuda] require different
CUDA versions. Ray starts the processes that use it with that environment's interpreter.
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
"""Name to repository on Hugging Face. Only the small model's licence, Apache-2.0, allows every use."""
PREFIX = "depth-anything:"
"""Precedes a local folder or a repository on Hugging Face."""
PYTHON_VARIABLE = "DEPTHFLOW_DEPTH_ANYTHING_PYTHON"
PACKAGES = ("torch", "transformers")


def is_depth_anything(model: str) -> bool:
    """Returns whether the name is that of a Depth Anything model."""
    return model in HUB or model.startswith(PREFIX)


def location(model: str) -> str:
    """Returns what transformers loads: an absolute folder or a repository on Hugging Face.

    Raises:
        RegistryError: if the folder does not exist or is not a transformers model.
    """
    if model in HUB:
        return HUB[model]
    place = model.removeprefix(PREFIX)
    folder = Path(place).absolute()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RegistryError(
                f"The folder {folder} is not a transformers model: it has no config.json. Pass the folder that has it."
            )
        return str(folder)
    if place.count("/") != 1 or place.startswith((".", "/")):
        known = ", ".join(HUB)
        raise RegistryError(f"There is no folder {folder}. Pass {PREFIX}FOLDER, {PREFIX}OWNER/NAME or {known}.")
    return place


def output_of(model: str) -> Output:
    """Returns what a model predicts: metres if its config, or without one its name, says that it was fine-tuned to."""
    place = location(model)
    config = Path(place) / "config.json"
    if config.is_file():
        kind = json.loads(config.read_text()).get("depth_estimation_type", "relative")
    else:
        kind = "metric" if "metric" in place.lower() else "relative"
    return "metres" if kind == "metric" else "relative inverse depth"


def python() -> str:
    """Returns an interpreter with PyTorch and transformers: this one, or that of their own environment.

    Raises:
        RegistryError: if there is none, with the command that creates it.
    """
    if all(find_spec(package) for package in PACKAGES):
        return sys.executable
    own = Path(sys.prefix).with_name(".venv-depth-anything") / "bin" / "python"
    chosen = os.environ.get(PYTHON_VARIABLE, str(own))
    if not Path(chosen).is_file():
        raise RegistryError(
            f"Depth Anything needs an environment of its own, and there is no {chosen}. Create it with `make "
            f"depth-anything`, or set {PYTHON_VARIABLE} to an interpreter with depthflow[depth-anything]."
        )
    return chosen


class DepthAnythingPredictor:
    """The pipeline as a predictor, on a GPU if there is one.

    Args:
        model: A name in `HUB`, or `PREFIX` followed by a folder or repository.
    """

    def __init__(self, model: str) -> None:
        import torch  # pyright: ignore[reportMissingImports]
        from transformers import pipeline  # pyright: ignore[reportMissingImports]

        self.output: Output = output_of(model)
        device = 0 if torch.cuda.is_available() else "cpu"
        self._pipeline = pipeline("depth-estimation", model=location(model), device=device)

    def __call__(self, rgb: np.ndarray, focal: np.ndarray | None = None) -> np.ndarray:
        """Predicts (B, H, W) float32, metres or relative inverse depth (0 at infinity), from (B, H, W, 3) uint8."""
        from PIL import Image

        results = self._pipeline([Image.fromarray(image) for image in rgb], batch_size=len(rgb))
        maps = [np.asarray(result["predicted_depth"], np.float32) for result in results]
        # The pipeline's bicubic interpolation undershoots zero next to points at infinity.
        return np.maximum(np.stack(maps).reshape(rgb.shape[:3]), 0.0)
