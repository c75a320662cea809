"""Depth predictors: uint8 images of any size to depth at that size, in metres or up to a factor."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import yaml

from depthflow.errors import RegistryError
from depthflow.inference.tiles import Tiling
from depthflow.models.canonical_camera import CAMERA, ModelCamera
from depthflow.models.interface import Output, Predictor, file_sha256, saved_output
from depthflow.store.write.planes import resize_rgb

if TYPE_CHECKING:
    import keras


WIDER = 0.97
"""A lens counts as wider than those in training if its focal length is less than this fraction of theirs..."""
LEAST_SEEN = 0.25
"""...and is then predicted in tiles of no less than this fraction of the image's sides, so that they stay few."""


class Network(Protocol):
    """What a predictor needs of a network; a `keras.Model` has it."""

    @property
    def input_shape(self) -> Any:
        """(None, h, w, 3)."""
        ...

    def predict_on_batch(self, rgb: Any, /) -> Any:
        """Maps uint8 (B, h, w, 3) to log-depth (B, h, w, 1)."""
        ...


class NetworkPredictor:
    """A fixed-size log-depth network as a predictor for any size.

    Images are area-averaged to the network's size, as training samples are. The predicted log-depth is resized
    bilinearly to the image's size and then converted to metres. A lens wider than any in training shows more of a scene
    than the network has ever seen at once; its images are predicted in tiles that show as much as the widest one. If
    the network's scale is unknown, these are metres up to one factor; a canonical camera is applied alike, so the
    factor is the same for images of all lenses.

    Args:
        network: Maps uint8 (B, h, w, 3) to log-depth (B, h, w, 1).
        camera: Whether that is the canonical camera's, and the lens of images whose own is unknown.
        output: metres, or relative depth if the network's scale is unknown.
    """

    def __init__(self, network: Network, camera: ModelCamera | None = None, output: Output = "metres") -> None:
        self.network, self._camera = network, camera or ModelCamera()
        self.output: Output = output
        self._height, self._width = network.input_shape[1:3]

    @classmethod
    def load(cls, path: str, camera: ModelCamera | None = None, output: Output = "metres") -> "NetworkPredictor":
        """Loads a .keras file without custom objects and without pickle.

        Raises:
            RegistryError: if it is damaged, needs code of its own, or is not a depth network.
        """
        import keras  # Takes seconds.

        try:
            network = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras lets through whatever zipfile, h5py and a layer's constructor raise.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RegistryError(
                f"The network {path} cannot be loaded: {reason} Restore it, or train a new version."
            ) from None
        if not isinstance(network, keras.Model) or not _is_depth_network(network):
            raise RegistryError(
                f"{path} is not a depth network, which maps uint8 (B, H, W, 3) of one size to (B, H, W, 1). Train one "
                "with train.py."
            )
        return cls(network, camera, output)

    def __call__(self, rgb: np.ndarray, focal: np.ndarray | None = None) -> np.ndarray:
        """Predicts (B, H, W) float32 depth from (B, H, W, 3) uint8 and, if known, (B,) relative focal lengths."""
        if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"Images must be uint8 (B, H, W, 3). Received: {rgb.dtype} {rgb.shape}")
        if focal is None or self._camera.least_focal is None:
            return self._camera.metres(self._log_depth(rgb), focal)
        depth = np.empty(rgb.shape[:3], np.float32)
        is_wide = np.asarray(focal) < WIDER * self._camera.least_focal
        if not is_wide.all():
            depth[~is_wide] = self._camera.metres(self._log_depth(rgb[~is_wide]), focal[~is_wide])
        for k in np.flatnonzero(is_wide):
            depth[k] = self._wide(rgb[k], focal=float(focal[k]), seen=float(focal[k]) / self._camera.least_focal)
        return depth

    def _wide(self, rgb: np.ndarray, *, focal: float, seen: float) -> np.ndarray:
        """Predicts an image of a lens wider than any in training, from tiles that show what such a lens would.

        Args:
            rgb: (H, W, 3) uint8.
            focal: Relative focal length of the image.
            seen: Height and width of a tile as a fraction of the image's.
        """
        height, width = rgb.shape[:2]
        seen = max(seen, LEAST_SEEN)
        tile = max(1, round(seen * height)), max(1, round(seen * width))
        tiling = Tiling((height, width), tile)
        log_depth = tiling.blended(self._log_depth(np.stack([rgb[place] for place in tiling.places])))
        of_tile = focal * np.sqrt(height * width / (tile[0] * tile[1]))
        return self._camera.metres(log_depth[None], np.array([of_tile]))[0]

    def _log_depth(self, rgb: np.ndarray) -> np.ndarray:
        """Returns the network's output at the size of the images, (B, H, W) float32."""
        height, width = rgb.shape[1:3]
        small = np.stack([resize_rgb(image, height=self._height, width=self._width) for image in rgb])
        log_depth = self.network.predict_on_batch(small)[..., 0].astype(np.float32)
        return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in log_depth])


