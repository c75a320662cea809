"""depthflow: from DIODE archives to a depth model in production, on Ray, Keras 3 and MLflow.

Programs that use the library import what they need from here. The public names of the other modules serve the commands
and are documented as well.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthflow.errors import DepthflowError
    from depthflow.evaluation.protocols import PROTOCOLS, Protocol
    from depthflow.inference.predictor import load_predictor
    from depthflow.metrics import image_metrics, mean_over_images
    from depthflow.models.losses import Loss
    from depthflow.models.network import build_network
    from depthflow.recipe import Recipe
    from depthflow.recipes import RECIPES
    from depthflow.store.read.reader import SplitReader
    from depthflow.store.store import SampleStore, open_store
    from depthflow.store.write.planes import make_planes

__version__ = "0.1.0"

# OpenCV reads this limit when it is first imported; by default it decodes images of 2^30 pixels, into 3 GB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
__all__ = [
    "PROTOCOLS",
    "RECIPES",
    "DepthflowError",
    "Loss",
    "Protocol",
    "Recipe",
    "SampleStore",
    "SplitReader",
    "build_network",
    "image_metrics",
    "load_predictor",
    "make_planes",
    "mean_over_images",
    "open_store",
]

_HOMES = {
    "PROTOCOLS": "evaluation.protocols",
    "RECIPES": "recipes",
    "DepthflowError": "errors",
    "Loss": "models.losses",
    "Protocol": "evaluation.protocols",
    "Recipe": "recipe",
    "SampleStore": "store.store",
    "SplitReader": "store.read.reader",
    "build_network": "models.network",
    "image_metrics": "metrics",
    "load_predictor": "inference.predictor",
    "make_planes": "store.write.planes",
    "mean_over_images": "metrics",
    "open_store": "store.store",
}


def __getattr__(name: str) -> Any:
    """Imports a name's module on first use: Keras takes seconds, and few programs need all names."""
    if name not in _HOMES:
        raise AttributeError(f"module 'depthflow' has no attribute {name!r}")
    return getattr(import_module(f"depthflow.{_HOMES[name]}"), name)
