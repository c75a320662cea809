"""Depth predictors: uint8 images of any size to metres at that size."""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depthflow.errors import RegistryError
from depthflow.models.interface import Output, Predictor
from depthflow.store.write.planes import resize_rgb

if TYPE_CHECKING:
    import keras


class NetworkPredictor:
    """A fixed-size log-depth network as a predictor for any size.

    Images are area-averaged to the network's size, as training samples are. The predicted log-depth is resized
    bilinearly to the image's size and then converted to metres.

    Args:
        network: Maps uint8 (B, h, w, 3) to log-depth (B, h, w, 1).
    """

    output: Output = "metres"

    def __init__(self, network: "keras.Model") -> None:
        self._network = network
        self._height, self._width = network.input_shape[1:3]

    @classmethod
    def load(cls, path: str) -> "NetworkPredictor":
        """Loads a .keras file without custom objects."""
        import keras  # Takes seconds.

        network = keras.saving.load_model(path, compile=False, safe_mode=True)
        assert isinstance(network, keras.Model)
        return cls(network)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Predicts (B, H, W) float32 metres from (B, H, W, 3) uint8."""
        if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"Images must be uint8 (B, H, W, 3). Received: {rgb.dtype} {rgb.shape}")
        height, width = rgb.shape[1:3]
        small = np.stack([resize_rgb(image, height=self._height, width=self._width) for image in rgb])
        log_depth = self._network.predict_on_batch(small)[..., 0].astype(np.float32)
        resized = [cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in log_depth]
        return np.exp(np.stack(resized))


class ConstantPredictor:
    """The mean-depth baseline, which predicts the same depth everywhere.

    Args:
        depth_m: Metres.
    """

    output: Output = "metres"

    def __init__(self, depth_m: float) -> None:
        self._depth_m = depth_m

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Predicts (B, H, W) float32 metres from (B, H, W, 3)."""
        return np.full(rgb.shape[:3], self._depth_m, np.float32)


def load_predictor(model_folder: str) -> Predictor:
    """Loads the predictor of a packaged model.

    Args:
        model_folder: Local folder with the model's MLmodel file.

    Raises:
        RegistryError: if the folder is not a depthflow model.
    """
    return NetworkPredictor.load(find_network(model_folder))


def find_network(model_folder: str) -> str:
    """Returns the path of the network inside a packaged model.

    Raises:
        RegistryError: if the folder is not a depthflow model.
    """
    networks = sorted(Path(model_folder).rglob("*.keras"))
    if not (Path(model_folder) / "MLmodel").is_file() or len(networks) != 1:
        raise RegistryError(
            f"{model_folder} is not a depthflow model: it needs an MLmodel file and one .keras file. "
            "Pass the folder of a registered model, or models:/NAME@ALIAS."
        )
    return str(networks[0])