class ConstantPredictor:
    """The mean-depth baseline, which predicts the same depth everywhere.

    Args:
        depth_m: Metres; any number if the output is relative.
        output: What it predicts.
    """

    def __init__(self, depth_m: float, output: Output = "metres") -> None:
        self._depth_m = depth_m
        self.output: Output = output

    def __call__(self, rgb: np.ndarray, focal: np.ndarray | None = None) -> np.ndarray:
        """Predicts (B, H, W) float32 metres from (B, H, W, 3)."""
        return np.full(rgb.shape[:3], self._depth_m, np.float32)


def load_predictor(model_folder: str, *, sha256: str | None = None) -> Predictor:
    """Loads the predictor of a packaged model.

    Args:
        model_folder: Local folder with the model's MLmodel file.
        sha256: Checksum that its network must have; None for a model that states none.

    Raises:
        RegistryError: if the folder is not a depthflow model, or its network is damaged or another one.
    """
    network = find_network(model_folder, sha256=sha256)
    return NetworkPredictor.load(network.path, network.camera, network.output)


@dataclass(frozen=True, kw_only=True)
class PackagedNetwork:
    """The network of a packaged model: the path of its .keras file, its camera, and what it predicts."""

    path: str
    camera: ModelCamera
    output: Output


def find_network(model_folder: str, *, sha256: str | None = None) -> PackagedNetwork:
    """Finds the network inside a packaged model.

    Args:
        sha256: Checksum that it must have; None for a model that states none.

    Raises:
        RegistryError: if the folder is not a depthflow model, or holds another network, or pickled code, which is not
            loaded here but would be run by whatever serves the folder.
    """
    networks = sorted(Path(model_folder).rglob("*.keras"))
    if not (Path(model_folder) / "MLmodel").is_file() or len(networks) != 1:
        raise RegistryError(
            f"{model_folder} is not a depthflow model: it needs an MLmodel file and one .keras file. "
            "Pass the folder of a registered model, or models:/NAME@ALIAS."
        )
    pickled = next(Path(model_folder).rglob("*.pkl"), None)
    if pickled is not None:
        raise RegistryError(
            f"{pickled} is a pickle, which runs code when it is loaded, and a depthflow model has none. Pass the "
            "folder of a model that train.py registered."
        )
    check_network(networks[0], sha256=sha256)
    return _packaged(str(networks[0]), Path(model_folder) / "MLmodel")


def _packaged(network: str, mlmodel: Path) -> PackagedNetwork:
    """Adds to a network what the model configuration says that MLflow keeps in a packaged model's MLmodel file."""
    try:
        config = yaml.safe_load(mlmodel.read_text())["flavors"]["python_function"].get("config") or {}
        camera = ModelCamera.from_json(config.get(CAMERA) or {})
        return PackagedNetwork(path=network, camera=camera, output=saved_output(config))
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise RegistryError(
            f"{mlmodel} is not a depthflow model's: {error}. Restore it, or train a new version."
        ) from None


def check_network(path: Path, *, sha256: str | None) -> None:
    """Checks that a network is the one that was registered.

    Raises:
        RegistryError: if its checksum is not `sha256`, unless that is None.
    """
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise RegistryError(
            f"{path} is not the network that was registered: its SHA-256 is {found}, and the registry says {sha256}. "
            "Restore the artifact, or train a new version."
        )


def _is_depth_network(network: "keras.Model") -> bool:
    inputs, outputs = network.input_shape, network.output_shape
    sizes = inputs[1:3] if isinstance(inputs, tuple) and len(inputs) == 4 and inputs[3] == 3 else (None,)
    return None not in sizes and isinstance(outputs, tuple) and outputs[1:] == (*sizes, 1)
